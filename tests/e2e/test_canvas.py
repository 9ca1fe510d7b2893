"""The canvas as its users see it: the palette, the bundled flows by file, the Playground, Stop; in a real browser."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from langflow_sluice.canvas.bundled import bundled_flows

pytest.importorskip("playwright", reason="the tests in a browser need Playwright")

from playwright.async_api import expect

from .browser import NAMES, canvas, found
from .callers import AGES_S, until
from .test_bundled_flows import FACTS, chat_at_the_provider, ingested, ingested_by_stock  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .browser import Canvas
    from .conftest import Stack

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(found() is None, reason=f"the tests in a browser need one of {', '.join(NAMES)}"),
]

CONTRACT = Path(__file__).parents[1] / "components" / "contract.json"
NODES = sorted(json.loads(CONTRACT.read_text("utf-8"))["nodes"])
FLOWS = {flow.slug: flow for flow in bundled_flows()}
SOON_MS = 2_000  # for what ought to be so already
CAP = 8  # of the flows' Rate-Limited LLM, as it comes
ROWS = [f"Ticket {number} of the harbour office" for number in range(1, 9)]
ANSWERS = [f"Answer to: {row}" for row in ROWS]
QUESTION, SENTENCE = next(iter(FACTS.items()))
# What is typed into the Playground, and what must come back.
ASKED = {
    "batch_classify": ("\n".join(ROWS), ANSWERS),
    "batch_run_unbounded": ("\n".join(ROWS), ANSWERS),
    "chat_rate_limited": ("hello there", ["Answer to: hello there"]),
    "fan_out_rows": ("\n".join(ROWS), ANSWERS),
    "fan_out_subflows": ("\n".join(ROWS), ANSWERS),
    "gated_section": ("item 1", ["status", "ok"]),
    "guarded_agent": (QUESTION, [SENTENCE]),
    "ingest_documents": ("\n".join(FACTS.values()), ["0 written, 4 skipped, 0 failed"]),
    "priority_lanes": ("\n".join(ROWS[:2]), ANSWERS[:2]),
    "rag_pgvector": (QUESTION, [SENTENCE]),
    "rag_pooled_postgres": (QUESTION, [SENTENCE]),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def window(running: Stack) -> AsyncIterator[Canvas]:
    """The browser, for all tests of this module."""
    async with canvas(running.langflow.base_url) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def page(window: Canvas, stack: Stack) -> AsyncIterator[Canvas]:  # noqa: ARG001 - the provider as it is for every test
    """The browser; what a test's page complains of fails the test."""
    window.problems.clear()
    yield window
    assert window.problems == []


def filled(slug: str, stack: Stack, **values: Any) -> dict[str, Any]:
    """A bundled flow's file, its fields filled in as its users would: where models and APIs are.

    Args:
        slug: The flow.
        stack: What runs.
        values: Further values, by the name of the field.
    """
    flow = FLOWS[slug].load()
    values |= {
        "base_url": stack.provider.base_url,
        "openai_api_base": stack.provider.base_url,
        "url_input": f"{stack.langflow.base_url}/health",
    }
    for node in flow["data"]["nodes"]:
        template = node["data"]["node"].get("template", {})
        for name in template.keys() & values.keys():
            template[name] |= {"value": values[name], "load_from_db": False}
    return flow


async def test_the_palette_shows_our_group_and_each_node_with_its_icon(page: Canvas, stack: Stack) -> None:
    await page.open(stack.client.upload_flow({"name": "Empty", "data": {"nodes": [], "edges": []}}), nodes=0)
    rows = await page.open_group("sluice")
    await expect(page.part("disclosure-sluice")).to_have_text("Sluice")
    nodes = stack.client.components()["sluice"].values()
    assert len(nodes) == len(NODES)
    await expect(rows).to_have_count(len(NODES))
    await expect(rows).to_have_text(sorted(node["display_name"] for node in nodes))
    for node in nodes:
        # What the canvas shows for a name it does not know has another class.
        icon = rows.filter(has_text=re.compile(f"^{node['display_name']}$")).locator(f"svg.lucide-{node['icon']}")
        await expect(icon).to_be_visible()
    await page.picture("palette")


async def test_each_node_can_be_dragged_to_the_canvas_and_shows_its_inputs_and_outputs(
    page: Canvas, stack: Stack
) -> None:
    await page.open(stack.client.upload_flow({"name": "Drop here", "data": {"nodes": [], "edges": []}}), nodes=0)
    await page.open_group("sluice")
    for node in stack.client.components()["sluice"].values():
        dropped = await page.drag(node["display_name"])
        await expect(dropped.get_by_test_id(f"title-{node['display_name']}")).to_be_visible()
        await expect(dropped.locator(f"svg.lucide-{node['icon']}")).to_be_visible()
        fields = [field for field in node["template"].values() if isinstance(field, dict) and field["name"] != "code"]
        shown = [field for field in fields if field["show"] and not field["advanced"]]
        assert shown
        for field in shown:
            await expect(dropped.get_by_test_id(f"title-{field['display_name'].lower()}")).to_be_visible()
        for field in [field for field in shown if field.get("input_types")]:
            handle = dropped.locator(f"[data-testid^=handle-][data-testid$='-{field['display_name'].lower()}-left']")
            await expect(handle).to_be_visible()
        grouped = any(output.get("group_outputs") for output in node["outputs"])
        for output in node["outputs"] if grouped else node["outputs"][:1]:
            await expect(dropped.get_by_text(output["display_name"], exact=True).last).to_be_visible()
        await expect(dropped.locator("[data-testid^=handle-][data-testid$=-right]")).to_have_count(
            len(node["outputs"]) if grouped else 1
        )
        await expect(page.marks).to_have_count(0)
        await page.picture(f"node-{node['display_name'].lower().replace(' ', '-')}")
        await dropped.get_by_test_id(f"title-{node['display_name']}").click()
        await page.page.keyboard.press("Backspace")
        await expect(page.nodes).to_have_count(0)


async def test_a_node_whose_code_is_an_older_one_would_be_marked(page: Canvas, stack: Stack) -> None:
    flow = filled("chat_rate_limited", stack)
    [node] = [node for node in flow["data"]["nodes"] if node["id"] == "RateLimitedLLMComponent-llm"]
    node["data"]["node"]["template"]["code"]["value"] += "\n# As of yesterday.\n"
    await page.import_file("old", flow)
    await expect(page.marks).not_to_have_count(0)
    await page.picture("an-older-node")


@pytest.mark.usefixtures("ingested", "ingested_by_stock")
@pytest.mark.parametrize("slug", FLOWS)
async def test_a_bundled_flow_is_imported_by_file_and_answers_in_the_playground(
    page: Canvas, stack: Stack, slug: str
) -> None:
    text, wanted = ASKED[slug]
    await page.import_file(slug, filled(slug, stack))
    await page.fit()
    await expect(page.marks).to_have_count(0, timeout=SOON_MS)
    await page.picture(f"flow-{slug}")
    with chat_at_the_provider(stack) if slug == "fan_out_subflows" else contextlib.nullcontext():
        await page.ask(text)
    await expect(page.marks).to_have_count(0, timeout=SOON_MS)
    for part in wanted:
        await expect(page.answers.filter(has_text=part).first).to_be_visible()
    await page.picture(f"playground-{slug}")
    await page.close_playground()
    ends = page.page.locator("[data-testid^='rf__node-ChatOutput']")
    await expect(ends.locator("[data-testid^=node_duration_]")).to_have_count(await ends.count())
    await expect(page.marks).to_have_count(0, timeout=SOON_MS)
    await page.picture(f"done-{slug}")


async def test_every_bundled_flow_is_asked_something() -> None:
    assert sorted(ASKED) == sorted(FLOWS)


async def begin_slow_rows(page: Canvas, stack: Stack, count: int) -> None:
    """Opens Fan-Out over rows in the browser, and lets the provider take ages for each."""
    flow = filled("fan_out_rows", stack, input_value="\n".join(f"Row {number}" for number in range(count)))
    await page.import_file("fan_out_rows", flow)
    stack.provider.configure(service_s=AGES_S)


async def assert_stopped(stack: Stack) -> None:
    """The calls in work have been given up, no further one has begun, and the slots have come back."""
    await until(lambda: not stack.provider.stats().in_flight)
    stack.provider.configure(service_s=0.0)
    # It comes after all rows that still wait, if any do.
    assert stack.run("chat_rate_limited", "is anybody there?") == "Answer to: is anybody there?"
    stats = stack.provider.stats()
    assert stats.requests == {"chat": CAP + 1}
    assert stats.answered == {200: 1}


async def test_stop_in_the_playground_ends_the_rows_in_work_and_those_that_wait_never_start(
    page: Canvas, stack_afresh: Stack
) -> None:
    stack = stack_afresh  # another test's lower cap on the same guard counts for ten minutes
    await begin_slow_rows(page, stack, 40)
    await page.send("\n".join(f"Row {number}" for number in range(40)))
    await until(lambda: stack.provider.stats().in_flight == {"chat": CAP})
    await page.part("button-stop").click()
    await assert_stopped(stack)
    await expect(page.part("button-send")).to_be_visible()


async def test_stop_on_the_canvas_ends_a_fan_out_that_its_own_button_has_started(
    page: Canvas, stack_afresh: Stack
) -> None:
    stack = stack_afresh
    await begin_slow_rows(page, stack, 40)
    await page.fit()
    await page.part("button_run_fan-out").click()
    await until(lambda: stack.provider.stats().in_flight == {"chat": CAP})
    await page.picture("fan-out-on-the-canvas")
    await page.part("stop_building_button").click()
    await assert_stopped(stack)
    await expect(page.part("stop_building_button")).not_to_be_visible()
    await page.picture("fan-out-stopped")


async def test_the_playground_and_the_logs_tell_how_far_a_fan_out_is(page: Canvas, stack: Stack) -> None:
    await page.import_file("fan_out_rows", filled("fan_out_rows", stack))
    stack.provider.configure(service_s=1.0)
    await page.send("\n".join(f"Ticket {number} of the harbour office" for number in range(1, 21)))
    await expect(page.page.get_by_text(re.compile(r"\b(8|9|1\d) of 20")).first).to_be_visible()
    await page.picture("fan-out-at-work", readme=True)
    stack.provider.configure(service_s=0.0)
    await expect(page.answers.filter(has_text="Ticket 20 of the harbour office").first).to_be_visible()
    await page.picture("fan-out-done")
    await page.close_playground()
    await page.part("output-inspection-item-fanoutcomponent").click()
    await page.page.get_by_role("tab", name="Logs").click()
    await expect(page.page.get_by_role("dialog").get_by_text("20 of 20").first).to_be_visible()
    await page.picture("fan-out-logs")
    await page.page.keyboard.press("Escape")


async def test_the_picture_of_the_readme_shows_the_pack_in_the_palette_and_on_the_canvas(
    page: Canvas, stack: Stack
) -> None:
    await page.import_file("fan_out_rows", filled("fan_out_rows", stack))
    await page.open_group("sluice")
    await page.picture("canvas", readme=True)
