"""How runs with sections end before their time: stopped, left alone, or by an error; in a real Langflow."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from .callers import tell
from .chats import upload
from .section_flows import (
    DONE,
    FAILED,
    GATE,
    Desk,
    cells,
    counted_rows,
    everybody,
    gate_visiting,
    markdown,
    rows_visiting,
)
from .streams import on_the_canvas, through_the_api
from .ways import WAYS, http, run, started_build, submitted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .conftest import Palette, Stack

ROWS = [f"row {number}" for number in range(6)]


@contextlib.asynccontextmanager
async def stop_on_the_canvas(stack: Stack, flow_id: str, text: str) -> AsyncIterator[None]:
    """Aborts the request, as the canvas's Stop does."""
    async with on_the_canvas(stack, flow_id, text, {}):
        yield


@contextlib.asynccontextmanager
async def streaming_client_leaves(stack: Stack, flow_id: str, text: str) -> AsyncIterator[None]:
    """Disconnects from ``/api/v1/run?stream=true``."""
    async with through_the_api(stack, flow_id, text, {}):
        yield


@contextlib.asynccontextmanager
async def background_job_stopped(stack: Stack, flow_id: str, text: str) -> AsyncIterator[None]:
    """Asks the v2 workflow API to stop a job."""
    async with http(stack) as client:
        job_id = await submitted(client, flow_id, text, {})
        yield
        response = await client.post("/api/v2/workflows/stop", json={"job_id": job_id})
        assert "cancelled" in response.raise_for_status().json()["message"]


@contextlib.asynccontextmanager
async def build_cancelled(stack: Stack, flow_id: str, text: str) -> AsyncIterator[None]:
    """Cancels a build of the v1 API, as canvases before 1.13 did."""
    async with http(stack) as client, started_build(stack, flow_id, text) as (job_id, _):
        yield
        response = await client.post(f"/api/v1/build/{job_id}/cancel")
        assert response.raise_for_status().json()["success"]


WAYS_TO_STOP = {
    "stop on the canvas": stop_on_the_canvas,
    "streaming client leaves": streaming_client_leaves,
    "background job stopped": background_job_stopped,
    "build cancelled": build_cancelled,
}


@pytest.mark.parametrize("way", WAYS_TO_STOP)
async def test_rows_that_run_are_cancelled_and_the_others_never_start(stack: Stack, palette: Palette, way: str) -> None:
    async with Desk(lambda name: name in ROWS) as desk:
        flow = rows_visiting(palette, desk.port, guard_name=f"stopped: {way}", max_concurrency=2, queue_timeout=1)
        flow_id = upload(stack, flow.to_dict())
        async with WAYS_TO_STOP[way](stack, flow_id, "\n".join(ROWS)):
            await desk.until(lambda: desk.inside == 2)
            left_at = time.monotonic()
        await desk.until(lambda: not desk.inside)
        gone_s = time.monotonic() - left_at
        # The guard fails what waits longer than a second; so the slots of those who were cancelled have come back.
        ending = await run(stack, flow_id, "next row\nlast row", {})
        tell(f"{way}: rows in flight were gone after {gone_s:.3f} s")
        assert cells(ending.said[FAILED]) == []
        assert sorted(desk.gone) == ROWS[:2]
        assert sorted(desk.came) == sorted([*ROWS[:2], "next row", "last row"])


@pytest.mark.parametrize("way", WAYS_TO_STOP)
async def test_who_holds_a_gate_gives_its_slot_back_and_who_waits_never_enters(
    stack: Stack, palette: Palette, way: str
) -> None:
    stop = WAYS_TO_STOP[way]
    async with Desk(lambda name: name in {"first", "second"}) as desk:
        flow = gate_visiting(palette, desk.port, guard_name=f"gate: {way}", max_concurrency=1, queue_timeout=30)
        flow_id = upload(stack, flow.to_dict())
        async with stop(stack, flow_id, "first"):
            await desk.until(lambda: desk.came == ["first"])
            async with stop(stack, flow_id, "second"):
                # Whole runs through another guard pass it meanwhile: by then it has come to its own.
                for _ in range(2):
                    await run(stack, flow_id, "beside", {GATE: {"guard_name": "beside"}})
            left_at = time.monotonic()
        await desk.until(lambda: not desk.inside)
        tell(f"{way}: the gate's holder was gone after {time.monotonic() - left_at:.3f} s")
        ending = await run(stack, flow_id, "third", {GATE: {"queue_timeout": 1}})
        assert (ending.error, ending.said) == ("", {DONE: "third seen"})
        assert (desk.came, desk.gone) == (["first", "beside", "beside", "third"], ["first"])


async def test_a_plain_call_whose_client_leaves_runs_its_rows_to_their_end_by_itself(
    stack: Stack, palette: Palette
) -> None:
    async with Desk(lambda name: name in ROWS) as desk:
        flow = rows_visiting(palette, desk.port, guard_name="left alone", max_concurrency=2, item_timeout=1)
        flow_id = upload(stack, flow.to_dict())
        async with http(stack) as client:
            call = asyncio.ensure_future(client.post(f"/api/v1/run/{flow_id}", json={"input_value": "\n".join(ROWS)}))
            await desk.until(lambda: desk.inside == 2)
            call.cancel()
        # Langflow tells nobody; each row ends at its own timeout, and the next one takes its slot.
        await desk.until(lambda: len(desk.gone) == len(ROWS))
        assert (desk.most, sorted(desk.came)) == (2, ROWS)
        assert cells((await run(stack, flow_id, "next row", {})).said[FAILED]) == []


@pytest.mark.parametrize("way", WAYS)
async def test_with_stop_the_first_error_ends_the_run_and_names_its_row(
    stack: Stack, palette: Palette, way: str
) -> None:
    async with Desk(everybody, unwelcome={"row 2"}, crowd=4) as desk:
        flow = rows_visiting(palette, desk.port, guard_name=f"error: {way}", max_concurrency=4, on_error="stop")
        ending = await WAYS[way](stack, upload(stack, flow.to_dict()), "\n".join(ROWS), {})
        await desk.until(lambda: not desk.inside)
        assert "Row 2 failed: row 2 was turned away" in ending.error
        assert ending.said == {}
        # Whoever was inside is cancelled; the others never come.
        assert (sorted(desk.came), sorted(desk.gone)) == (ROWS[:4], ["row 0", "row 1", "row 3"])


async def test_with_collect_a_hundred_rows_of_which_seven_fail_keep_the_others_in_order(
    stack: Stack, palette: Palette
) -> None:
    rows = [f"row {number:02}" for number in range(100)]
    bad = rows[3::15]
    assert len(bad) == 7
    # The first row is the last to be served, and still comes first.
    async with Desk(lambda name: name == rows[0], unwelcome=bad) as desk:
        flow = rows_visiting(palette, desk.port, guard_name="seven fail", max_concurrency=10)
        call = asyncio.ensure_future(run(stack, upload(stack, flow.to_dict()), "\n".join(rows), {}))
        await desk.until(lambda: len(desk.came) == len(rows) and desk.inside == 1)
        desk.opened.set()
        ending = await call
        assert sorted(desk.came) == rows
        assert desk.most <= 10
    done = [[row, f"{row} seen"] for row in rows if row not in bad]
    assert len(done) == 93
    assert ending.said[DONE] == markdown(["text", "result"], done)
    failed = [row[:3] for row in cells(ending.said[FAILED])]
    assert failed == [[row, str(int(row.split()[1])), f"{row} was turned away"] for row in bad]


@pytest.mark.parametrize("rows", [40, pytest.param(200, marks=pytest.mark.slow)])
async def test_ten_calls_at_once_never_have_more_rows_in_flight_than_the_cap_that_they_share(
    stack: Stack, palette: Palette, rows: int
) -> None:
    calls, cap = 10, 8
    async with Desk(everybody) as desk:
        flow = rows_visiting(palette, desk.port, guard_name="shared by ten", max_concurrency=cap)
        flow_id = upload(stack, flow.to_dict())
        beside = upload(stack, counted_rows(palette).to_dict())
        texts = ["\n".join(f"call {call} row {row:03}" for row in range(rows)) for call in range(calls)]
        asked = [asyncio.ensure_future(run(stack, flow_id, text, {})) for text in texts]
        await desk.until(lambda: desk.inside == cap)
        # Those inside are held while all the others come to the guard, so that one that leaks is found out.
        await run(stack, beside, "20", {})
        assert desk.most == cap
        started = time.monotonic()
        desk.opened.set()
        endings = await asyncio.gather(*asked)
        tell(f"{calls * rows} rows of {calls} calls in {time.monotonic() - started:.1f} s, {desk.most} at most at once")
        assert desk.most == cap
    for text, ending in zip(texts, endings, strict=True):
        done = markdown(["text", "result"], [[row, f"{row} seen"] for row in text.splitlines()])
        assert (ending.error, ending.said[DONE], cells(ending.said[FAILED])) == ("", done, [])
    assert sorted(desk.came) == sorted("\n".join(texts).splitlines())
