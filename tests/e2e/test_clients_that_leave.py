"""Clients that leave a run: what they hold comes back, and what they wait for is never asked, in a real Langflow."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from langflow_sluice.canvas.bundled import bundled_flows
from langflow_sluice.embedded.langflow import LangflowError
from langflow_sluice.guard.retry import deadline
from langflow_sluice.simulator import fingerprint

from .chats import GUARD, KINDS, LIMITED, GuardedFlow, guarded_chats, upload
from .streams import on_the_canvas, through_the_api

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .conftest import Palette, Stack

WAYS = {"stop on the canvas": on_the_canvas, "disconnect from the API": through_the_api}
LONG = " ".join(f"word{number}" for number in range(300))
ROWS = "\n".join(f"Ticket {number} of the harbour office" for number in range(6))
AGES_S = 30.0  # what holds a slot that long keeps all others waiting too long
IDLE = re.compile(r"\b0 of \d+ in flight, 0 waiting\b")


@pytest.fixture(scope="module")
def chats(running: Stack, palette: Palette) -> dict[str, GuardedFlow]:
    return guarded_chats(running, palette)


@pytest.fixture(params=KINDS)
def chat(request: pytest.FixtureRequest, chats: dict[str, GuardedFlow]) -> GuardedFlow:
    """A chat behind a guard that only this test has."""
    return chats[request.param].behind(f"{request.node.name} {uuid.uuid4()}")


async def until(condition: Callable[[], bool], every_s: float = 0.02) -> None:
    async with deadline(AGES_S):
        while not condition():  # noqa: ASYNC110 - it is of another process, which tells nobody
            await asyncio.sleep(every_s)


def say(stack: Stack, what: str, left_at: float, gone: Iterable[str], following: str) -> None:
    """Prints how long after the client's leaving the provider saw it, and the next call."""
    calls, subjects = stack.provider.stats().calls, {fingerprint(text) for text in gone}
    seen_s = max(call.arrived_at + call.duration_s for call in calls if call.subject in subjects) - left_at
    [next_s] = [call.arrived_at - left_at for call in calls if call.subject == fingerprint(following)]
    print(f"{what}: the provider saw it after {seen_s:.3f} s, the next call after {next_s:.3f} s")  # noqa: T201 - seen with pytest -s


@pytest.mark.parametrize("way", WAYS)
async def test_who_leaves_in_the_middle_of_a_stream_gives_the_slot_back_and_closes_the_connection(
    stack: Stack, chat: GuardedFlow, way: str
) -> None:
    stack.provider.configure(slots=1, service_s=AGES_S)
    async with WAYS[way](stack, chat.flow_id, LONG, chat.tweaks(stream=True, max_concurrency=1)) as run:
        await run.until_written(1)
        assert stack.provider.stats().in_flight == {"chat": 1}
        stack.provider.configure(service_s=0.0)
        left_at = time.time()
    # The guard turns the next call away if the slot does not come back within a second, the provider if it is busy.
    assert "Answer to: next" in await chat.ask("next", max_concurrency=1, queue_timeout=1)
    stats = stack.provider.stats()
    assert (stats.disconnects, stats.in_flight, stats.answered) == (1, {}, {200: 2})
    say(stack, way, left_at, [LONG], "next")


async def test_stop_on_the_canvas_ends_a_call_that_does_not_stream(stack: Stack, chat: GuardedFlow) -> None:
    stack.provider.configure(slots=1, service_s=AGES_S)
    async with on_the_canvas(stack, chat.flow_id, "first", chat.tweaks(max_concurrency=1)):
        await until(lambda: stack.provider.stats().in_flight == {"chat": 1})
        stack.provider.configure(service_s=0.0)
        left_at = time.time()
    assert "Answer to: next" in await chat.ask("next", max_concurrency=1, queue_timeout=1)
    stats = stack.provider.stats()
    assert (stats.disconnects, stats.in_flight, stats.answered) == (1, {}, {200: 1})
    say(stack, "stop, not streaming", left_at, ["first"], "next")


@pytest.mark.parametrize("way", WAYS)
async def test_who_leaves_while_waiting_sends_nothing_to_the_provider(
    stack: Stack, chat: GuardedFlow, way: str
) -> None:
    stack.provider.configure(service_s=AGES_S)
    tweaks = chat.tweaks(stream=True, max_concurrency=1)
    async with WAYS[way](stack, chat.flow_id, LONG, tweaks) as first:
        await first.until_written(1)
        stack.provider.configure(service_s=0.0)
        async with WAYS[way](stack, chat.flow_id, "second", tweaks) as second:
            await second.until_begun()
            # A whole run through another guard passes it meanwhile: by then it has come to its own guard.
            await chat.behind("beside").ask("beside")
            assert stack.provider.stats().in_flight == {"chat": 1}
    outcome = await chat.ask("third", max_concurrency=1, output_type="debug")
    assert "Answer to: third" in outcome
    assert IDLE.search(outcome)
    assert stack.provider.stats().subjects() == Counter(map(fingerprint, ("beside", LONG, "third")))


@pytest.fixture(scope="module")
def fan_out(running: Stack) -> str:
    """The bundled flow with its settings in it: tweaks of a run on the canvas do not reach the body of a section."""
    flow = next(flow for flow in bundled_flows() if flow.slug == "fan_out_rows").load()
    [template] = [node["data"]["node"]["template"] for node in flow["data"]["nodes"] if node["id"] == LIMITED]
    values = {"base_url": running.provider.base_url, "guard_name": "Fan-Out", "max_concurrency": 2, "max_retries": 0}
    for name, value in values.items():
        template[name]["value"] = value
    return upload(running, flow)


@pytest.fixture(params=["Batch Run", "Fan-Out"])
def rows(request: pytest.FixtureRequest, stack: Stack, model_flows: dict[str, str], fan_out: str) -> GuardedFlow:
    """A flow whose rows ask a guarded model."""
    if request.param == "Fan-Out":
        return GuardedFlow(stack, fan_out, LIMITED, "FanOutComponent-rows", "Fan-Out")
    return GuardedFlow(stack, model_flows["batch"], GUARD, "BatchRunComponent-rows", request.node.name)


@pytest.mark.parametrize("way", WAYS)
async def test_who_leaves_a_run_over_rows_ends_those_in_flight_and_the_others_never_start(
    stack: Stack, rows: GuardedFlow, way: str
) -> None:
    stack.provider.configure(slots=2, service_s=AGES_S)
    async with WAYS[way](stack, rows.flow_id, ROWS, rows.tweaks(max_concurrency=2)):
        await until(lambda: stack.provider.stats().in_flight == {"chat": 2})
        stack.provider.configure(service_s=0.0)
        left_at = time.time()
    assert "Answer to: next" in await rows.ask("next", max_concurrency=2, queue_timeout=1)
    stats = stack.provider.stats()
    assert (stats.requests, stats.disconnects, stats.in_flight) == ({"chat": 3}, 2, {})
    say(stack, way, left_at, ROWS.splitlines(), "next")


def errors_after_s(stack: Stack, session_id: str) -> list[float]:
    """For each run of a session that has ended with an error: how long after its beginning, by Langflow's chat."""
    [path] = (stack.langflow.folder / "config").glob("*.db")
    query = """
        SELECT (julianday(failed.timestamp) - julianday(asked.timestamp)) * 86400
        FROM message AS failed JOIN message AS asked ON failed.run_id = asked.run_id
        WHERE failed.session_id = ? AND failed.category = 'error' AND asked.category = 'message'
    """
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return [seconds for (seconds,) in database.execute(query, (session_id,))]


async def test_fifty_plain_calls_whose_clients_leave_hold_nothing_beyond_their_own_timeouts(
    stack: Stack, chats: dict[str, GuardedFlow]
) -> None:
    name, cap, calls = f"fifty {uuid.uuid4()}", 4, 50
    flows = [chat.behind(name) for chat in chats.values()]
    stack.provider.configure(fault="hang", slots=cap)
    async with stack.langflow.async_client() as client:

        async def leave_after_a_while(number: int) -> None:
            flow = flows[number % len(flows)]
            tweaks = flow.tweaks(max_concurrency=cap, total_timeout=8, queue_timeout=6)
            with pytest.raises(LangflowError, match="did not answer"):
                await client.run(flow.flow_id, f"call {number}", session_id=name, tweaks=tweaks, timeout_s=4)

        await asyncio.gather(*(leave_after_a_while(number) for number in range(calls)))
    await until(lambda: len(errors_after_s(stack, name)) == calls, every_s=0.2)
    stats = stack.provider.stats()
    held_s, over_s = max(call.duration_s for call in stats.calls), max(errors_after_s(stack, name))
    print(f"{calls} calls of 8 s each: a slot held for {held_s:.2f} s, a run over after {over_s:.2f} s at most")  # noqa: T201
    assert (stats.in_flight, stats.max_in_flight["chat"], stats.answered) == ({}, cap, {})
    assert stats.disconnects == stats.requests["chat"] < calls

    stack.provider.reset()
    stack.provider.configure(fault="ok", service_s=0.2)
    asked = (flow.ask("well again", max_concurrency=cap) for flow in flows for _ in range(cap))
    assert all("Answer to: well again" in outcome for outcome in await asyncio.gather(*asked))
    stats = stack.provider.stats()
    assert (stats.answered, stats.max_in_flight["chat"]) == ({200: 2 * cap}, cap)
    assert IDLE.search(await flows[0].ask("at last", max_concurrency=cap, output_type="debug"))
