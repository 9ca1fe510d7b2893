"""The progress of a Fan-Out in a real Langflow: in the event streams while it works, and nowhere afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .section_flows import FAN_OUT, counted_rows
from .streams import on_the_canvas, through_the_api

if TYPE_CHECKING:
    from .conftest import Palette, Stack

ROWS = 6
# 2 s of work: long enough to be shown, with an update on the way.
TWEAKS = {FAN_OUT: {"max_concurrency": 2}}


@pytest.fixture(scope="module")
def slow_rows(running: Stack, palette: Palette) -> str:
    return running.client.upload_flow(counted_rows(palette, seconds=0.9).to_dict())


@pytest.mark.parametrize("way", [through_the_api, on_the_canvas])
async def test_long_work_shows_one_message_that_updates_and_is_not_kept(way: Any, stack: Stack, slow_rows: str) -> None:
    async with way(stack, slow_rows, str(ROWS), TWEAKS) as run:
        events = [event async for event in run.events()]
    shown = [event.data for event in events if event.kind == "add_message" and "progress" in event.data]
    assert len({message["id"] for message in shown}) == 1
    assert [message["properties"]["state"] for message in shown][-1] == "complete"
    assert {message["properties"]["state"] for message in shown[:-1]} == {"partial"}
    figures = [message["progress"] for message in shown]
    assert [each["total"] for each in figures] == [ROWS] * len(figures)
    assert 0 < figures[0]["done"] + 1 <= ROWS
    assert (figures[-1]["done"], figures[-1]["failed"], figures[-1]["left_s"]) == (ROWS, 0, 0.0)

    # The same in the node's Logs, each entry with its own line only.
    logged = [
        event.data.get("value", event.data)
        for event in events
        if event.kind == "log" or event.data.get("name") == "langflow.log"
    ]
    lines = [entry["message"] for entry in logged if entry["name"] == "Progress"]
    assert len(lines) >= len(shown)
    assert lines[-1].startswith(f"{ROWS} of {ROWS} rows")

    # Clients of AG-UI take text messages for the answer: there is the answer, and nothing else.
    texts = [event.data["delta"] for event in events if event.kind == "TEXT_MESSAGE_CONTENT"]
    assert [text for text in texts if "in place" not in text] == []

    stored = stack.client._request("GET", "/api/v1/monitor/messages")
    assert stored
    assert {message["id"] for message in stored}.isdisjoint({shown[0]["id"]})
    assert not [message for message in stored if message["sender_name"] == "Fan-Out"]


def test_all_outputs_of_a_fan_out_can_be_asked_for(stack: Stack, slow_rows: str) -> None:
    tweaks = {"StepComponent-step": {"seconds": 0.0}}
    result = stack.client.run(slow_rows, "3", tweaks=tweaks, output_type="debug")
    (fan,) = [each for each in result.outputs[0]["outputs"] if each and each["component_id"] == FAN_OUT]
    assert fan["outputs"]["done"]["message"] == [{"n": n, "text": f"row {n}", "next": n + 1} for n in range(3)]
    assert fan["artifacts"]["done"]["repr"].startswith("3 of 3 rows")
