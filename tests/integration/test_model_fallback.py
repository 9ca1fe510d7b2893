"""A second model behind the first one: when it is asked, what it is asked for, and what its answer says."""

import asyncio
import contextlib
import copy
import functools
import time
import warnings

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from langflow_sluice.errors import (
    BulkheadFull,
    DeadlineExceeded,
    InvalidInput,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamUnavailable,
)
from langflow_sluice.failures import diagnose_http
from langflow_sluice.guard import Guard, GuardSettings, retry
from langflow_sluice.guard.breaker import MIN_CALLS
from langflow_sluice.guard.retry import CallPolicy
from langflow_sluice.guard.waiter import Outcome
from langflow_sluice.http_clients import HttpTimeouts, client_cache
from langflow_sluice.models.fallback import Fallback
from langflow_sluice.models.guarded_chat import bound_to, guarded
from langflow_sluice.models.openai_compatible import Upstream, chat_model
from langflow_sluice.models.protection import Protection
from langflow_sluice.models.unretried import without_retries
from langflow_sluice.simulator import Answer, default_policy, serve_in_thread
from langflow_sluice.testing import ManualClock, settle

from .asking import ask

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langchain_anthropic import ChatAnthropic
    from langchain_openai import ChatOpenAI

DEADLINE_S = 30.0
HOURS = 3600.0
KEY = "canary-key"
ONCE = CallPolicy(max_retries=0)
WAYS = ["ainvoke", "invoke", "astream", "stream"]


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch):
    monkeypatch.setattr(retry, "BACKOFF_BASE_S", 0.0)


@pytest.fixture(scope="module")
def servers():
    asked = []

    def policy(request):
        asked.append(request)
        answer = default_policy(request)
        return answer if answer.tool_calls or request.response_format else Answer(f"Second: {answer.text}")

    with serve_in_thread() as provider, serve_in_thread(None, policy) as second:
        second.asked = asked
        yield provider, second


def as_new(control):
    control.configure(slots=100, service_s=0.0, retry_after_s=1.0, fault="ok")
    control.reset()
    return control


@pytest.fixture
def provider(servers, reachable):  # noqa: ARG001 - for its effect
    yield as_new(servers[0])
    client_cache().close()


@pytest.fixture
def second(servers, reachable):  # noqa: ARG001 - for its effect
    """Another provider, whose answers tell that they are its own."""
    servers[1].asked.clear()
    yield as_new(servers[1])
    client_cache().close()


def guard_of(*, name="first", clock=None, **limits):
    return Guard(name, GuardSettings(**limits), *([clock] if clock else []))


def behind(guard, model, policy=ONCE, fallback=None, after_s=0.0):
    diagnose = functools.partial(diagnose_http, resource=guard.name)
    fallback = None if fallback is None else Fallback(fallback, after_s)
    return guarded(without_retries(model), Protection(guard, policy, diagnose, fallback))


def openai(control, name="sim-first", **options):
    return ChatOpenAI(model=name, api_key=KEY, base_url=control.base_url, **options)


def anthropic(control, name="sim-second", **options):
    return ChatAnthropic(model=name, api_key=KEY, base_url=control.root_url, **options)


FAMILIES = [functools.partial(openai, name="sim-second"), anthropic]


@pytest.fixture
def pair(provider, second):
    """Makes a model with a fallback."""

    def make(guard, policy=ONCE, *, after_s=0.0, family=FAMILIES[0], first=None, **options):
        other = behind(guard_of(name="second", max_concurrency=4), family(second))
        return behind(guard, first or openai(provider, **options), policy, other, after_s)

    return make


def by_second(because):
    return {"fallback": "sim-second", "because": because}


def told(answer):
    return answer.response_metadata.get("sluice")


async def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await settle()


def at_rest(guard):
    statistics = guard.statistics()
    return (statistics.in_flight, sum(statistics.waiting.values())) == (0, 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS)
async def test_while_the_first_answers_the_second_is_not_asked_and_nothing_is_said(provider, second, pair, way, family):
    answer = await ask(pair(guard_of(), family=family), way)
    assert (answer.text, told(answer)) == ("Answer to: hello", None)
    assert (provider.stats().requests, second.stats().requests) == ({"chat": 1}, {})


FAILURES = [
    ("status:429", "upstream_throttled"),
    ("status:500", "upstream_unavailable"),
    ("status:503", "upstream_throttled"),
    ("status:529", "upstream_throttled"),
    ("reset", "upstream_unavailable"),
    ("hang", "upstream_timeout"),
]


@pytest.mark.parametrize(("fault", "because"), FAILURES)
@pytest.mark.parametrize("way", WAYS)
async def test_a_service_that_fails_after_all_retries_leaves_the_answer_to_the_second(
    provider, second, pair, way, fault, because
):
    provider.configure(fault=fault, retry_after_s=0.001)
    guard = guard_of(max_concurrency=1)
    model = pair(guard, CallPolicy(max_retries=1), timeout=0.1)
    answer = await ask(model, way)
    assert (answer.text, told(answer)) == ("Second: Answer to: hello", by_second(because))
    assert (provider.stats().requests, second.stats().requests) == ({"chat": 2}, {"chat": 1})
    tally = model._protection.tally
    assert (tally.calls, tally.retries, tally.fallbacks) == (1, 1, 1)
    assert at_rest(guard)


@pytest.mark.parametrize("way", WAYS)
async def test_a_service_that_is_not_there_leaves_the_answer_to_the_second(second, pair, way):
    first = ChatOpenAI(model="x", api_key=KEY, base_url="http://127.0.0.1:1/v1")
    answer = await ask(pair(guard_of(), first=first), way)
    assert told(answer) == by_second("upstream_unavailable")
    assert second.stats().requests == {"chat": 1}


@pytest.mark.parametrize("fault", ["status:400", "status:401", "status:403", "status:404", "status:422"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_refusal_is_not_hidden_by_the_second(provider, second, pair, way, fault):
    provider.configure(fault=fault)
    with pytest.raises(UpstreamRefused, match=fault.removeprefix("status:")):
        await ask(pair(guard_of()), way)
    assert second.stats().requests == {}


@pytest.mark.parametrize("way", WAYS)
async def test_while_the_breaker_is_open_the_second_answers_at_once_and_the_first_is_left_alone(
    provider, second, pair, way
):
    guard = guard_of(clock=ManualClock())
    for _ in range(MIN_CALLS):
        async with guard.slot() as slot:
            slot.report(Outcome.FAULT)
    # Without a fallback a call waits for the probe: time stands still, so here it would wait for ever.
    async with asyncio.timeout(DEADLINE_S):
        answer = await ask(pair(guard, CallPolicy(max_retries=5)), way)
    assert told(answer) == by_second("circuit_open")
    assert (provider.stats().requests, second.stats().requests) == ({}, {"chat": 1})


@pytest.mark.parametrize("way", WAYS)
async def test_when_the_queue_is_full_the_second_answers(provider, second, pair, way):
    guard = guard_of(clock=ManualClock(), max_concurrency=1, max_queue=1)
    model = pair(guard)
    async with guard.slot():
        waiting = asyncio.ensure_future(model.ainvoke("first in line"))
        await until(lambda: guard.statistics().waiting["normal"] == 1)
        answer = await ask(model, way)
    assert told(answer) == by_second("bulkhead_full")
    assert told(await waiting) is None
    assert (provider.stats().requests, second.stats().requests) == ({"chat": 1}, {"chat": 1})


@pytest.mark.parametrize(
    ("limits", "options", "because"),
    [
        ({"queue_timeout_s": 20}, {}, "queue_timeout"),
        ({"queue_timeout_s": 0}, {"after_s": 20}, "deadline_exceeded"),
        ({"queue_timeout_s": 60}, {"after_s": 20}, "deadline_exceeded"),
        ({"queue_timeout_s": 0}, {"after_s": 20, "policy": CallPolicy(total_timeout_s=0)}, "deadline_exceeded"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
async def test_whoever_waits_for_too_long_in_the_queue_is_answered_by_the_second(
    provider, second, pair, way, limits, options, because
):
    clock = ManualClock()
    guard = guard_of(clock=clock, max_concurrency=1, **limits)
    model = pair(guard, **options)
    async with guard.slot():
        waiting = asyncio.ensure_future(ask(model, way))
        await until(lambda: guard.statistics().waiting["normal"] == 1)
        await clock.advance(19)
        assert not waiting.done()
        assert second.stats().requests == {}
        await clock.advance(2)
        assert told(await waiting) == by_second(because)
    assert provider.stats().requests == {}
    assert at_rest(guard)


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_after_fallback_after_a_call_without_a_first_piece_goes_to_the_second(provider, second, pair, way):
    provider.configure(fault="hang")
    guard = guard_of(max_concurrency=1)
    answer = await ask(pair(guard, after_s=0.05), way)
    assert (answer.text, told(answer)) == ("Second: Answer to: hello", by_second("deadline_exceeded"))
    assert second.stats().requests == {"chat": 1}
    assert at_rest(guard)


async def test_a_stream_that_has_begun_in_time_may_take_longer_than_fallback_after(provider, second, pair):
    provider.configure(service_s=1.0)
    answer = await ask(pair(guard_of(), after_s=0.6), "astream", "one two three four")
    assert (answer.text, told(answer)) == ("Answer to: one two three four", None)
    assert second.stats().requests == {}


@pytest.mark.parametrize("way", ["astream", "stream"])
async def test_once_a_piece_has_been_passed_on_the_second_is_not_asked_any_more(provider, second, pair, way):
    provider.configure(fault="stream_reset")
    model = pair(guard_of(), CallPolicy(max_retries=3))
    pieces = []

    async def read():
        async for chunk in model.astream("one two three"):
            pieces.append(chunk.text)  # noqa: PERF401 - what came before the error counts

    def read_blocking():
        pieces.extend(chunk.text for chunk in model.stream("one two three"))

    with pytest.raises(UpstreamUnavailable, match="first"):
        await (read() if way == "astream" else asyncio.to_thread(read_blocking))
    assert way == "stream" or "".join(pieces).startswith("Answer")
    assert (provider.stats().requests, second.stats().requests) == ({"chat": 1}, {})
    assert model._protection.tally.fallbacks == 0


async def test_the_slot_of_the_first_is_free_while_the_second_works(provider, second, pair):
    provider.configure(fault="status:500")
    second.configure(fault="hang")
    guard = guard_of(max_concurrency=1)
    model = pair(guard)
    for way in ("ainvoke", "astream"):
        working = asyncio.ensure_future(ask(model, way))
        await until(lambda: second.stats().in_flight == {"chat": 1})
        assert at_rest(guard)
        second.configure(fault="ok")
        assert told(await working) == by_second("upstream_unavailable")
        second.configure(fault="hang")


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_cancelling_while_the_second_works_ends_its_request_and_frees_its_slot(provider, second, pair, way):
    provider.configure(fault="status:500")
    second.configure(fault="hang")
    model = pair(guard_of())
    working = asyncio.ensure_future(ask(model, way))
    await until(lambda: second.stats().in_flight == {"chat": 1})
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    await until(lambda: second.stats().disconnects == 1)
    await until(lambda: at_rest(model._protection.fallback.model._protection.guard))


@pytest.mark.parametrize("way", WAYS)
async def test_if_the_second_fails_too_its_error_says_so(provider, second, pair, way):
    provider.configure(fault="status:500")
    second.configure(fault="status:429", retry_after_s=0.001)
    with pytest.raises(UpstreamThrottled, match="second answered 429") as caught:
        await ask(pair(guard_of()), way, "canary prompt")
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    second.configure(fault="status:401")
    with pytest.raises(UpstreamRefused, match="second answered 401"):
        await ask(pair(guard_of()), way)


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_the_total_timeout_is_that_of_both_together(provider, second, pair, way):
    provider.configure(fault="hang")
    second.configure(fault="hang")
    guard = guard_of(max_concurrency=1)
    model = pair(guard, CallPolicy(max_retries=0, total_timeout_s=1.0), after_s=0.05)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(DeadlineExceeded, match=r"Neither the model nor its fallback .* 1 s"):
            await ask(model, way)
    assert at_rest(guard)
    assert at_rest(model._protection.fallback.model._protection.guard)
    await until(lambda: second.stats().disconnects == 1)


@pytest.mark.parametrize("way", WAYS)
async def test_when_no_time_is_left_the_second_is_not_asked(provider, second, pair, way):
    clock = ManualClock()
    guard = guard_of(clock=clock, max_concurrency=1, queue_timeout_s=0)
    model = pair(guard, CallPolicy(max_retries=0, total_timeout_s=10), after_s=60)
    async with guard.slot():
        waiting = asyncio.ensure_future(ask(model, way))
        await until(lambda: guard.statistics().waiting["normal"] == 1)
        await clock.advance(11)
        with pytest.raises(DeadlineExceeded, match="total_timeout"):
            await waiting
    assert (provider.stats().requests, second.stats().requests) == ({}, {})


@tool
def search(query: str) -> str:
    """Searches."""
    return query


@tool
def clock(zone: str) -> str:
    """Tells the time."""
    return zone


class Verdict(BaseModel):
    """A verdict."""

    reason: str
    score: int


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS)
async def test_tools_are_bound_to_the_second_in_its_own_form(provider, second, pair, way, family):
    provider.configure(fault="status:500")
    answer = await ask(pair(guard_of(), family=family).bind_tools([search, clock]), way, "sluice gates")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("search", {"query": "sluice gates"})]
    assert told(answer) == by_second("upstream_unavailable")
    [request] = second.asked
    assert [each["name"] for each in request.tools] == ["search", "clock"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("clock", {"type": "function", "function": {"name": "clock"}}),
        ({"type": "function", "function": {"name": "clock"}}, {"type": "function", "function": {"name": "clock"}}),
        ("any", "required"),
        ("required", "required"),
        (True, "required"),
        ("auto", "auto"),
        (None, None),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
async def test_the_choice_among_the_tools_is_that_of_the_call(provider, second, pair, choice, expected, family):
    provider.configure(fault="status:500")
    model = pair(guard_of(), family=family).bind_tools([search, clock], tool_choice=choice)
    await model.ainvoke("hello")
    assert second.asked[0].tool_choice == expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("clock", {"type": "function", "function": {"name": "clock"}}),
        ({"type": "tool", "name": "clock"}, {"type": "function", "function": {"name": "clock"}}),
        ("any", "required"),
        ("auto", "auto"),
    ],
)
async def test_tools_and_choice_of_anthropics_reach_an_openai_model(provider, second, pair, choice, expected):
    provider.configure(fault="status:500")
    model = pair(guard_of(), first=anthropic(provider, "sim-first")).bind_tools([search, clock], tool_choice=choice)
    await model.ainvoke("hello")
    [request] = second.asked
    assert [each["name"] for each in request.tools] == ["search", "clock"]
    assert request.tool_choice == expected


@pytest.mark.parametrize("first", [openai, anthropic])
async def test_who_must_not_call_tools_is_given_none(provider, second, pair, first):
    provider.configure(fault="status:500")
    family = FAMILIES[first is openai]
    choice = "none" if first is openai else {"type": "none"}
    model = pair(guard_of(), first=first(provider, "sim-first"), family=family)
    answer = await model.bind_tools([search, clock], tool_choice=choice).ainvoke("hello")
    assert (answer.text, answer.tool_calls) == ("Second: Answer to: hello", [])
    assert not second.asked[0].tools


@pytest.mark.usefixtures("second")
@pytest.mark.parametrize("family", FAMILIES)
async def test_structured_output_by_function_calling_comes_from_either_model(provider, pair, family):
    provider.configure(fault="status:500")
    model = pair(guard_of(), family=family).with_structured_output(Verdict, method="function_calling", include_raw=True)
    found = await model.ainvoke("judge")
    assert isinstance(found["parsed"], Verdict)
    assert told(found["raw"]) == by_second("upstream_unavailable")


async def test_a_format_that_only_the_first_knows_is_not_asked_of_another_kind_of_model(provider, second, pair):
    structured = pair(guard_of()).with_structured_output(Verdict, method="json_schema")
    provider.configure(fault="status:500")
    assert isinstance(await structured.ainvoke("judge"), Verdict)
    with pytest.raises(UpstreamUnavailable, match="first"):
        await pair(guard_of(), family=anthropic).with_structured_output(Verdict, method="json_schema").ainvoke("judge")
    with pytest.raises(UpstreamUnavailable, match="first"):
        await pair(guard_of(), family=anthropic).bind(response_format={"type": "json_object"}).ainvoke("judge")
    assert second.stats().requests == {"chat": 1}


async def test_a_second_that_knows_no_tools_answers_calls_without_them_and_leaves_the_others_to_the_first(provider):
    plain = FakeListChatModel(responses=["from a list"])
    model = behind(guard_of(), openai(provider), fallback=plain)
    with_tools = model.bind_tools([search])
    assert (await with_tools.ainvoke("sluice gates")).tool_calls
    provider.configure(fault="status:500")
    assert (await model.ainvoke("hello")).text == "from a list"
    with pytest.raises(UpstreamUnavailable):
        await with_tools.ainvoke("sluice gates")


class Whole(FakeListChatModel):
    """Cannot stream."""

    _stream = FakeListChatModel.__mro__[2]._stream
    _astream = FakeListChatModel.__mro__[2]._astream

    def _call(self, *args, **kwargs):  # noqa: ARG002
        return "all at once"


class CallsTools(FakeListChatModel):
    """Cannot stream, and wants a tool called."""

    _stream = FakeListChatModel.__mro__[2]._stream
    _astream = FakeListChatModel.__mro__[2]._astream

    def bind_tools(self, tools, **kwargs):
        return self.bind(tools=tools, **kwargs)

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):  # noqa: ARG002
        result = super()._generate(messages, stop, run_manager)
        usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        calls = [{"name": "search", "args": {"query": "q"}, "id": "1"}]
        result.generations[0].message = AIMessage("", tool_calls=calls, usage_metadata=usage)
        return result


@pytest.mark.parametrize("way", WAYS)
async def test_a_second_that_cannot_stream_answers_a_stream_in_one_piece(provider, way):
    provider.configure(fault="status:500")
    model = behind(guard_of(), openai(provider), fallback=Whole(responses=["x"]))
    answer = await ask(model, way)
    assert answer.text == "all at once"
    assert told(answer) == {"fallback": "Whole", "because": "upstream_unavailable"}
    with_tools = behind(guard_of(), openai(provider), fallback=CallsTools(responses=["x"])).bind_tools([search])
    called = await ask(with_tools, way)
    assert [(call["name"], call["args"], call["id"]) for call in called.tool_calls] == [("search", {"query": "q"}, "1")]
    assert called.usage_metadata["total_tokens"] == 3
    assert told(called)["because"] == "upstream_unavailable"


@pytest.mark.parametrize("way", WAYS)
async def test_a_model_that_streams_inside_its_calls_has_a_fallback_too(provider, second, pair, way):
    provider.configure(fault="status:500")
    answer = await ask(pair(guard_of(max_concurrency=1), streaming=True), way)
    assert (answer.text, told(answer)) == ("Second: Answer to: hello", by_second("upstream_unavailable"))
    assert second.stats().requests == {"chat": 1}


@pytest.mark.parametrize("way", WAYS)
async def test_options_bound_to_the_second_before_it_was_guarded_are_kept(provider, second, way):
    provider.configure(fault="status:500")
    other = bound_to(behind(guard_of(name="second"), anthropic(second)), {"stop": ["x"], "max_tokens": 2})
    answer = await ask(behind(guard_of(), openai(provider), fallback=other), way, "one two three four five")
    assert len(answer.text.split()) < 5
    assert second.asked[0].max_tokens == 2


@pytest.mark.parametrize("way", WAYS)
async def test_the_second_may_have_a_fallback_of_its_own(provider, second, way):
    provider.configure(fault="status:500")
    last = behind(guard_of(name="last"), anthropic(second, "sim-last"))
    middle = behind(guard_of(name="middle"), openai(provider, "sim-middle"), fallback=last)
    answer = await ask(behind(guard_of(), openai(provider), fallback=middle), way)
    assert answer.text == "Second: Answer to: hello"
    # Who answered is said by the one who asked it, not by those before.
    assert told(answer)["because"] == "upstream_unavailable"
    assert provider.stats().requests == {"chat": 2}


async def test_a_rate_limited_model_may_be_the_second(provider, second):
    provider.configure(fault="status:500")
    upstream = Upstream(second.base_url, KEY, HttpTimeouts())
    other = chat_model(upstream, guard_of(name="second"), ONCE, model_name="sim-second")
    answer = await behind(guard_of(), openai(provider), fallback=other).ainvoke("hello")
    assert told(answer) == by_second("upstream_unavailable")


async def test_copies_of_the_model_share_guard_fallback_and_tally(provider, second, pair):
    provider.configure(fault="status:500")
    guard = guard_of(max_concurrency=1)
    model = pair(guard)
    assert copy.deepcopy({"tools": [model]})["tools"][0] is model
    duplicate = model.model_copy(update={"temperature": 0.5}, deep=True)
    assert (duplicate.temperature, model.temperature) == (0.5, None)
    for each in (model, duplicate, copy.copy(model)):
        assert told(await each.ainvoke("hello")) == by_second("upstream_unavailable")
    assert model._protection.tally.fallbacks == 3
    assert second.stats().requests == {"chat": 3}


async def test_the_callbacks_of_a_call_hear_the_answer_of_the_second(provider, second, pair):  # noqa: ARG001
    from langchain_core.callbacks import AsyncCallbackHandler

    class Listener(AsyncCallbackHandler):
        def __init__(self):
            self.tokens, self.ended = [], []

        async def on_llm_new_token(self, token, **kwargs):  # noqa: ARG002
            self.tokens.append(token)

        async def on_llm_end(self, response, **kwargs):  # noqa: ARG002
            self.ended.append(response.generations[0][0].message)

    provider.configure(fault="status:500")
    listener = Listener()
    chunks = [c async for c in pair(guard_of()).astream("hello", config={"callbacks": [listener]})]
    assert "".join(listener.tokens) == "".join(chunk.text for chunk in chunks) == "Second: Answer to: hello"
    [ended] = listener.ended
    assert told(ended) == by_second("upstream_unavailable")


@pytest.mark.parametrize("after_s", [-1, "soon", None, True, float("nan"), float("inf")])
def test_a_wrong_fallback_after_is_refused_by_name(after_s):
    with pytest.raises(InvalidInput, match="fallback_after is"):
        Fallback(FakeListChatModel(responses=["x"]), after_s)


async def test_without_a_fallback_the_reason_is_the_error(provider):
    guard = guard_of(clock=ManualClock(), max_concurrency=1, max_queue=1)
    model = behind(guard, openai(provider))
    async with guard.slot():
        waiting = asyncio.ensure_future(model.ainvoke("first in line"))
        await settle()
        with pytest.raises(BulkheadFull):
            await model.ainvoke("hello")
    assert (await waiting).text == "Answer to: first in line"


async def test_a_stream_of_the_second_that_is_left_early_is_closed(provider, second, pair):
    provider.configure(fault="status:500")
    second.configure(service_s=HOURS)
    model = pair(guard_of())
    guard = model._protection.fallback.model._protection.guard
    async with contextlib.aclosing(model.astream("a long story")) as stream:
        assert told(await anext(stream)) == by_second("upstream_unavailable")
        assert guard.statistics().in_flight == 1
    await until(lambda: at_rest(guard))
    await until(lambda: second.stats().disconnects == 1)
