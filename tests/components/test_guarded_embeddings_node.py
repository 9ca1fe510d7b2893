"""The nodes that hand out guarded embeddings, with their source executed afresh for every run as Langflow does it."""

import asyncio
import copy
import threading
import time
import warnings
from pathlib import Path

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from langflow_sluice.errors import InvalidInput, UpstreamUnavailable
from langflow_sluice.models.vector_cache import vector_cache
from langflow_sluice.simulator import embed
from langflow_sluice.testing import isolated_guards, settle

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langchain_openai import OpenAIEmbeddings
    from lfx.base.embeddings.embeddings_class import EmbeddingsWithModels
    from lfx.components.embeddings.text_embedder import TextEmbedderComponent
    from lfx.components.langchain_utilities.fake_embeddings import FakeEmbeddingsComponent
    from lfx.custom.eval import eval_custom_component_code
    from lfx.schema.message import Message

COMPONENTS = Path(__file__).parents[2] / "components" / "sluice"
DEADLINE_S = 60.0
QUESTION = "Who keeps the lighthouse?"


def executed(file):
    """The class that a node's source makes when it is executed once more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Langflow imports what the source names, and more
        return eval_custom_component_code((COMPONENTS / file).read_text("utf-8"))


@pytest.fixture(autouse=True)
def of_its_own():
    with isolated_guards() as guards:
        yield guards
    vector_cache().clear()


@pytest.fixture(autouse=True)
def _short_vectors(provider):
    provider.configure(dimensions=16)


@pytest.fixture
def openai(provider):
    """Embeddings as a run of a flow makes them: another object each time."""

    def make(**changes):
        options = {"model": "sim-embedding", "api_key": "sk-canary", "base_url": provider.base_url}
        return OpenAIEmbeddings(**{**options, "check_embedding_ctx_length": False, **changes})

    return make


def node(embedding, **inputs):
    return executed("guarded_embeddings.py")(_id="guarded-1", embedding=embedding, **inputs)


def build(embedding, **inputs):
    return node(embedding, **inputs).build_embeddings()


def near(text):
    return pytest.approx(list(embed(text, 16)), abs=1e-6)


async def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await settle()


async def test_two_executions_of_the_source_share_the_guard_and_the_cache(provider, openai):
    one, other = build(openai()), build(openai())
    assert type(one) is type(other)
    assert one.protection.guard is other.protection.guard
    assert copy.deepcopy({"embedding": one})["embedding"] is one
    assert await one.aembed_query(QUESTION) == await asyncio.to_thread(other.embed_query, QUESTION) == near(QUESTION)
    assert (await asyncio.to_thread(provider.stats)).requests == {"embeddings": 1}


async def test_both_nodes_stand_behind_one_guard_where_service_and_key_are_the_same(provider, openai):
    rate_limited = executed("rate_limited_embeddings.py")(
        _id="limited-1", api_key="sk-canary", base_url=provider.base_url
    )
    guarded, other = build(openai(), max_concurrency=2), build(openai(api_key="sk-other"))
    assert rate_limited.build_embeddings().protection.guard is guarded.protection.guard
    assert other.protection.guard is not guarded.protection.guard
    assert "sk-canary" not in guarded.protection.guard.name


@pytest.mark.parametrize("file", ["guarded_embeddings.py", "rate_limited_embeddings.py"])
async def test_fifty_runs_with_one_question_on_two_loops_and_threads_send_one_request(provider, openai, file):
    provider.configure(fault="hang")
    sources = {
        "guarded_embeddings.py": lambda: {"embedding": openai()},
        "rate_limited_embeddings.py": lambda: {
            "model_name": "sim-embedding",
            "api_key": "sk-canary",
            "base_url": provider.base_url,
        },
    }
    kind = executed(file), executed(file)
    models = [kind[number % 2](_id="node-1", **sources[file]()).build_embeddings() for number in range(50)]
    found = []

    async def ask(models):
        return await asyncio.gather(*(model.aembed_query(QUESTION) for model in models))

    threads = [threading.Thread(target=lambda: found.extend(asyncio.run(ask(models[:20]))))]
    threads += [threading.Thread(target=lambda m=m: found.append(m.embed_query(QUESTION))) for m in models[20:30]]
    for thread in threads:
        thread.start()
    here = asyncio.ensure_future(ask(models[30:]))
    await until(lambda: vector_cache().statistics().shared == 49)
    await asyncio.to_thread(provider.configure, fault="ok")
    found += await here
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert found == [near(QUESTION)] * 50
    assert (await asyncio.to_thread(provider.stats)).requests == {"embeddings": 1}


async def test_the_sdk_does_not_retry_and_the_guard_does_not_more_than_it_is_told(provider, openai):
    provider.configure(fault="status:500")
    with pytest.raises(UpstreamUnavailable):
        await build(openai(max_retries=5), max_retries=0).aembed_query(QUESTION)
    assert (await asyncio.to_thread(provider.stats)).requests == {"embeddings": 1}


async def test_documents_are_sent_in_batches_of_the_size_set(provider, openai):
    texts = [f"Text number {number}" for number in range(10)]
    model = build(openai(), batch_size=4, max_concurrency=1)
    assert await model.aembed_documents(texts) == [near(text) for text in texts]
    stats = await asyncio.to_thread(provider.stats)
    assert (stats.requests, stats.max_in_flight) == ({"embeddings": 3}, {"embeddings": 1})


async def test_with_a_time_to_live_of_zero_each_question_is_sent(provider, openai):
    model = build(openai(), cache_ttl=0)
    for _ in range(2):
        await model.aembed_query(QUESTION)
    assert (await asyncio.to_thread(provider.stats)).requests == {"embeddings": 2}


async def test_embeddings_that_call_no_service_have_a_guard_of_the_nodes_own():
    stock = FakeEmbeddingsComponent(_id="fake-1", dimensions=7)
    one, other = build(stock.build_embeddings()), build(stock.build_embeddings())
    assert one.protection.guard is other.protection.guard
    assert "guarded-1" in one.protection.guard.name
    # Random numbers, and yet the same: they are kept.
    assert await one.aembed_query(QUESTION) == await other.aembed_query(QUESTION)
    assert len(await one.aembed_query(QUESTION)) == 7


def test_the_models_of_langflows_wrapper_are_guarded_each_and_found_by_their_names(provider, openai):
    first, second = openai(), openai(model="other", dimensions=8)
    wrapped = EmbeddingsWithModels(first, {"sim-embedding": first, "other": second})
    model = build(wrapped)
    assert model.available_models["sim-embedding"] is model
    assert model.available_models["other"].protection.guard is model.protection.guard
    assert model.embed_query(QUESTION) == near(QUESTION)
    assert len(model.available_models["other"].embed_query(QUESTION)) == 8
    assert (model.model, model.available_models["other"].model) == ("sim-embedding", "other")
    assert provider.stats().requests == {"embeddings": 2}
    assert model.protection.guard.statistics().admitted == 2


def test_stock_nodes_and_stores_take_what_the_node_hands_out(provider, openai):
    from langchain_qdrant import QdrantVectorStore

    model = build(openai())
    stock = TextEmbedderComponent(_id="stock-1", embedding_model=model, message=Message(text=QUESTION))
    assert stock.generate_embeddings().data["embeddings"] == near(QUESTION)
    store = QdrantVectorStore.from_texts(["a lighthouse", "a pump"], model, location=":memory:")
    try:
        [found] = store.similarity_search("the lighthouse", k=1)
    finally:
        store.client.close()
    assert found.page_content == "a lighthouse"
    assert model.protection.guard.statistics().admitted == provider.stats().requests["embeddings"]


def test_the_status_tells_of_the_guard_and_of_the_cache_and_not_of_the_key(provider, openai):
    model = build(openai())
    for _ in range(3):
        model.embed_query("canary question")
    after = node(openai())
    after.build_embeddings()
    assert "Cache of vectors: 2 hits, 0 shared a request, 1 embedded, 1 kept" in after.status
    assert "in flight" in after.status
    assert "canary" not in after.status
    limited = executed("rate_limited_embeddings.py")(_id="limited-1", api_key="sk-canary", base_url=provider.base_url)
    limited.build_embeddings()
    assert "2 hits" in limited.status
    assert "canary" not in limited.status


@pytest.mark.parametrize("connected", [None, "", {"vectorize": True}, object()])
def test_what_is_no_embeddings_is_refused_by_name(connected):
    with pytest.raises(InvalidInput, match="embedding is"):
        build(connected)


@pytest.mark.parametrize("setting", ["batch_size", "cache_ttl", "max_retries", "total_timeout"])
def test_a_wrong_setting_is_refused_by_name(setting):
    with pytest.raises(InvalidInput, match=f"{setting} is"):
        build(DeterministicFakeEmbedding(size=3), **{setting: -1})


def test_embeddings_that_are_guarded_already_are_refused(openai):
    with pytest.raises(InvalidInput, match="already"):
        build(build(openai()))
