"""Embeddings behind a guard, over the simulated provider."""

import asyncio
import copy
import math
import threading
import time
import warnings

import pytest
from langchain_core.embeddings import Embeddings

from langflow_sluice.errors import (
    DeadlineExceeded,
    InvalidInput,
    UpstreamError,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamUnavailable,
)
from langflow_sluice.guard import Guard, GuardSettings, retry
from langflow_sluice.guard.retry import CallPolicy
from langflow_sluice.http_clients import client_cache
from langflow_sluice.models import guarded_embeddings
from langflow_sluice.models.guarded_embeddings import MAX_TEXTS, GuardedEmbeddings
from langflow_sluice.models.openai_compatible import Upstream, embeddings
from langflow_sluice.models.protection import Protection
from langflow_sluice.models.vector_cache import VectorSpace, vector_cache, vector_cache_of
from langflow_sluice.simulator import ProviderSettings, embed, serve_in_thread
from langflow_sluice.testing import ManualClock, settle

DEADLINE_S = 30.0
TEXTS = [f"Text number {number} about sluices." for number in range(25)]


@pytest.fixture(autouse=True)
def reachable(monkeypatch):
    monkeypatch.setenv("LANGFLOW_SSRF_ALLOWED_HOSTS", "127.0.0.1,localhost")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lfx warns of its own code when its settings load
        from lfx.services.deps import get_settings_service

        get_settings_service()


@pytest.fixture(autouse=True)
def nothing_kept():
    yield
    vector_cache().clear()


@pytest.fixture
def provider():
    with serve_in_thread(ProviderSettings(service_s=0.0, dimensions=16)) as control:
        yield control
        client_cache().close()


def guard_of(*, clock=None, **limits):
    return Guard("test", GuardSettings(**limits), *([clock] if clock else []))


def embeddings_of(provider, guard, policy=None, **options):
    upstream = Upstream(provider.base_url, "canary-key")
    options = {"model_name": "sim-embedding", "batch_size": 4, **options}
    return embeddings(upstream, guard, policy or CallPolicy(max_retries=0), **options)


async def seen(provider, condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition(stats := await asyncio.to_thread(provider.stats)):
        assert time.monotonic() < deadline, stats
    return stats


def expected(texts, dimensions=16):
    return [pytest.approx(list(embed(text, dimensions)), abs=1e-6) for text in texts]


async def test_batches_keep_the_order_and_never_exceed_the_cap(provider):
    provider.configure(embedding_service_s=0.02)
    guard = guard_of(max_concurrency=3)
    vectors = await embeddings_of(provider, guard).aembed_documents(TEXTS)
    assert vectors == expected(TEXTS)
    stats = provider.stats()
    assert stats.requests == {"embeddings": 7}
    assert stats.max_in_flight == {"embeddings": 3}
    assert (guard.statistics().admitted, guard.statistics().in_flight) == (7, 0)


async def test_a_guard_without_a_cap_still_has_batches_side_by_side_up_to_a_bound(provider):
    provider.configure(embedding_service_s=0.05)
    await embeddings_of(provider, guard_of(max_concurrency=0), batch_size=1).aembed_documents(TEXTS)
    assert 1 < provider.stats().max_in_flight["embeddings"] <= 16


def test_synchronous_calls_from_threads_give_the_same_and_share_the_cap(provider):
    provider.configure(embedding_service_s=0.02)
    guard = guard_of(max_concurrency=2)
    model = embeddings_of(provider, guard)
    found = {}

    def work(name):
        found[name] = model.embed_documents(TEXTS)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(vectors == expected(TEXTS) for vectors in found.values())
    assert len(found) == 4
    assert provider.stats().max_in_flight == {"embeddings": 2}
    assert guard.statistics().admitted == 28


async def test_a_query_is_one_guarded_request(provider):
    guard = guard_of(max_concurrency=1)
    model = embeddings_of(provider, guard, dimensions=8)
    assert [await model.aembed_query("sluice")] == expected(["sluice"], 8)
    assert [await asyncio.to_thread(model.embed_query, "sluice")] == expected(["sluice"], 8)
    assert guard.statistics().admitted == provider.stats().requests["embeddings"] == 2


async def test_nothing_to_embed_is_no_request(provider):
    model = embeddings_of(provider, guard_of())
    assert await model.aembed_documents([]) == model.embed_documents([]) == []
    assert provider.stats().requests == {}


@pytest.mark.parametrize(
    ("fault", "meaning"),
    [
        ("status:400", UpstreamRefused),
        ("status:401", UpstreamRefused),
        ("status:429", UpstreamThrottled),
        ("status:500", UpstreamUnavailable),
        ("reset", UpstreamUnavailable),
        ("garbage", UpstreamError),
    ],
)
async def test_errors_are_translated(provider, fault, meaning):
    provider.configure(fault=fault, retry_after_s=0.001)
    ways = {
        "aembed_documents": lambda model: model.aembed_documents(["canary text"]),
        "embed_documents": lambda model: asyncio.to_thread(model.embed_documents, ["canary text"]),
    }
    for call in ways.values():
        guard = guard_of()
        with pytest.raises(UpstreamError) as caught:
            await call(embeddings_of(provider, guard))
        assert type(caught.value) is meaning
        assert "canary" not in str(caught.value)
        assert guard.statistics().in_flight == 0


async def test_a_batch_that_fails_ends_the_others_and_leaves_nothing_behind(provider):
    provider.configure(fault="hang")
    guard = guard_of(max_concurrency=3, queue_timeout_s=0)
    model = embeddings_of(provider, guard, batch_size=1)
    async with asyncio.timeout(DEADLINE_S):
        task = asyncio.ensure_future(model.aembed_documents(TEXTS))
        await seen(provider, lambda stats: stats.in_flight == {"embeddings": 3})
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle()
        assert (guard.statistics().in_flight, guard.statistics().waiting["normal"]) == (0, 0)
        await seen(provider, lambda stats: stats.disconnects == 3)


async def test_a_batch_that_failed_is_sent_again_and_the_others_are_not(provider, monkeypatch):
    monkeypatch.setattr(retry, "BACKOFF_BASE_S", 0.0)
    provider.configure(embedding_slots=0, retry_after_s=None)
    guard = guard_of(max_concurrency=1)
    model = embeddings_of(provider, guard, CallPolicy(max_retries=1))
    diagnose = model.protection.diagnose

    def recover(error):
        provider.configure(embedding_slots=10)
        return diagnose(error)

    model.protection.diagnose = recover
    assert await model.aembed_documents(TEXTS) == expected(TEXTS)
    assert provider.stats().answered == {429: 1, 200: 7}
    assert (model.protection.tally.calls, model.protection.tally.retries) == (7, 1)


async def test_tokens_are_reserved_by_the_length_of_the_texts(provider):
    clock = ManualClock()
    guard = guard_of(clock=clock, tokens_per_minute=60, max_concurrency=1)
    model = embeddings_of(provider, guard, batch_size=1)
    await model.aembed_query("x" * 160)
    task = asyncio.ensure_future(model.aembed_documents(["y" * 160]))
    await clock.advance(19)
    assert guard.statistics().waiting["normal"] == 1
    await clock.advance(2)
    assert await task == expected(["y" * 160])
    with pytest.raises(InvalidInput, match="tokens_per_minute"):
        await model.aembed_query("z" * 4 * 61)


def test_a_deep_copy_is_the_same_object(provider):
    model = embeddings_of(provider, guard_of())
    assert copy.deepcopy({"embedding": model})["embedding"] is model


@pytest.mark.parametrize(("options", "field"), [({"batch_size": 0}, "batch_size"), ({"model_name": ""}, "model_name")])
def test_a_wrong_setting_is_refused_by_name(provider, options, field):
    with pytest.raises(InvalidInput, match=f"{field} is"):
        embeddings_of(provider, guard_of(), **options)


def test_a_proxy_variable_of_the_sdk_does_not_end_up_in_an_error(provider, monkeypatch):
    monkeypatch.setenv("OPENAI_PROXY", "http://user:canary-password@127.0.0.1:1")
    assert embeddings_of(provider, guard_of()).embed_documents(TEXTS) == expected(TEXTS)


# Batches


async def test_a_batch_holds_no_more_tokens_than_the_provider_takes_and_a_longer_text_goes_alone(provider, monkeypatch):
    monkeypatch.setattr(guarded_embeddings, "MAX_TOKENS", 10)
    texts = [f"{letter} " * (2 * tokens) for letter, tokens in zip("abcdef", (4, 4, 4, 25, 10, 1), strict=True)]
    model = embeddings_of(provider, guard_of(), batch_size=256)
    assert await model.aembed_documents(texts) == expected(texts)
    assert await asyncio.to_thread(model.embed_documents, texts) == expected(texts)
    assert [len(batch) for batch in model._batches(texts)] == [2, 1, 1, 1, 1]
    assert provider.stats().requests == {"embeddings": 10}


async def test_a_batch_holds_no_more_tokens_than_the_guard_admits_in_a_minute(provider):
    guard = guard_of(clock=ManualClock(), tokens_per_minute=100)
    texts = [letter * 160 for letter in "abcde"]
    assert [len(batch) for batch in embeddings_of(provider, guard, batch_size=256)._batches(texts)] == [2, 2, 1]


def test_no_batch_is_larger_than_the_provider_takes_whatever_the_setting(provider):
    assert embeddings_of(provider, guard_of(), batch_size=5000).batch_size == MAX_TEXTS == 2048


async def test_equal_texts_of_one_call_are_sent_once_and_each_place_has_a_vector_of_its_own(provider):
    model = embeddings_of(provider, guard_of(), batch_size=2)
    texts = ["a", "b", "a", "a", "b"]
    for vectors in (await model.aembed_documents(texts), await asyncio.to_thread(model.embed_documents, texts)):
        assert vectors == expected(texts)
        assert len({id(vector) for vector in vectors}) == 5
    assert provider.stats().requests == {"embeddings": 2}


class Short(Embeddings):
    """Embeddings of a service that leaves a vector out."""

    def embed_documents(self, texts):
        return [[1.0]] * (len(texts) - 1)

    def embed_query(self, text):
        raise NotImplementedError


async def test_vectors_that_cannot_be_matched_with_their_texts_are_an_error():
    model = GuardedEmbeddings(Short(), Protection(guard_of(), CallPolicy(), lambda _: None), 2)
    for call in (model.aembed_documents, lambda texts: asyncio.to_thread(model.embed_documents, texts)):
        with pytest.raises(UpstreamError, match="sent 1 vectors for 2 texts"):
            await call(["a", "b", "c", "d"])


# The cache


def cached(provider, guard=None, **options):
    return embeddings_of(provider, guard or guard_of(), **{"cache_ttl_s": 60.0, **options})


async def test_a_question_is_sent_once_within_its_time_and_answered_with_the_same_numbers(provider):
    model = cached(provider)
    first = await model.aembed_query("sluice")
    kept = list(first)
    first[0] = math.inf
    assert await model.aembed_query("sluice") == kept
    assert await asyncio.to_thread(model.embed_query, "sluice") == kept == expected(["sluice"])[0]
    assert provider.stats().requests == {"embeddings": 1}


async def test_without_a_time_to_live_each_question_is_sent(provider):
    model = cached(provider, cache_ttl_s=0)
    for _ in range(2):
        await model.aembed_query("sluice")
    assert provider.stats().requests == {"embeddings": 2}


@pytest.mark.parametrize(
    "other", [{"model_name": "other"}, {"dimensions": 8}, {"key": "other-key"}, {"base_url": "http://localhost"}]
)
async def test_another_model_length_key_or_service_has_vectors_of_its_own(provider, other):
    await cached(provider).aembed_query("sluice")
    key, base_url = other.pop("key", "canary-key"), other.pop("base_url", "http://127.0.0.1")
    upstream = Upstream(provider.base_url.replace("http://127.0.0.1", base_url), key)
    options = {"model_name": "sim-embedding", "cache_ttl_s": 60.0, **other}
    await embeddings(upstream, guard_of(), CallPolicy(), **options).aembed_query("sluice")
    assert provider.stats().requests == {"embeddings": 2}


async def test_a_question_and_a_document_of_the_same_text_are_not_taken_for_each_other(provider):
    model = cached(provider)
    await model.aembed_query("sluice")
    await model.aembed_documents(["sluice"])
    assert provider.stats().requests == {"embeddings": 2}


async def test_of_a_small_call_only_the_texts_that_are_not_kept_are_sent(provider):
    model = cached(provider, batch_size=4)
    await model.aembed_documents(TEXTS[:2])
    wanted = [TEXTS[3], TEXTS[0], TEXTS[2], TEXTS[1]]
    assert await asyncio.to_thread(model.embed_documents, wanted) == expected(wanted)
    assert await model.aembed_documents(wanted) == expected(wanted)
    stats = provider.stats()
    assert stats.requests == {"embeddings": 2}
    assert vector_cache().statistics().misses == 4


async def test_an_ingestion_of_more_than_one_batch_passes_the_cache_by(provider):
    model = cached(provider, batch_size=4)
    assert await model.aembed_documents(TEXTS) == expected(TEXTS)
    assert vector_cache().statistics().entries == vector_cache().statistics().misses == 0


async def test_documents_in_small_calls_push_no_question_out(provider):
    model = cached(provider, batch_size=4)
    model.space = VectorSpace("space", 60.0, vector_cache_of(max_vectors=10))
    for text in TEXTS[:8]:
        await model.aembed_query(text)
    for start in range(0, len(TEXTS), 4):
        await model.aembed_documents(TEXTS[start : start + 4])
    provider.reset()
    for text in TEXTS[:8]:
        await model.aembed_query(text)
    assert provider.stats().requests == {}
    assert model.space.cache.statistics().entries == 10


async def test_nothing_of_a_text_is_kept(provider):
    await cached(provider).aembed_query("canary text")
    kept = repr(list(vector_cache()._kept._entries)) + repr(vector_cache()._kept._spaces)
    assert "canary" not in kept
    assert "sim-embedding" in kept


async def test_fifty_equal_questions_on_two_loops_and_threads_are_one_request(provider):
    provider.configure(fault="hang")
    guard = guard_of(max_concurrency=8)
    models = [cached(provider, guard) for _ in range(50)]
    found = []
    other_loop = threading.Thread(target=lambda: found.extend(asyncio.run(_all(models[:20]))))
    threads = [threading.Thread(target=lambda m=m: found.append(m.embed_query("sluice"))) for m in models[20:30]]
    for thread in (other_loop, *threads):
        thread.start()
    here = asyncio.ensure_future(_all(models[30:]))
    await _until(lambda: vector_cache().statistics().shared == 49)
    await seen(provider, lambda stats: stats.in_flight == {"embeddings": 1})
    await asyncio.to_thread(provider.configure, fault="ok")
    found += await here
    for thread in (other_loop, *threads):
        await asyncio.to_thread(thread.join)
    assert found == expected(["sluice"]) * 50
    assert (await asyncio.to_thread(provider.stats)).requests == {"embeddings": 1}
    assert guard.statistics().admitted == 1


async def _all(models):
    return await asyncio.gather(*(model.aembed_query("sluice") for model in models))


async def _until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await settle()


async def test_where_whoever_has_sent_a_question_leaves_another_one_sends_it(provider):
    provider.configure(fault="hang")
    model = cached(provider)
    leader = asyncio.ensure_future(model.aembed_query("sluice"))
    await seen(provider, lambda stats: stats.in_flight == {"embeddings": 1})
    follower = asyncio.ensure_future(model.aembed_query("sluice"))
    await settle()
    leader.cancel()
    await seen(provider, lambda stats: stats.disconnects == 1 and stats.requests == {"embeddings": 2})
    await asyncio.to_thread(provider.configure, fault="ok")
    assert await follower == expected(["sluice"])[0]
    with pytest.raises(asyncio.CancelledError):
        await leader


async def test_who_shares_a_request_has_a_deadline_of_its_own(provider):
    provider.configure(fault="hang")
    clock = ManualClock()
    guard = guard_of(clock=clock)
    model = cached(provider, guard, policy=CallPolicy(total_timeout_s=10))
    model.space = VectorSpace("space", 60.0, vector_cache_of(clock=clock))
    first = asyncio.ensure_future(model.space.cache.get_many(model._ask(spare=False), [_key("sluice")], _never_ending))
    await settle()
    follower = asyncio.ensure_future(model.aembed_query("sluice"))
    await clock.advance(9.9)
    assert not follower.done()
    await clock.advance(0.1)
    with pytest.raises(DeadlineExceeded, match=r"within 10 s \(total_timeout\)"):
        await follower
    first.cancel()


async def _never_ending(_):
    await asyncio.get_running_loop().create_future()


def _key(text):
    return guarded_embeddings.key_of(text, "query")


async def test_who_takes_over_has_what_is_left_of_its_time(provider):
    clock = ManualClock()
    guard = guard_of(clock=clock, max_concurrency=1)
    model = cached(provider, guard, policy=CallPolicy(total_timeout_s=10))
    model.space = VectorSpace("space", 60.0, vector_cache_of(clock=clock))
    leader = asyncio.ensure_future(model.space.cache.get_many(model._ask(spare=False), [_key("sluice")], _never_ending))
    await settle()
    follower = asyncio.ensure_future(model.aembed_query("sluice"))
    await clock.advance(6)
    async with guard.slot():
        leader.cancel()
        await settle()
        assert guard.statistics().waiting["normal"] == 1
        await clock.advance(3.9)
        assert not follower.done()
        await clock.advance(0.1)
        with pytest.raises(DeadlineExceeded):
            await follower
    assert (await asyncio.to_thread(provider.stats)).requests == {}


async def test_an_error_is_shared_and_the_next_question_is_sent_again(provider):
    provider.configure(fault="status:500")
    guard = guard_of(max_concurrency=1)
    model = cached(provider, guard)
    async with guard.slot():
        asked = [asyncio.ensure_future(model.aembed_query("canary question")) for _ in range(3)]
        await settle()
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(error) for error in errors] == [UpstreamUnavailable] * 3
    assert len({id(error) for error in errors}) == 3
    assert not any("canary" in str(error) for error in errors)
    await asyncio.to_thread(provider.configure, fault="ok")
    assert await model.aembed_query("canary question") == expected(["canary question"])[0]
    assert (await asyncio.to_thread(provider.stats)).requests == {"embeddings": 2}


@pytest.mark.parametrize("ttl", [-1, math.inf, math.nan, True, "soon"])
def test_a_time_to_live_that_is_none_is_refused_by_name(provider, ttl):
    with pytest.raises(InvalidInput, match="cache_ttl is"):
        cached(provider, cache_ttl_s=ttl)


def test_embeddings_behind_a_guard_are_not_put_behind_another(provider):
    model = embeddings_of(provider, guard_of())
    with pytest.raises(InvalidInput, match="'test' already"):
        GuardedEmbeddings(model, model.protection, 4)


def test_vector_stores_can_read_the_models_name(provider):
    model = embeddings_of(provider, guard_of(), dimensions=8)
    assert (model.model, model.deployment, model.dimensions) == ("sim-embedding", "text-embedding-ada-002", 8)
    assert getattr(model, "model_id", None) is None
    assert not hasattr(model, "embed_image")
