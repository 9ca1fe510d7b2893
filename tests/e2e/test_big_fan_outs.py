"""Fan-Outs over many rows in a real Langflow: what comes through its event streams, and what a row costs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest

from .callers import tell
from .chats import upload
from .section_flows import DONE, counted_rows
from .streams import Run, on_the_canvas
from .ways import Ending, end_on_the_canvas, http, run, submitted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .conftest import Palette, Stack
    from .streams import Event

MANY = 20_000
MOST_GROWTH_MB = 200
SYNC_LIMIT_S = 300  # LANGFLOW_WORKFLOW_EXECUTION_TIMEOUT, as it comes
AT_ONCE = 12
# Of a run whatever its rows, and of a Fan-Out for each second of its own: its progress, twice, and four of its body's
# messages. Langflow's streams fail a run that is 256 events ahead of its reader.
EVENTS_OF_A_RUN, EVENTS_A_SECOND = 40, 6


def right(rows: int) -> Ending:
    """What a run comes to whose rows are all there."""
    return Ending({DONE: f"{rows} rows, {rows} right and in place"})


class Server:
    """What Langflow's processes take."""

    def __init__(self, pid: int) -> None:
        main = psutil.Process(pid)
        self._processes = [main, *main.children(recursive=True)]

    def cpu_s(self) -> float:
        """Seconds of CPU so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)

    def resident_mb(self) -> float:
        """Resident memory now."""
        return sum(process.memory_info().rss for process in self._processes) / 2**20


@dataclass
class Load:
    """What a run cost.

    Attributes:
        seconds: Its time.
        cpu_s: The server's CPU.
        growth_mb: By how much the server's resident memory was larger than before at most.
    """

    seconds: float = 0.0
    cpu_s: float = 0.0
    growth_mb: float = 0.0

    def each(self, rows: int) -> str:
        """The cost in words."""
        return (
            f"{rows} rows in {self.seconds:.1f} s: {1000 * self.seconds / rows:.2f} ms and "
            f"{1000 * self.cpu_s / rows:.2f} ms of CPU a row, {self.growth_mb:.0f} MB more resident"
        )


@contextlib.asynccontextmanager
async def measured(stack: Stack) -> AsyncIterator[Load]:
    """Measures what the block asks of the server."""
    server, load = Server(stack.langflow.pid), Load()
    before_mb, cpu_s, started = server.resident_mb(), server.cpu_s(), time.monotonic()

    async def watch() -> None:
        while True:
            load.growth_mb = max(load.growth_mb, server.resident_mb() - before_mb)
            await asyncio.sleep(0.25)

    watching = asyncio.ensure_future(watch())
    try:
        yield load
        load.seconds, load.cpu_s = time.monotonic() - started, server.cpu_s() - cpu_s
    finally:
        watching.cancel()


class CountedRun:
    """A run whose events are counted as they pass.

    Args:
        followed: The run.
    """

    def __init__(self, followed: Run) -> None:
        self._followed = followed
        self.kinds: Counter[str] = Counter()

    async def events(self) -> AsyncIterator[Event]:
        """What happens from now on."""
        async for event in self._followed.events():
            self.kinds[event.kind] += 1
            yield event


async def through_the_canvas(stack: Stack, flow_id: str, rows: int) -> tuple[Ending, Counter[str]]:
    """A run of so many rows in the Playground: what it came to, and its events."""
    async with on_the_canvas(stack, flow_id, str(rows), {}) as started:
        counted = CountedRun(started)
        return await end_on_the_canvas(counted), counted.kinds


async def in_the_background(stack: Stack, flow_id: str, rows: int) -> tuple[Ending, Counter[str]]:
    """A job over so many rows, whose events are followed: what it came to, and its events."""
    async with http(stack) as client:
        job_id = await submitted(client, flow_id, str(rows), {})
        async with client.stream("GET", f"/api/v2/workflows/{job_id}/events") as response:
            counted = CountedRun(Run(response.raise_for_status()))
            return await end_on_the_canvas(counted), counted.kinds


@pytest.fixture(scope="module")
def counting(running: Stack, palette: Palette) -> str:
    """A flow of trivial rows."""
    return upload(running, counted_rows(palette, max_concurrency=AT_ONCE).to_dict())


async def test_a_thousand_rows_come_through_the_canvas_with_few_events(stack: Stack, counting: str) -> None:
    async with measured(stack) as load:
        ending, kinds = await through_the_canvas(stack, counting, 1000)
    tell(f"canvas: {load.each(1000)}, {kinds.total()} events")
    assert ending == right(1000)
    assert kinds.total() <= EVENTS_OF_A_RUN + EVENTS_A_SECOND * (load.seconds + 1)
    # The body's nodes say nothing of themselves on the way.
    assert kinds["STEP_STARTED"] <= 6


async def test_rows_that_wait_take_little_more_than_the_ideal_time(stack: Stack, palette: Palette) -> None:
    flow_id = upload(stack, counted_rows(palette, seconds=0.5, max_concurrency=5).to_dict())
    took_s: dict[int, list[float]] = {0: [], 12: []}
    for rows in (0, 12, 0, 12):
        async with measured(stack) as load:
            assert await run(stack, flow_id, str(rows), {}) == right(rows)
        took_s[rows].append(load.seconds)
    empty_s, full_s = min(took_s[0]), min(took_s[12])
    ratio = (full_s - empty_s) / 1.5
    tell(f"12 rows of 0.5 s, 5 at a time: {full_s:.2f} s, empty run {empty_s:.2f} s, {ratio:.2f} x the ideal 1.5 s")


@pytest.mark.slow
async def test_twenty_thousand_rows_come_through_the_canvas_in_flat_memory(stack: Stack, counting: str) -> None:
    async with measured(stack) as first:
        assert (await through_the_canvas(stack, counting, MANY // 10))[0] == right(MANY // 10)
    async with measured(stack) as load:
        ending, kinds = await through_the_canvas(stack, counting, MANY)
    tell(f"canvas: {first.each(MANY // 10)}\ncanvas: {load.each(MANY)}, {kinds.total()} events: {dict(kinds)}")
    assert ending == right(MANY)
    assert load.growth_mb < MOST_GROWTH_MB


@pytest.mark.slow
async def test_twenty_thousand_rows_in_the_background_outlast_the_limit_of_a_stream(
    stack: Stack, palette: Palette
) -> None:
    seconds = 1.2 * SYNC_LIMIT_S * AT_ONCE / MANY
    flow_id = upload(stack, counted_rows(palette, seconds=seconds, max_concurrency=AT_ONCE).to_dict())
    async with measured(stack) as load:
        ending, kinds = await in_the_background(stack, flow_id, MANY)
    tell(f"background: {load.each(MANY)}, {kinds.total()} events: {dict(kinds)}")
    assert ending == right(MANY)
    assert load.seconds > SYNC_LIMIT_S  # rows alone take that long; else this test shows nothing
    assert load.growth_mb < MOST_GROWTH_MB
