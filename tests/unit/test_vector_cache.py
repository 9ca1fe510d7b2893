"""What makes vectors interchangeable, and how they are kept."""

import enum
import struct

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_openai import OpenAIEmbeddings
from pydantic import PrivateAttr, SecretStr

from langflow_sluice.models.vector_cache import VectorSpace, identity_of, key_of, vector_cache, vector_cache_of
from langflow_sluice.single_flight import Ask

ASK = Ask("space", 60.0)
OPENAI = {"model": "m", "api_key": SecretStr("sk-canary"), "base_url": "http://127.0.0.1/v1"}


class Mode(enum.Enum):
    ONE = 1
    OTHER = 2


class Plain(Embeddings):
    def __init__(self, **parameters):
        self.__dict__.update(parameters)

    def embed_documents(self, texts):
        raise NotImplementedError

    def embed_query(self, text):
        raise NotImplementedError


class Private(DeterministicFakeEmbedding):
    _prefix: str = PrivateAttr("query: ")


def kept(cache, vector):
    return cache.get_many_blocking(ASK, ["one"], lambda _: [vector])[0]


@pytest.mark.parametrize(
    ("vector", "size"),
    [
        ([0.5, -0.0, struct.unpack("f", struct.pack("f", 0.1))[0]], 4),
        ([0.1, 0.2, 0.3], 8),
        ([1e300, -1e-300, 5e-324], 8),
        ([1, 2, 3], 4),
    ],
)
def test_a_vector_comes_back_with_identical_numbers_in_as_few_bytes_as_they_take(vector, size):
    cache = vector_cache_of()
    assert [kept(cache, vector), kept(cache, None)] == [vector] * 2
    assert [str(number) for number in kept(cache, None)] == [str(float(number)) for number in vector]
    [entry] = cache._kept._entries.values()
    assert entry.value.itemsize == size
    assert cache.statistics().size_bytes == entry.size >= 3 * size


def test_a_vector_of_numpy_numbers_is_kept_too():
    numpy = pytest.importorskip("numpy")
    assert kept(vector_cache_of(), numpy.array([0.1, 0.2])) == [0.1, 0.2]


def test_a_key_tells_texts_and_purposes_apart_and_not_the_text():
    keys = {key_of(text, purpose) for text in ("canary", "other", "\ud800") for purpose in ("query", "document")}
    assert len(keys) == 6
    assert "canary" not in repr(keys)


def test_the_process_has_one_cache():
    assert VectorSpace("a", 1.0).cache is VectorSpace("b", 2.0).cache is vector_cache()


@pytest.mark.parametrize(
    "make",
    [
        lambda: OpenAIEmbeddings(**OPENAI),
        lambda: DeterministicFakeEmbedding(size=3),
        lambda: Plain(model="m", mode=Mode.ONE, options={"b": [1, (2.5, None)], "a": {"x", "y"}}, kind=str),
        lambda: Plain(_client=object(), async_client=object(), inner=DeterministicFakeEmbedding(size=3)),
        lambda: Private(size=3),
    ],
)
def test_embeddings_made_alike_are_interchangeable(make):
    assert identity_of(make()) == identity_of(make())
    assert "canary" not in str(identity_of(make()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (OpenAIEmbeddings(**OPENAI), OpenAIEmbeddings(**{**OPENAI, "model": "n"})),
        (OpenAIEmbeddings(**OPENAI), OpenAIEmbeddings(**{**OPENAI, "api_key": SecretStr("sk-other")})),
        (OpenAIEmbeddings(**OPENAI), OpenAIEmbeddings(**OPENAI, dimensions=8)),
        (OpenAIEmbeddings(**OPENAI), OpenAIEmbeddings(**OPENAI, model_kwargs={"user": "u"})),
        (Plain(mode=Mode.ONE), Plain(mode=Mode.OTHER)),
        (Plain(size="1"), Plain(size=1)),
        (DeterministicFakeEmbedding(size=3), Private(size=3)),
    ],
)
def test_embeddings_that_differ_in_anything_are_not(one, other):
    assert identity_of(one) != identity_of(other)


def test_a_private_parameter_counts():
    other = Private(size=3)
    other._prefix = "passage: "
    assert identity_of(other) != identity_of(Private(size=3))


def test_embeddings_that_cannot_be_compared_are_like_no_other_not_even_made_alike():
    class OfANodesSource(DeterministicFakeEmbedding):
        pass

    one = Plain(function=len)
    assert identity_of(one) != identity_of(one)
    assert identity_of(OfANodesSource(size=3)) != identity_of(OfANodesSource(size=3))
