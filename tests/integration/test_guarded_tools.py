"""Tools behind a guard, as LangChain and LangGraph call them: one slot a call, and an answer whatever becomes of it."""

import asyncio
import contextlib
import copy
import functools
import gc
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import httpx
import pytest
import requests
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.callbacks.manager import CallbackManagerForToolRun
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import (
    BaseTool,
    InjectedToolArg,
    InjectedToolCallId,
    StructuredTool,
    Tool,
    ToolException,
    tool,
)
from pydantic import BaseModel, Field

from langflow_sluice.errors import InvalidInput, QueueTimeout
from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.guard.breaker import MIN_CALLS, BreakerState
from langflow_sluice.guard.retry import CallPolicy
from langflow_sluice.simulator import ProviderSettings, serve_in_thread
from langflow_sluice.testing import ManualClock, settle
from langflow_sluice.tools.guarded_tools import guarded_tool
from langflow_sluice.tools.tool_calls import ToolPolicy, ToolTimeout

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langchain.agents import create_agent
    from langgraph.errors import GraphInterrupt
    from lfx.base.tools.component_tool import ComponentStructuredTool

    from langflow_sluice.models.openai_compatible import Upstream, chat_model

DEADLINE_S = 30.0


class Bench:
    """What the tools of a test tell, and what holds them up."""

    def __init__(self):
        self.calls = []
        self.now = self.most = 0
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def inside(self, query):
        with self._lock:
            self.calls.append(query)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            yield
        finally:
            with self._lock:
                self.now -= 1

    def work(self, query: str) -> str:
        """Searches."""
        with self.inside(query):
            assert self.gate.wait(DEADLINE_S)
            return f"found {query}"

    async def awork(self, query: str) -> str:
        """Searches."""
        with self.inside(query):
            await settle()
            while not self.gate.is_set():
                await settle()
            return f"found {query}"


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.gate.set()


class Query(BaseModel):
    query: str


class Plain(BaseTool):
    name: str = "search"
    description: str = "Searches."
    bench: Bench
    model_config = {"arbitrary_types_allowed": True}

    def _run(self, query: str) -> str:
        return self.bench.work(query)


class OnThreads(Plain):
    """Goes to a thread by itself."""

    async def _arun(self, query: str) -> str:
        return await asyncio.to_thread(self._run, query)


class OnItsOwnLoop(Plain):
    """Synchronous by running what is asynchronous."""

    def _run(self, query: str) -> str:
        return asyncio.run(self._arun(query))

    async def _arun(self, query: str) -> str:
        return await self.bench.awork(query)


class Pair(StructuredTool):
    """As Langflow's MCP tools: answers with content and artifact, by both of LangChain's ways."""

    def _run(self, *args, config: RunnableConfig, run_manager=None, **kwargs):
        answer = super()._run(*args, config=config, run_manager=run_manager, **kwargs)
        return answer, {"raw": answer}

    async def _arun(self, *args, config: RunnableConfig, run_manager=None, **kwargs):
        answer = await super()._arun(*args, config=config, run_manager=run_manager, **kwargs)
        return answer, {"raw": answer}


FIELDS = {"name": "search", "description": "Searches.", "args_schema": Query}
SYNCHRONOUS = {
    "function": lambda bench: StructuredTool(func=bench.work, **FIELDS),
    "single input": lambda bench: Tool(name="search", func=bench.work, description="Searches."),
    "class": lambda bench: Plain(bench=bench),
    "class with threads": lambda bench: OnThreads(bench=bench),
    "component": lambda bench: ComponentStructuredTool(func=bench.work, handle_tool_error=True, **FIELDS),
}
ASYNCHRONOUS = {
    "coroutine": lambda bench: StructuredTool(coroutine=bench.awork, **FIELDS),
    "component coroutine": lambda bench: ComponentStructuredTool(coroutine=bench.awork, **FIELDS),
}
BOTH = {
    "function and coroutine": lambda bench: StructuredTool(func=bench.work, coroutine=bench.awork, **FIELDS),
    "class with a loop": lambda bench: OnItsOwnLoop(bench=bench),
    "pair": lambda bench: Pair(
        func=bench.work, coroutine=bench.awork, response_format="content_and_artifact", **FIELDS
    ),
}
EVERY = SYNCHRONOUS | ASYNCHRONOUS | BOTH


def guard_of(*, clock=None, **limits):
    return Guard("test", GuardSettings(**limits), *([clock] if clock else []))


def guard_with_time(**limits):
    return guard_of(clock=ManualClock(), **limits)


def behind(inner, guard=None, **policy):
    return guarded_tool(inner, guard or guard_of(), ToolPolicy(**policy))


def tool_call(**arguments):
    return {"type": "tool_call", "id": "call-1", "name": "search", "args": arguments}


def asked(query="lighthouse"):
    return tool_call(query=query)


async def until(condition):
    """Gives the loop turns until something on another thread has come about."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await settle()


async def free(guard):
    await until(lambda: guard.statistics().in_flight == 0)
    assert sum(guard.statistics().waiting.values()) == 0


def is_error(answer):
    assert isinstance(answer, ToolMessage)
    assert (answer.status, answer.tool_call_id, answer.name) == ("error", "call-1", "search")
    return answer.content


# What a guarded tool is


@pytest.mark.parametrize("kind", EVERY)
def test_the_copy_is_the_same_tool_and_the_original_stays_as_it_was(bench, kind):
    inner = EVERY[kind](bench)
    inner.tags, inner.metadata, inner.return_direct = ["one"], {"source_id": "node"}, True
    before = type(inner)
    made = behind(inner)
    assert type(inner) is before
    assert isinstance(made, before)
    assert type(made).__name__ == before.__name__
    names = type(inner).model_fields
    assert {name: getattr(made, name) for name in names} == {name: getattr(inner, name) for name in names}
    assert made.args == inner.args
    assert made.tool_call_schema.model_json_schema() == inner.tool_call_schema.model_json_schema()
    if isinstance(inner, StructuredTool):
        assert made.model_dump_json() == inner.model_dump_json()


def test_a_deep_copy_is_the_tool_itself_and_other_copies_keep_the_guard(bench):
    guard = guard_of()
    made = behind(Plain(bench=bench), guard)
    assert copy.deepcopy({"tools": [made]})["tools"][0] is made
    assert copy.deepcopy(made._protection) is copy.copy(made._protection) is made._protection
    renamed = made.model_copy(update={"name": "other"}, deep=True)
    assert (renamed.name, made.name) == ("other", "search")
    for each in (renamed, copy.copy(made)):
        assert each.invoke({"query": "x"}) == "found x"
    assert guard.statistics().admitted == 2


def test_a_tool_is_guarded_once_and_what_is_none_is_refused(bench):
    made = behind(Plain(bench=bench))
    with pytest.raises(InvalidInput, match="'search' stands behind guard 'test' already"):
        behind(made.model_copy())
    with pytest.raises(InvalidInput, match="tools is 'str'"):
        behind("search")


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "60", True, None])
def test_a_timeout_that_is_none_is_refused_by_name(value):
    with pytest.raises(InvalidInput, match="tool_timeout is"):
        ToolPolicy(timeout_s=value)


def test_an_unknown_priority_is_refused_by_name():
    with pytest.raises(InvalidInput, match="priority is 'urgent'"):
        ToolPolicy(priority="urgent")


class Inspected(BaseTool):
    name: str = "search"
    description: str = "Searches."

    def _run(
        self,
        query: str,
        secret: Annotated[str, InjectedToolArg],
        config: RunnableConfig,
        run_manager: CallbackManagerForToolRun | None = None,
    ) -> str:
        return told(query, secret, "call-1", config, run_manager)


def told(query, secret, call_id, config, manager):
    return f"{query} {secret} {call_id} {config['configurable']['who']} {manager is not None}"


@tool("search")
def inspected(
    query: str,
    secret: Annotated[str, InjectedToolArg],
    call_id: Annotated[str, InjectedToolCallId],
    config: RunnableConfig,
) -> str:
    """Searches."""
    return told(query, secret, call_id, config, config)


@tool("search")
async def inspected_too(
    query: str,
    secret: Annotated[str, InjectedToolArg],
    call_id: Annotated[str, InjectedToolCallId],
    config: RunnableConfig,
) -> str:
    """Searches."""
    return told(query, secret, call_id, config, config)


@pytest.mark.parametrize("inner", [Inspected(), inspected, inspected_too], ids=["class", "function", "coroutine"])
async def test_config_run_manager_and_injected_arguments_arrive_and_no_model_sees_them(inner):
    made = behind(inner)
    assert made.args == inner.args
    assert "secret" not in made.args
    config = {"configurable": {"who": "me"}}
    call = tool_call(query="q", secret="s")
    answers = [await made.ainvoke(call, config)]
    if inner is not inspected_too:
        answers.append(await asyncio.to_thread(made.invoke, call, config))
    assert {answer.content for answer in answers} == {"q s call-1 me True"}


def test_a_schema_is_still_inferred_from_the_method_of_the_class(bench):
    assert behind(Plain(bench=bench)).args == {"query": {"title": "Query", "type": "string"}}


# One slot a call


@pytest.mark.parametrize("kind", EVERY)
async def test_a_call_takes_one_slot_whichever_way_the_tool_goes(bench, kind):
    guard = guard_of(max_concurrency=1)
    made = behind(EVERY[kind](bench), guard)
    async with asyncio.timeout(DEADLINE_S):
        answer = await made.ainvoke(asked())
        assert (answer.content, answer.status) == ("found lighthouse", "success")
        assert answer.artifact == ({"raw": "found lighthouse"} if kind == "pair" else None)
        assert await made.ainvoke({"query": "plain"}) == "found plain"
        if kind not in ASYNCHRONOUS:
            assert (await asyncio.to_thread(made.invoke, asked())).content == "found lighthouse"
    assert guard.statistics().admitted == len(bench.calls) == (2 if kind in ASYNCHRONOUS else 3)
    assert guard.statistics().peak_in_flight == 1
    await free(guard)


@pytest.mark.parametrize("timeout_s", [60.0, 0.0])
@pytest.mark.parametrize("kind", EVERY)
async def test_parallel_calls_of_deep_copies_never_pass_the_limit(bench, kind, timeout_s):
    guard = guard_of(max_concurrency=3)
    made = behind(EVERY[kind](bench), guard, timeout_s=timeout_s)
    queries = [f"row {number}" for number in range(20)]
    answers = await asyncio.gather(*(copy.deepcopy(made).ainvoke(asked(query)) for query in queries))
    assert [answer.content for answer in answers] == [f"found {query}" for query in queries]
    assert bench.most <= 3
    assert guard.statistics().peak_in_flight == 3
    await free(guard)


@pytest.mark.parametrize("timeout_s", [60.0, 0.0])
def test_synchronous_calls_from_threads_share_the_limit(bench, timeout_s):
    guard = guard_of(max_concurrency=2)
    made = behind(Plain(bench=bench), guard, timeout_s=timeout_s)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: made.invoke({"query": str(number)}), range(16)))
    assert answers == [f"found {number}" for number in range(16)]
    assert bench.most <= 2
    assert (guard.statistics().in_flight, guard.statistics().admitted) == (0, 16)


async def test_calls_are_served_in_their_order(bench):
    guard = guard_of(max_concurrency=1)
    made = behind(StructuredTool(coroutine=bench.awork, **FIELDS), guard)
    queries = [f"row {number}" for number in range(10)]
    await asyncio.gather(*(made.ainvoke({"query": query}) for query in queries))
    assert bench.calls == queries


def test_one_tool_serves_event_loops_one_after_the_other(bench):
    guard = guard_of(max_concurrency=1)
    for kind in EVERY.values():
        made = behind(kind(bench), guard)
        assert [asyncio.run(made.ainvoke({"query": name})) for name in "ab"] == ["found a", "found b"]
    assert guard.statistics().in_flight == 0


async def test_a_tool_that_calls_a_guarded_tool_takes_a_slot_for_each(bench):
    guard, inner_guard = guard_of(max_concurrency=1), guard_of(max_concurrency=1)
    inner = behind(Plain(bench=bench), inner_guard)

    async def ask(query: str) -> str:
        return await inner.ainvoke({"query": query})

    outer = behind(StructuredTool(coroutine=ask, **FIELDS), guard)
    assert await outer.ainvoke({"query": "x"}) == "found x"
    assert (guard.statistics().admitted, inner_guard.statistics().admitted) == (1, 1)


async def test_a_tool_that_calls_itself_waits_for_a_second_slot():
    guard = guard_of(max_concurrency=2)
    seen = []

    async def ask(query: str) -> str:
        seen.append(guard.statistics().in_flight)
        return "end" if query == "x" else await made.ainvoke({"query": query[1:]})

    made = behind(StructuredTool(coroutine=ask, **FIELDS), guard)
    assert await made.ainvoke({"query": "xx"}) == "end"
    assert seen == [1, 2]


@pytest.mark.parametrize("timeout_s", [60.0, 0.0])
async def test_a_tool_that_tries_twice_by_itself_takes_a_slot_each_time(bench, timeout_s):
    guard = guard_of(max_concurrency=1)

    class Twice(Plain):
        def run(self, *args, **kwargs):
            super().run(*args, **kwargs)
            return super().run(*args, **kwargs)

        async def arun(self, *args, **kwargs):
            await super().arun(*args, **kwargs)
            return await super().arun(*args, **kwargs)

    made = behind(Twice(bench=bench), guard, timeout_s=timeout_s)
    assert (await made.ainvoke(asked())).content == "found lighthouse"
    assert (await asyncio.to_thread(made.invoke, asked())).content == "found lighthouse"
    assert guard.statistics().admitted == len(bench.calls) == 4


async def test_synchronous_tools_leave_the_threads_of_the_loop_alone(bench):
    guard = guard_of(max_concurrency=2)
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        busy = asyncio.get_running_loop().run_in_executor(None, stopped.wait, DEADLINE_S)
        try:
            async with asyncio.timeout(DEADLINE_S):
                for kind in ("function", "single input", "class", "component"):
                    made = behind(SYNCHRONOUS[kind](bench), guard)
                    assert await made.ainvoke({"query": kind}) == f"found {kind}"
        finally:
            stopped.set()
            await busy


# Cancelled and late


@pytest.mark.parametrize("kind", EVERY)
async def test_a_call_cancelled_while_it_waits_never_reaches_the_tool(bench, kind):
    guard = guard_of(max_concurrency=1)
    made = behind(EVERY[kind](bench), guard)
    async with guard.slot():
        task = asyncio.ensure_future(made.ainvoke(asked()))
        await until(lambda: guard.statistics().waiting["normal"] == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await free(guard)
    assert bench.calls == []


@pytest.mark.parametrize("kind", ASYNCHRONOUS)
async def test_a_cancelled_call_cancels_a_coroutine_and_gives_its_slot_back(bench, kind):
    guard = guard_of(max_concurrency=1)
    bench.gate.clear()
    task = asyncio.ensure_future(behind(EVERY[kind](bench), guard).ainvoke(asked()))
    await until(lambda: bench.now)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.now == guard.statistics().in_flight == 0


@pytest.mark.parametrize("kind", SYNCHRONOUS)
async def test_a_cancelled_call_leaves_at_once_and_its_slot_comes_back_when_the_thread_has_ended(bench, kind):
    guard = guard_of(max_concurrency=1)
    bench.gate.clear()
    task = asyncio.ensure_future(behind(EVERY[kind](bench), guard).ainvoke(asked()))
    await until(lambda: bench.now)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.now == guard.statistics().in_flight == 1
    bench.gate.set()
    await free(guard)
    assert bench.now == 0


@pytest.mark.parametrize("kind", SYNCHRONOUS)
async def test_a_late_synchronous_tool_is_answered_for_and_holds_its_slot_until_its_thread_has_ended(bench, kind):
    guard = guard_with_time(max_concurrency=1)
    bench.gate.clear()
    made = behind(EVERY[kind](bench), guard, timeout_s=60.0)
    task = asyncio.ensure_future(made.ainvoke(asked()))
    await until(lambda: bench.now)
    await guard.clock.advance(59.0)
    assert not task.done()
    await guard.clock.advance(1.0)
    text = is_error(await task)
    assert "gave no answer within 60 s" in text
    assert "may take effect all the same" in text
    assert "lighthouse" not in text
    assert bench.now == guard.statistics().in_flight == 1
    waiting = asyncio.ensure_future(made.ainvoke(asked("next")))
    await settle()
    assert guard.statistics().waiting["normal"] == 1
    bench.gate.set()
    assert (await waiting).content == "found next"
    await free(guard)


async def test_a_late_synchronous_call_is_answered_for_too(bench):
    guard = guard_with_time(max_concurrency=1)
    bench.gate.clear()
    made = behind(Plain(bench=bench), guard, timeout_s=60.0)
    task = asyncio.ensure_future(asyncio.to_thread(made.invoke, asked()))
    await until(lambda: bench.now)
    await until(lambda: guard.clock._timers)
    await guard.clock.advance(60.0)
    assert "gave no answer" in is_error(await task)
    assert bench.now == guard.statistics().in_flight == 1
    bench.gate.set()
    await free(guard)


async def test_a_late_coroutine_is_cancelled_and_holds_its_slot_until_it_has_cleaned_up():
    guard = guard_with_time(max_concurrency=1)
    cleaned = asyncio.Event()
    overlooked = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: overlooked.append(context))

    async def slow(query: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()
            raise LookupError(query)

    made = behind(StructuredTool(coroutine=slow, **FIELDS), guard, timeout_s=60.0)
    task = asyncio.ensure_future(made.ainvoke(asked()))
    await guard.clock.advance(60.0)
    assert "gave no answer" in is_error(await task)
    assert guard.statistics().in_flight == 1
    cleaned.set()
    await free(guard)
    gc.collect()
    assert overlooked == []


async def test_the_wait_for_a_slot_is_not_part_of_the_timeout(bench):
    guard = guard_with_time(max_concurrency=1, queue_timeout_s=100.0)
    made = behind(StructuredTool(coroutine=bench.awork, **FIELDS), guard, timeout_s=10.0)
    async with guard.slot():
        task = asyncio.ensure_future(made.ainvoke(asked()))
        await guard.clock.advance(90.0)
    assert (await task).content == "found lighthouse"


async def test_without_a_timeout_a_call_takes_its_time(bench):
    guard = guard_with_time(max_concurrency=1)
    bench.gate.clear()
    made = behind(Plain(bench=bench), guard, timeout_s=0)
    task = asyncio.ensure_future(made.ainvoke(asked()))
    await until(lambda: bench.now)
    await guard.clock.advance(100_000.0)
    assert not task.done()
    bench.gate.set()
    assert (await task).content == "found lighthouse"


def test_a_loop_that_closes_under_late_work_leaves_no_slot_behind():
    guard = guard_of(max_concurrency=1)

    async def stubborn(query: str) -> str:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
                return query

    made = behind(StructuredTool(coroutine=stubborn, **FIELDS), guard, timeout_s=0.01)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # asyncio says of the stubborn task that it was destroyed
    assert "gave no answer" in loop.run_until_complete(made.ainvoke({"query": "x"}))
    assert guard.statistics().in_flight == 1
    for task in asyncio.all_tasks(loop):
        task.get_coro().close()
    loop.close()
    assert guard.statistics().in_flight == 0


async def test_a_tool_cancelled_from_inside_is_a_failure_and_not_the_end_of_the_run():
    guard = guard_of(max_concurrency=1)

    async def broken(query: str) -> str:
        raise asyncio.CancelledError(query)

    text = is_error(await behind(StructuredTool(coroutine=broken, **FIELDS), guard).ainvoke(asked()))
    assert text == (
        "The tool 'search' failed: Tool 'search' broke its call off without an answer. Look at the connection that the "
        "tool works with."
    )
    await free(guard)


async def test_work_that_begins_after_its_call_was_given_up_is_not_done(bench):
    guard = guard_with_time(max_concurrency=1)
    may_begin = threading.Event()
    refused = []

    class Late(Plain):
        async def _arun(self, query: str) -> str:
            return await asyncio.to_thread(self.begin, query)

        def begin(self, query):
            may_begin.wait(DEADLINE_S)
            try:
                return self._run(query)
            except RuntimeError as error:
                refused.append(str(error))

    task = asyncio.ensure_future(behind(Late(bench=bench), guard, timeout_s=60.0).ainvoke(asked()))
    await until(lambda: guard.statistics().in_flight)
    await guard.clock.advance(60.0)
    is_error(await task)
    await free(guard)
    may_begin.set()
    await until(lambda: refused)
    assert refused == ["the call that this work belongs to has been given up"]
    assert bench.calls == []


# What the agent is told


class Watcher(BaseCallbackHandler):
    def __init__(self):
        self.errors = []

    def on_tool_error(self, error, **kwargs):  # noqa: ARG002
        self.errors.append(error)


async def test_a_call_that_finds_the_queue_full_is_told_how_full(bench):
    guard = guard_of(max_concurrency=1, max_queue=1)
    made = behind(StructuredTool(func=bench.work, **FIELDS), guard)
    async with guard.slot():
        waiting = asyncio.ensure_future(made.ainvoke(asked()))
        await settle()
        text = (
            "The tool 'search' is busy: 1 call is running and 1 waiting. Try again in a few seconds or go on without "
            "it."
        )
        assert is_error(await made.ainvoke(asked())) == text
        assert await made.ainvoke({"query": "lighthouse"}) == text
        # On a thread with a loop there is no waiting, on others there is no room.
        assert made.invoke({"query": "lighthouse"}) == text
        assert await asyncio.to_thread(made.invoke, {"query": "lighthouse"}) == text
        waiting.cancel()
    await free(guard)


async def test_a_call_whose_turn_does_not_come_is_told_so_and_tracing_sees_the_error(bench):
    guard = guard_with_time(max_concurrency=1, queue_timeout_s=30.0)
    watcher = Watcher()
    made = behind(StructuredTool(func=bench.work, **FIELDS), guard)
    async with guard.slot():
        task = asyncio.ensure_future(made.ainvoke(asked(), {"callbacks": [watcher]}))
        await guard.clock.advance(30.0)
        assert is_error(await task) == (
            "The tool 'search' is busy: this call's turn did not come within 30 s; 1 call is running and 0 waiting. Go "
            "on without it, or try again later."
        )
    assert [type(error) for error in watcher.errors] == [QueueTimeout]


@pytest.mark.parametrize("way", ["ainvoke", "invoke"])
async def test_a_tool_that_is_late_again_and_again_is_left_alone_for_a_while(bench, way):
    guard = guard_with_time(max_concurrency=MIN_CALLS)
    bench.gate.clear()
    made = behind(Plain(bench=bench), guard, timeout_s=60.0)
    ask = made.ainvoke if way == "ainvoke" else functools.partial(asyncio.to_thread, made.invoke)
    tasks = [asyncio.ensure_future(ask(asked())) for _ in range(MIN_CALLS)]
    await until(lambda: bench.now == MIN_CALLS == len(guard.clock._timers))
    await guard.clock.advance(60.0)
    for task in tasks:
        assert "gave no answer" in is_error(await task)
    text = is_error(await ask(asked()))
    assert text == (
        "The tool 'search' is out of service: its last calls failed. It is tried again in 5 s; go on without it until "
        "then."
    )
    bench.gate.set()
    await free(guard)
    await guard.clock.advance(5.0)
    assert (await ask(asked())).content == "found lighthouse"
    assert guard.statistics().breaker is BreakerState.CLOSED


HANDLERS = {
    "none": (False, "The tool 'search' failed: the author's text"),
    "on": (True, "the author's text"),
    "text": ("Ask somebody else.", "Ask somebody else."),
    "function": (lambda error: f"handled: {error}", "handled: the author's text"),
}


@pytest.mark.parametrize("response_format", ["content", "content_and_artifact"])
@pytest.mark.parametrize("handler", HANDLERS)
async def test_what_the_author_wants_of_a_tool_exception_is_done(handler, response_format):
    handle, expected = HANDLERS[handler]

    def fail(query: str) -> str:  # noqa: ARG001
        msg = "the author's text"
        raise ToolException(msg)

    inner = StructuredTool(func=fail, handle_tool_error=handle, response_format=response_format, **FIELDS)
    guard = guard_of()
    made = behind(inner, guard)
    assert is_error(await made.ainvoke(asked())) == expected
    assert is_error(await asyncio.to_thread(made.invoke, asked())) == expected
    if handle:
        assert is_error(await inner.ainvoke(asked())) == expected
    await free(guard)


@pytest.mark.parametrize("kind", EVERY)
async def test_a_tools_own_error_is_told_and_does_not_speak_against_its_service(kind, bench, monkeypatch):
    def fail(query: str) -> str:  # noqa: ARG001
        msg = "no such lighthouse"
        raise LookupError(msg)

    async def afail(query: str) -> str:
        return fail(query)

    monkeypatch.setattr(bench, "work", fail)
    monkeypatch.setattr(bench, "awork", afail)
    guard = guard_of()
    made = behind(EVERY[kind](bench), guard)
    for _ in range(2 * MIN_CALLS):
        assert is_error(await made.ainvoke(asked())) == "The tool 'search' failed: no such lighthouse"
    assert guard.statistics().breaker is BreakerState.CLOSED
    await free(guard)


@pytest.mark.parametrize("kind", ["function", "single input", "class", "component"])
@pytest.mark.parametrize("timeout_s", [60.0, 0.0])
async def test_a_tool_that_runs_out_of_something_does_not_leave_its_caller_waiting(kind, bench, monkeypatch, timeout_s):
    def fail(query: str) -> str:  # noqa: ARG001
        return next(iter(()))

    monkeypatch.setattr(bench, "work", fail)
    guard = guard_of()
    made = behind(SYNCHRONOUS[kind](bench), guard, timeout_s=timeout_s)
    async with asyncio.timeout(DEADLINE_S):
        assert "StopIteration" in is_error(await made.ainvoke(asked()))
        assert "StopIteration" in is_error(await asyncio.to_thread(made.invoke, asked()))
    await free(guard)


async def test_a_missing_synchronous_way_is_an_answer_too(bench):
    guard = guard_of()
    made = behind(StructuredTool(coroutine=bench.awork, **FIELDS), guard)
    assert "does not support sync" in is_error(await asyncio.to_thread(made.invoke, asked()))
    assert guard.statistics().in_flight == 0


async def test_an_answer_in_the_wrong_form_is_an_error_for_the_agent(bench):
    inner = StructuredTool(func=bench.work, response_format="content_and_artifact", **FIELDS)
    assert "two-tuple" in is_error(await behind(inner).ainvoke(asked()))


async def test_a_key_in_the_query_of_a_url_and_a_message_without_end_are_not_passed_on():
    def fail(query: str) -> str:
        msg = (
            f"Max retries exceeded with url: https://api.example.com/{query}?api_key=canary&q=x (refused) " + "x" * 5000
        )
        raise OSError(msg)

    text = is_error(await behind(StructuredTool(func=fail, **FIELDS)).ainvoke(asked()))
    assert "https://api.example.com/lighthouse?... (refused)" in text
    assert "canary" not in text
    assert len(text) < 2100


class Strict(BaseModel):
    query: str
    limit: int = Field(le=10)
    secret: Annotated[str, InjectedToolArg]


@pytest.mark.parametrize("way", ["ainvoke", "invoke"])
async def test_arguments_that_do_not_fit_cost_no_slot_and_are_named_without_their_values(bench, way):
    guard = guard_of()

    async def ask(inner, call):
        made = behind(inner, guard)
        return await (made.ainvoke(call) if way == "ainvoke" else asyncio.to_thread(made.invoke, call))

    inner = StructuredTool(name="search", description="Searches.", args_schema=Strict, func=bench.work)
    text = is_error(await ask(inner, tool_call(limit="canary")))
    assert text == (
        "The tool 'search' was not called: its arguments do not fit (query: Field required; limit: Input should be a "
        "valid integer, unable to parse string as an integer). Correct them and call it again."
    )
    inner.handle_validation_error = "Read the manual."
    assert is_error(await ask(inner, tool_call(limit="canary"))) == "Read the manual."
    assert guard.statistics().admitted == 0
    assert bench.calls == []


async def test_a_validation_error_from_inside_the_tool_is_no_matter_of_its_arguments():
    def fail(query: str) -> str:  # noqa: ARG001
        Strict.model_validate({})

    text = is_error(await behind(StructuredTool(func=fail, **FIELDS)).ainvoke(asked()))
    assert text.startswith("The tool 'search' failed: 3 validation errors for Strict")


@pytest.mark.parametrize("way", ["ainvoke", "invoke"])
async def test_an_interrupt_of_the_graph_gets_through_and_gives_the_slot_back(way):
    guard = guard_of(max_concurrency=1)

    def pause(query: str) -> str:  # noqa: ARG001
        raise GraphInterrupt

    made = behind(StructuredTool(func=pause, **FIELDS), guard)
    with pytest.raises(GraphInterrupt):
        await (made.ainvoke(asked()) if way == "ainvoke" else asyncio.to_thread(made.invoke, asked()))
    await free(guard)


# With a service behind it


@pytest.fixture
def provider(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lfx warns of its own code when its settings load
        from lfx.services.deps import get_settings_service

        get_settings_service()
    monkeypatch.setenv("LANGFLOW_SSRF_ALLOWED_HOSTS", "127.0.0.1,localhost")
    with serve_in_thread(ProviderSettings(slots=100, service_s=0.0)) as control:
        yield control


def fetching(provider, *, wrapped=False):
    def fetch(query: str) -> str:
        try:
            body = {"model": "sim-chat", "messages": [{"role": "user", "content": query}]}
            headers = {"Authorization": "Bearer canary"}
            answer = httpx.post(f"{provider.base_url}/chat/completions", json=body, headers=headers, trust_env=False)
            return answer.raise_for_status().json()["choices"][0]["message"]["content"]
        except httpx.HTTPError as error:
            if wrapped:
                raise ToolException(str(error)) from error
            raise

    return StructuredTool(func=fetch, handle_tool_error=wrapped, **FIELDS)


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "as Langflow's tools wrap it"])
async def test_a_service_that_fails_opens_the_breaker(provider, wrapped):
    provider.configure(fault="status:500")
    guard = guard_with_time()
    made = behind(fetching(provider, wrapped=wrapped), guard)
    for _ in range(MIN_CALLS):
        text = is_error(await made.ainvoke(asked()))
        assert ("Internal Server Error" in text) if wrapped else ("behind tool 'search' answered 500" in text)
    assert guard.statistics().breaker is BreakerState.OPEN
    assert "out of service" in is_error(await made.ainvoke(asked()))
    assert provider.stats().requests == {"chat": MIN_CALLS}


async def test_a_service_that_wants_to_be_left_alone_is_and_nothing_is_sent_twice(provider):
    provider.configure(slots=0, retry_after_s=20.0)
    guard = guard_with_time(queue_timeout_s=15.0)
    made = behind(fetching(provider), guard)
    text = is_error(await made.ainvoke(asked()))
    assert text == (
        "The service behind tool 'search' answered 429: it takes no more requests now. Try again in 20 s or go on "
        "without it."
    )
    task = asyncio.ensure_future(made.ainvoke(asked()))
    await guard.clock.advance(15.0)
    assert is_error(await task) == (
        "The tool 'search' is busy: its service takes no calls for now (0 calls are running and 0 waiting). Try again "
        "in 5 s or go on without it."
    )
    provider.configure(slots=1)
    await guard.clock.advance(5.0)
    assert (await made.ainvoke(asked())).status == "success"
    assert provider.stats().requests == {"chat": 2}


@pytest.mark.parametrize(("fault", "told"), [("status:401", "answered 401"), ("reset", "broke the connection off")])
async def test_the_agent_is_told_what_the_service_said_without_the_settings_of_our_nodes(provider, fault, told):
    provider.configure(fault=fault)
    text = is_error(await behind(fetching(provider)).ainvoke(asked()))
    assert told in text
    assert "api_key" not in text
    assert "canary" not in text


@pytest.mark.parametrize("get", [httpx.get, requests.get], ids=["httpx", "requests"])
async def test_an_address_that_a_model_made_up_is_no_fault_of_a_service(get):
    def fetch(query: str) -> str:
        return get(query).text

    guard = guard_of()
    made = behind(StructuredTool(func=fetch, **FIELDS), guard)
    for address in ["lighthouse", "ftp:/x", "http://[::1"] * MIN_CALLS:
        assert is_error(await made.ainvoke(asked(address))).startswith("The tool 'search' failed: ")
    assert guard.statistics().breaker is BreakerState.CLOSED


@pytest.mark.parametrize("kind", ["fails", "late", "turned away", "wrong arguments"])
async def test_an_agent_is_told_and_goes_on_where_its_run_would_end(provider, kind):
    guard = guard_with_time(max_concurrency=1, queue_timeout_s=1.0)

    async def work(query: str) -> str:
        if kind == "late":
            await asyncio.Event().wait()
        msg = f"nothing about {query}"
        raise LookupError(msg)

    class Never(BaseModel):
        query: str = Field(pattern="^never$")

    fields = {**FIELDS, "args_schema": Never} if kind == "wrong arguments" else FIELDS
    inner = StructuredTool(coroutine=work, **fields)
    upstream = Upstream(provider.base_url, "sk-canary")
    model = chat_model(upstream, guard_of(), CallPolicy(max_retries=0), model_name="sim-chat")
    question = {"messages": [("user", "lighthouse")]}
    if kind == "fails":
        with pytest.raises(LookupError):
            await create_agent(model, [inner]).ainvoke(question)
    agent = create_agent(model, [behind(inner, guard, timeout_s=60.0)])
    held = guard.slot()
    async with held if kind == "turned away" else contextlib.nullcontext():
        run = asyncio.ensure_future(agent.ainvoke(question))
        if kind in {"late", "turned away"}:
            await until(lambda: guard.clock._timers)
            await guard.clock.advance(60.0)
        messages = (await run)["messages"]
    [answer] = [message for message in messages if isinstance(message, ToolMessage)]
    expected = {"fails": "nothing about", "late": "gave no answer", "turned away": "is busy"}
    assert answer.status == "error"
    assert expected.get(kind, "do not fit") in answer.content
    assert answer.content in messages[-1].content
    await free(guard)


def test_the_errors_of_a_tool_have_codes_of_their_own():
    assert ToolTimeout("x").code == "tool_timeout"
