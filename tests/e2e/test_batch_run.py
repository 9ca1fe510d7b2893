"""Guarded Batch Run in a real Langflow: the stock node's table, progress while it lasts, and clients that leave."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

import pytest

from .callers import until
from .chats import GuardedFlow
from .streams import on_the_canvas, through_the_api

if TYPE_CHECKING:
    from .conftest import Stack

NODE = "GuardedBatchRunComponent-rows"
WAYS = {"stop on the canvas": on_the_canvas, "disconnect from the API": through_the_api}
AGES_S = 30.0  # what holds a slot that long keeps all others waiting too long
ROWS = [f"Parcel {number} at the harbour office" for number in range(6)]


@pytest.fixture
def batch(stack: Stack) -> GuardedFlow:
    """The bundled flow, behind a guard that only this test has."""
    return GuardedFlow(stack, stack.flows["batch_classify"], NODE, NODE, f"batch {uuid.uuid4()}")


async def test_in_the_place_of_batch_run_it_answers_with_the_same_table(stack: Stack, batch: GuardedFlow) -> None:
    stock = stack.run("batch_run_unbounded", "\n".join(ROWS))
    tweaks = batch.tweaks()
    tweaks[NODE] |= {"output_column_name": "model_response", "system_message": "Answer in one short sentence."}
    async with stack.langflow.async_client() as client:
        result = await client.run(batch.flow_id, "\n".join(ROWS), tweaks=tweaks)
    [texts] = [
        output["results"]["message"]["text"]
        for output in result.outputs[0]["outputs"]
        if output["component_id"] == "ChatOutput-out"
    ]
    assert texts == stock
    assert all(row in stock for row in ROWS)


async def test_a_caller_can_ask_for_all_outputs_and_finds_both_tables(stack: Stack, batch: GuardedFlow) -> None:
    stack.provider.configure(slots=1, service_s=0.1)
    outcome = await batch.ask("\n".join(ROWS), max_concurrency=2, output_type="debug")
    assert all(row in outcome for row in ROWS)
    assert "_attempts" in outcome
    assert stack.key not in outcome


async def test_the_canvas_hears_how_far_the_batch_has_come(stack: Stack, batch: GuardedFlow) -> None:
    stack.provider.configure(service_s=0.5)
    tweaks = batch.tweaks(max_concurrency=1)
    async with on_the_canvas(stack, batch.flow_id, "\n".join(ROWS), tweaks) as run:
        told = [event async for event in run.events()]
    logs = [json.dumps(event.data) for event in told if "of 6 rows" in json.dumps(event.data)]
    assert any('"Progress"' in log and "left" in log for log in logs), [event.kind for event in told]
    assert any("6 of 6 rows" in log and "tokens" in log for log in logs)
    shown = [event.data["progress"]["done"] for event in told if "progress" in event.data]
    assert shown == sorted(shown)
    assert shown[-1] == 6


@pytest.mark.parametrize("way", WAYS)
async def test_who_leaves_ends_the_calls_in_flight_and_the_other_rows_never_start(
    stack: Stack, batch: GuardedFlow, way: str
) -> None:
    stack.provider.configure(slots=2, service_s=AGES_S)
    async with WAYS[way](stack, batch.flow_id, "\n".join(ROWS), batch.tweaks(max_concurrency=2)):
        await until(lambda: stack.provider.stats().in_flight == {"chat": 2})
        stack.provider.configure(service_s=0.0)
    # The guard turns the next row away if no slot comes back within a second.
    assert "Answer to: next" in await batch.ask("next", max_concurrency=2, queue_timeout=1)
    stats = stack.provider.stats()
    assert (stats.requests, stats.disconnects, stats.in_flight) == ({"chat": 3}, 2, {})
