"""Connections under models: few, shared by all runs, and whole from whichever loop or thread a model is called."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from .callers import Callers, callers, echoed, once_each, tell, tickets

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from .conftest import Palette, Stack

CAP = 8  # of the guard, as the nodes come
LOOP_ERRORS = ("loop is closed", "different loop", "different event loop", "never retrieved", "never awaited")


async def twenty_runs_of_ten_calls(
    stack: Stack, flows: dict[str, str], way: Callable[[Callers, Sequence[str]], Coroutine[None, None, dict[str, str]]]
) -> int:
    """Makes the calls, checks the answers and returns how many connections the provider saw."""
    texts = tickets("row", 200)
    runs = [texts[start : start + 10] for start in range(0, 200, 10)]
    async with callers(stack, flows) as ask:
        started = time.monotonic()
        answers = await asyncio.gather(*(way(ask, rows) for rows in runs))
        took_s = time.monotonic() - started
    assert answers == [echoed(rows) for rows in runs]
    stats = stack.provider.stats()
    assert stats.subjects() == once_each(texts)
    assert stats.answered == {200: 200}
    tell(f"20 runs of 10 calls: {stats.connections_opened} connections, {took_s:.2f} s")
    return stats.connections_opened


async def test_the_rate_limited_llm_opens_no_more_connections_than_the_cap(
    stack_afresh: Stack, model_flows: dict[str, str]
) -> None:
    assert await twenty_runs_of_ten_calls(stack_afresh, model_flows, Callers.fan_out) <= CAP


async def test_the_guarded_stock_model_opens_no_more_connections_than_the_cap(
    stack_afresh: Stack, model_flows: dict[str, str]
) -> None:
    assert await twenty_runs_of_ten_calls(stack_afresh, model_flows, Callers.batch) <= CAP


async def test_the_stock_model_opens_more_connections_than_that(
    stack_afresh: Stack, model_flows: dict[str, str]
) -> None:
    stack_afresh.provider.configure(slots=200)
    assert await twenty_runs_of_ten_calls(stack_afresh, model_flows, Callers.stock_batch) > 2 * CAP


async def test_streams_open_no_more_connections_than_the_cap(stack_afresh: Stack, model_flows: dict[str, str]) -> None:
    questions = tickets("stream", 2 * CAP)
    stack_afresh.provider.configure(service_s=0.2)
    async with callers(stack_afresh, model_flows) as ask:
        answers = await asyncio.gather(*map(ask.stream, questions))
    assert answers == [echoed([question]) for question in questions]
    stats = stack_afresh.provider.stats()
    assert stats.subjects() == once_each(questions)
    assert stats.connections_opened <= CAP
    tell(f"{len(questions)} streams: {stats.connections_opened} connections")


@pytest.fixture(scope="session")
def asking(running: Stack, palette: Palette) -> tuple[str, list[str]]:
    """A flow in which nodes ask one model in turn, each from elsewhere, and the ids of those nodes."""
    from .model_flows import ASKING, asking_in_turn

    return running.client.upload_flow(asking_in_turn(palette).to_dict()), [f"{kind}-ask" for kind in ASKING]


@pytest.mark.parametrize("stream", [False, True])
async def test_one_model_is_asked_once_from_the_loop_a_thread_and_loops_of_their_own(
    stack_afresh: Stack, asking: tuple[str, list[str]], *, stream: bool
) -> None:
    flow_id, nodes = asking
    # Fewer runs than the cap: a node that blocks the server's loop must find a slot free, or nobody can give one back.
    questions = tickets("streamed" if stream else "whole", CAP - 2)
    logged = stack_afresh.langflow.log_path.stat().st_size
    async with callers(stack_afresh, {"asking": flow_id}) as ask:
        tweaks = {node: {"stream": stream} for node in nodes}
        answers = await asyncio.gather(*(ask.run("asking", question, tweaks) for question in questions))
    assert answers == ["Answer to: " * len(nodes) + question for question in questions]
    stats = stack_afresh.provider.stats()
    asked = ["Answer to: " * turn + question for turn in range(len(nodes)) for question in questions]
    assert stats.subjects() == once_each(asked)
    assert stats.answered == {200: len(asked)}
    assert stats.disconnects == 0
    with stack_afresh.langflow.log_path.open(errors="replace") as log:
        log.seek(logged)
        assert [line for line in log if any(error in line for error in LOOP_ERRORS)] == []
