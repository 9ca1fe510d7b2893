"""Embeddings behind a guard, over the simulated provider."""

import asyncio
import copy
import threading
import time
import warnings

import pytest

from langflow_sluice.errors import (
    InvalidInput,
    UpstreamError,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamUnavailable,
)
from langflow_sluice.guard import Guard, GuardSettings, retry
from langflow_sluice.guard.retry import CallPolicy
from langflow_sluice.http_clients import client_cache
from langflow_sluice.models.openai_compatible import Upstream, embeddings
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
