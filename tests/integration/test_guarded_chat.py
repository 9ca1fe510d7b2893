"""Chat models behind a guard, over the simulated provider: one permit a request, however LangChain makes it."""

import asyncio
import contextlib
import copy
import gc
import threading
import time
import warnings

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from pydantic import BaseModel

from langflow_sluice.errors import (
    DeadlineExceeded,
    InvalidInput,
    UpstreamError,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from langflow_sluice.guard import Guard, GuardSettings, retry
from langflow_sluice.guard.retry import CallPolicy
from langflow_sluice.http_clients import HttpTimeouts, client_cache
from langflow_sluice.models.guarded_chat import guarded
from langflow_sluice.models.openai_compatible import Upstream, chat_model
from langflow_sluice.models.protection import Protection
from langflow_sluice.simulator import Answer, ProviderSettings, fingerprint, serve_in_thread
from langflow_sluice.testing import ManualClock, settle

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langchain_openai import ChatOpenAI

DEADLINE_S = 30.0
KEY = "canary-key"
ONCE = CallPolicy(max_retries=0)
HOURS = 3600.0


pytestmark = pytest.mark.usefixtures("reachable")


def guard_of(*, clock=None, **limits):
    return Guard("test", GuardSettings(**limits), *([clock] if clock else []))


def model_of(provider, guard, policy=ONCE, *, base_url=None, timeouts=None, **options):
    upstream = Upstream(base_url or provider.base_url, KEY, timeouts or HttpTimeouts())
    return chat_model(upstream, guard, policy, model_name="sim-chat", **options)


async def seen(provider, condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition(stats := await asyncio.to_thread(provider.stats)):
        assert time.monotonic() < deadline, stats
    return stats


async def drain(stream):
    return [chunk async for chunk in stream]


async def read(model, text):
    return await drain(model.astream(text))


async def free(guard):
    """Waits until all permits have come back; a generator that is dropped is closed some turns later."""
    await settle()
    statistics = guard.statistics()
    assert (statistics.in_flight, sum(statistics.waiting.values())) == (0, 0)


def test_the_guarded_model_is_a_chat_openai_and_the_original_stays_as_it_was(provider):
    inner = ChatOpenAI(model="sim-chat", api_key=KEY, base_url=provider.base_url)
    guard = guard_of()
    model = guarded(inner, Protection(guard, ONCE, lambda _: None))
    assert isinstance(model, ChatOpenAI)
    assert type(model).__name__ == "ChatOpenAI"
    assert type(inner) is ChatOpenAI
    assert model.model_dump() == inner.model_dump()
    model.invoke("one")
    assert guard.statistics().admitted == 1
    inner.invoke("two")
    assert guard.statistics().admitted == 1
    inner.root_client.close()


def test_a_deep_copy_is_the_model_itself_and_a_model_copy_keeps_the_guard(provider):
    guard = guard_of()
    model = model_of(provider, guard)
    assert copy.deepcopy({"tools": [model]})["tools"][0] is model
    assert copy.deepcopy(model._protection) is copy.copy(model._protection) is model._protection
    other = model.model_copy(update={"temperature": 0.5})
    assert (other.temperature, model.temperature) == (0.5, None)
    other.invoke("hello")
    copy.copy(model).invoke("hello")
    assert guard.statistics().admitted == 2


async def test_the_credential_is_in_no_repr(provider):
    model = model_of(provider, guard_of())
    assert KEY not in repr((model, model._protection, model._protection.guard, Upstream("", KEY)))


def test_a_model_is_guarded_once(provider):
    guard = guard_of()
    with pytest.raises(InvalidInput, match="behind guard 'test' already"):
        guarded(model_of(provider, guard), Protection(guard_of(), ONCE, lambda _: None))


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_call_takes_one_permit_also_if_the_model_streams_inside(provider, streaming):
    guard = guard_of(max_concurrency=1)
    model = model_of(provider, guard, streaming=streaming)
    async with asyncio.timeout(DEADLINE_S):
        answer = await model.ainvoke("hello")
        generated = await model.agenerate([[HumanMessage("hello")]])
    assert answer.content == generated.generations[0][0].text == "Answer to: hello"
    assert guard.statistics().admitted == 2
    assert provider.stats().requests == {"chat": 2}


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_batch_is_never_wider_than_the_guard_and_sends_each_row_once(provider, streaming):
    provider.configure(service_s=0.02)
    guard = guard_of(max_concurrency=4)
    answers = await model_of(provider, guard, streaming=streaming).abatch([f"row {number}" for number in range(30)])
    assert [answer.content for answer in answers] == [f"Answer to: row {number}" for number in range(30)]
    stats = await seen(provider, lambda stats: len(stats.calls) == 30)
    assert stats.max_in_flight == {"chat": 4}
    assert stats.connections_opened <= 4
    assert stats.subjects() == {fingerprint(f"row {number}"): 1 for number in range(30)}
    assert guard.statistics().peak_in_flight == 4


async def test_two_models_on_one_guard_share_its_limit(provider):
    provider.configure(service_s=0.02)
    guard = guard_of(max_concurrency=3)
    models = [model_of(provider, guard), model_of(provider, guard, temperature=0.3)]
    await asyncio.gather(*(model.abatch(["x"] * 6) for model in models))
    assert provider.stats().max_in_flight == {"chat": 3}


async def test_a_stream_comes_piece_by_piece_and_gives_its_slot_back_at_its_end(provider):
    guard = guard_of(max_concurrency=1)
    model = model_of(provider, guard)
    held = []
    pieces = []
    async for chunk in model.astream("one two three"):
        held.append(guard.statistics().in_flight)
        pieces.append(chunk.content)
    assert "".join(pieces) == "Answer to: one two three"
    assert len([piece for piece in pieces if piece]) > 3
    assert held[0] == 1
    await free(guard)
    assert provider.stats().disconnects == 0


async def test_a_stream_that_is_closed_early_gives_its_slot_back_and_the_provider_sees_the_client_leave(provider):
    provider.configure(service_s=HOURS)
    guard = guard_of(max_concurrency=1)
    stream = model_of(provider, guard).astream("a long story")
    await anext(stream)
    assert guard.statistics().in_flight == 1
    await stream.aclose()
    await free(guard)
    stats = await seen(provider, lambda stats: stats.disconnects == 1)
    assert stats.in_flight == {}


async def test_a_stream_that_is_dropped_gives_its_slot_back(provider):
    provider.configure(service_s=HOURS)
    guard = guard_of(max_concurrency=1)
    stream = model_of(provider, guard).astream("a long story")
    await anext(stream)
    del stream
    gc.collect()
    await free(guard)
    await seen(provider, lambda stats: stats.disconnects == 1)


@pytest.mark.parametrize("method", ["astream", "ainvoke", "streaming ainvoke"])
async def test_cancelling_the_task_gives_the_slot_back_and_the_provider_sees_the_client_leave(provider, method):
    provider.configure(service_s=HOURS)
    guard = guard_of(max_concurrency=1)
    model = model_of(provider, guard, streaming=method.startswith("streaming"))

    call = read(model, "a long story") if method == "astream" else model.ainvoke("a long story")
    task = asyncio.ensure_future(call)
    await seen(provider, lambda stats: stats.in_flight == {"chat": 1})
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await free(guard)
    await seen(provider, lambda stats: stats.disconnects == 1)


async def test_cancelling_a_task_that_waits_for_its_turn_sends_nothing(provider):
    guard = guard_of(max_concurrency=1)
    model = model_of(provider, guard)
    async with guard.slot():
        task = asyncio.ensure_future(model.ainvoke("never sent"))
        await settle()
        assert guard.statistics().waiting["normal"] == 1
        task.cancel()
        await settle()
    await free(guard)
    assert provider.stats().requests == {}


def test_synchronous_calls_from_threads_share_the_limit(provider):
    provider.configure(service_s=0.02)
    guard = guard_of(max_concurrency=2)
    model = model_of(provider, guard)
    threads = [threading.Thread(target=model.invoke, args=(f"row {number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.content for answer in model.batch(["a", "b", "c"])] == [f"Answer to: {name}" for name in "abc"]
    assert "".join(chunk.content for chunk in model.stream("one two")) == "Answer to: one two"
    stats = provider.stats()
    assert stats.max_in_flight == {"chat": 2}
    assert stats.requests == {"chat": 10}
    assert (guard.statistics().in_flight, guard.statistics().admitted) == (0, 10)


def test_a_synchronous_stream_that_is_closed_early_gives_its_slot_back(provider):
    provider.configure(service_s=HOURS)
    guard = guard_of(max_concurrency=1)
    stream = model_of(provider, guard).stream("a long story")
    next(stream)
    assert guard.statistics().in_flight == 1
    stream.close()
    assert guard.statistics().in_flight == 0
    asyncio.run(seen(provider, lambda stats: stats.disconnects == 1))


def test_one_model_serves_event_loops_one_after_the_other(provider):
    guard = guard_of(max_concurrency=1)
    model = model_of(provider, guard)
    for name in "abc":
        assert asyncio.run(model.ainvoke(name)).content == f"Answer to: {name}"
    stats = asyncio.run(seen(provider, lambda stats: len(stats.calls) == 3))
    assert set(stats.subjects().values()) == {1}


@tool
def search(query: str) -> str:
    """Searches."""
    return query


class Verdict(BaseModel):
    """A verdict."""

    reason: str
    score: int


async def test_bound_tools_and_structured_output_keep_the_guard(provider):
    guard = guard_of(max_concurrency=1)
    model = model_of(provider, guard)
    answer = await model.bind_tools([search]).ainvoke("sluice gates")
    assert answer.tool_calls[0]["args"] == {"query": "sluice gates"}
    for method in ("function_calling", "json_schema"):
        verdict = await model.with_structured_output(Verdict, method=method).ainvoke("judge")
        assert isinstance(verdict, Verdict)
    chunks = [chunk async for chunk in model.bind_tools([search]).astream("sluice gates")]
    assert any(chunk.tool_call_chunks for chunk in chunks)
    assert guard.statistics().admitted == provider.stats().requests["chat"] == 4
    await free(guard)


async def test_tokens_are_reserved_before_the_call_and_settled_by_the_usage_reported(provider):
    guard = guard_of(clock=ManualClock(), tokens_per_minute=1000)
    model = model_of(provider, guard, max_tokens=900)
    # Time stands still: a reservation that were not settled would make the next call wait for ever.
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(3):
            await model.ainvoke("hello")
            await model.agenerate([[HumanMessage("hello")]])
            assert [chunk async for chunk in model.astream("hello")]
            await asyncio.to_thread(model.invoke, "hello")
            await asyncio.to_thread(list, model.stream("hello"))
    with pytest.raises(InvalidInput, match="tokens_per_minute"):
        await model.ainvoke("x" * 4 * 200)
    stats = provider.stats()
    used = stats.prompt_tokens + stats.completion_tokens
    assert guard.admission._tokens._bucket._level == pytest.approx(used)


class Fake(BaseChatModel):
    """Fails the test if it is not inside the guard's one permit."""

    guard: Guard
    model_config = {"arbitrary_types_allowed": True}

    @property
    def _llm_type(self):
        return "fake"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):  # noqa: ARG002
        assert self.guard.statistics().in_flight == 1
        return ChatResult(generations=[ChatGeneration(message=AIMessage("fake answer"))])


def chunk_of(text, tokens=None):
    usage = {"input_tokens": tokens, "output_tokens": 0, "total_tokens": tokens} if tokens else None
    return ChatGenerationChunk(message=AIMessageChunk(text, usage_metadata=usage))


class Roundabout(Fake):
    """Streams by asking itself for the whole answer."""

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):  # noqa: ARG002
        yield chunk_of(self._generate(messages).generations[0].text)

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):  # noqa: ARG002
        yield chunk_of((await self._agenerate(messages)).generations[0].text)


class StreamsInThreads(Fake):
    """Streams synchronously only; LangChain makes its asynchronous stream of that, in threads."""

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):  # noqa: ARG002
        for word in ("fake ", "answer"):
            assert self.guard.statistics().in_flight == 1
            yield chunk_of(word, tokens=10)


def fake_of(kind, **limits):
    guard = guard_of(max_concurrency=1, **limits)
    return guarded(kind(guard=guard), Protection(guard, ONCE, lambda _: None)), guard


@pytest.mark.parametrize("kind", [Fake, Roundabout, StreamsInThreads])
async def test_any_chat_model_takes_one_permit_whichever_way_it_is_called(kind):
    model, guard = fake_of(kind)
    async with asyncio.timeout(DEADLINE_S):
        assert (await model.ainvoke("x")).content == "fake answer"
        assert "".join([chunk.content async for chunk in model.astream("x")]) == "fake answer"
        assert (await asyncio.to_thread(model.invoke, "x")).content == "fake answer"
        streamed = await asyncio.to_thread(lambda: [chunk.content for chunk in model.stream("x")])
    assert "".join(streamed) == "fake answer"
    assert guard.statistics().admitted == 4
    await free(guard)


def test_a_model_that_cannot_stream_still_says_so():
    for kind, blocking, asynchronous in ((Fake, False, False), (StreamsInThreads, True, True)):
        model, _ = fake_of(kind)
        assert model._should_stream(async_api=False, stream=True) is blocking
        assert model._should_stream(async_api=True, stream=True) is asynchronous
    assert fake_of(Fake)[0]._stream.__func__ is BaseChatModel._stream


def test_the_usage_of_all_chunks_counts_as_langchain_adds_it_up():
    model, guard = fake_of(StreamsInThreads, tokens_per_minute=1000, clock=ManualClock())
    list(model.stream("x"))
    assert guard.admission._tokens._bucket._level == 20


FAULTS = [
    ("status:400", UpstreamRefused),
    ("status:401", UpstreamRefused),
    ("status:404", UpstreamRefused),
    ("status:429", UpstreamThrottled),
    ("status:500", UpstreamUnavailable),
    ("status:503", UpstreamThrottled),
    ("reset", UpstreamUnavailable),
    ("garbage", UpstreamError),
]


@pytest.mark.parametrize(("fault", "meaning"), FAULTS)
async def test_errors_are_translated_whichever_way_the_model_is_called(provider, fault, meaning):
    provider.configure(fault=fault, retry_after_s=0.001)

    ways = {
        "ainvoke": lambda model: model.ainvoke("canary prompt"),
        "invoke": lambda model: asyncio.to_thread(model.invoke, "canary prompt"),
        "astream": lambda model: read(model, "canary prompt"),
        "stream": lambda model: asyncio.to_thread(list, model.stream("canary prompt")),
    }
    if fault == "garbage":
        # An answer that is no stream has no events: LangChain reports an empty stream by itself.
        del ways["astream"], ways["stream"]
    for call in ways.values():
        guard = guard_of()
        with pytest.raises(UpstreamError) as caught:
            await call(model_of(provider, guard))
        assert type(caught.value) is meaning
        assert "canary" not in str(caught.value)
        assert "127.0.0.1" in caught.value.message
        assert caught.value.__cause__ is None
        await free(guard)


async def test_a_service_that_is_not_there_is_unavailable(provider):
    with pytest.raises(UpstreamUnavailable, match="ConnectError"):
        await model_of(provider, guard_of(), base_url="http://127.0.0.1:1/v1").ainvoke("hello")


@pytest.mark.parametrize("method", ["ainvoke", "astream"])
async def test_a_silent_service_is_a_timeout_that_names_its_setting(provider, method):
    provider.configure(fault="hang")
    guard = guard_of()
    model = model_of(provider, guard, timeouts=HttpTimeouts(read_s=0.05))
    with pytest.raises(UpstreamTimeout, match="read_timeout"):
        await (model.ainvoke("hello") if method == "ainvoke" else read(model, "hello"))
    await free(guard)


@pytest.mark.parametrize("method", ["ainvoke", "astream"])
async def test_the_total_timeout_ends_a_call_and_a_stream_that_have_come_to_a_halt(provider, method):
    provider.configure(service_s=HOURS)
    guard = guard_of(max_concurrency=1)
    model = model_of(provider, guard, CallPolicy(max_retries=0, total_timeout_s=0.1), timeouts=HttpTimeouts(read_s=0))
    with pytest.raises(DeadlineExceeded, match="total_timeout"):
        await (model.ainvoke("hello") if method == "ainvoke" else read(model, "a long story"))
    await free(guard)
    await seen(provider, lambda stats: stats.disconnects == 1)


async def test_a_stream_that_breaks_in_the_middle_is_translated_and_not_begun_again(monkeypatch):
    monkeypatch.setattr(retry, "BACKOFF_BASE_S", 0.0)
    guard = guard_of(max_concurrency=1)
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(serve_in_thread(ProviderSettings(service_s=HOURS)))
        stream = model_of(provider, guard, CallPolicy(max_retries=3)).astream("canary prompt")
        await anext(stream)
        stack.callback(client_cache().close)
        rest = asyncio.ensure_future(drain(stream))
        await asyncio.to_thread(stack.close)  # the server goes away with the answer half sent
        with pytest.raises(UpstreamUnavailable, match="broke the connection off") as caught:
            await rest
    assert "canary" not in str(caught.value)
    assert guard.statistics().admitted == 1
    await free(guard)


@pytest.mark.parametrize("method", ["ainvoke", "astream", "invoke", "stream"])
async def test_a_failure_that_passes_is_tried_again_through_the_guard(monkeypatch, method):
    monkeypatch.setattr(retry, "BACKOFF_BASE_S", 0.0)
    failures = [ValueError(), ValueError()]

    def policy(request):
        if failures:
            raise failures.pop()
        return Answer(f"Answer to: {request.last_user}")

    with serve_in_thread(ProviderSettings(service_s=0.0), policy) as provider:
        guard = guard_of(max_concurrency=1)
        model = model_of(provider, guard, CallPolicy(max_retries=2))
        if method == "ainvoke":
            text = (await model.ainvoke("hello")).content
        elif method == "astream":
            text = "".join([chunk.content async for chunk in model.astream("hello")])
        elif method == "invoke":
            text = (await asyncio.to_thread(model.invoke, "hello")).content
        else:
            text = "".join([chunk.content for chunk in await asyncio.to_thread(list, model.stream("hello"))])
        client_cache().close()
        assert text == "Answer to: hello"
        assert provider.stats().answered == {500: 2, 200: 1}
    tally = model._protection.tally
    assert (tally.calls, tally.retries, guard.statistics().admitted) == (1, 2, 3)


async def test_a_provider_that_is_full_pauses_the_guard_for_everyone(provider):
    provider.configure(slots=0, retry_after_s=60.0)
    guard = guard_of(clock=ManualClock(), max_concurrency=4, queue_timeout_s=0)
    model = model_of(provider, guard)
    with pytest.raises(UpstreamThrottled):
        await model.ainvoke("first")
    provider.configure(slots=100)
    task = asyncio.ensure_future(model.ainvoke("second"))
    await guard.clock.advance(59)
    assert guard.statistics().waiting["normal"] == 1
    await guard.clock.advance(2)
    assert (await task).content == "Answer to: second"


def test_a_proxy_variable_of_the_sdk_does_not_end_up_in_an_error(provider, monkeypatch):
    monkeypatch.setenv("OPENAI_PROXY", "http://user:canary-password@127.0.0.1:1")
    assert model_of(provider, guard_of()).invoke("hello").content == "Answer to: hello"


@pytest.mark.parametrize(
    "base_url",
    [
        "api.example.com/v1",
        "ftp://api.example.com",
        "https://",
        "http://[::1",
        "https://h:port/v1",
        "http://user:canary@",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_it(base_url):
    with pytest.raises(InvalidInput, match="base_url") as caught:
        Upstream(base_url, KEY)
    assert "canary" not in str(caught.value)


def test_an_empty_key_or_model_name_is_refused_by_name(provider):
    with pytest.raises(InvalidInput, match="api_key is empty"):
        Upstream("", "")
    with pytest.raises(InvalidInput, match="model_name"):
        chat_model(Upstream(provider.base_url, KEY), guard_of(), ONCE, model_name="")


def test_the_guard_of_an_upstream_is_named_by_host_and_credential_and_tells_neither_key_nor_password():
    upstream = Upstream("https://user:canary-password@api.example.com:8443/v1", KEY)
    assert upstream.host == "api.example.com:8443"
    assert upstream.guard_name.startswith("api.example.com:8443 (key ")
    assert "canary" not in upstream.guard_name
    assert upstream.guard_name != Upstream(upstream.base_url, "another").guard_name
    settings = GuardSettings()
    guard = upstream.guard("", settings, asked_by="a")
    assert Upstream(upstream.base_url, KEY).guard("", settings, asked_by="b") is guard
    assert upstream.guard("private", settings, asked_by="a") is not guard


def test_a_temperature_is_not_sent_to_reasoning_models(provider):
    from lfx.base.models.openai_constants import OPENAI_REASONING_MODEL_NAMES

    upstream = Upstream(provider.base_url, KEY)
    for name, expected in ((OPENAI_REASONING_MODEL_NAMES[0], None), ("sim-chat", 0.7)):
        model = chat_model(upstream, guard_of(), ONCE, model_name=name, temperature=0.7)
        assert model.temperature == expected
