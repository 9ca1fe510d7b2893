"""Pressure Gauge on a real Langflow, while calls wait: what the Playground shows of it, and what the API gives."""

from __future__ import annotations

import asyncio
import time
import warnings
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("playwright", reason="the tests in a browser need Playwright")

from playwright.async_api import expect

from .browser import NAMES, canvas, found

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langflow_sluice.canvas import parts
    from langflow_sluice.canvas.build import Flow
    from langflow_sluice.canvas.catalog import extension_type

if TYPE_CHECKING:
    from .browser import Canvas
    from .conftest import Palette, Stack

CAP = 8  # of the flows' Rate-Limited LLM, as it comes
CALLS = 12
DEADLINE_S = 90.0
PICTURE = "img[src^='data:image/png;base64,']"


def gauge_flow(palette: Palette) -> Flow:
    """Chat Input -> Pressure Gauge -> Chat Output."""
    flow = Flow(palette, "test_pressure_gauge", name="Pressure", description="A test's.")
    asked, said = parts.chat_input(flow), parts.chat_output(flow)
    gauge = flow.add(extension_type("sluice", "PressureGaugeComponent"), "gauge")
    flow.connect(asked, "message", gauge, "after")
    flow.connect(gauge, "report", said, "input_value")
    flow.arrange([[asked], [gauge], [said]])
    return flow


async def until_provider_holds(stack: Stack, count: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (await asyncio.to_thread(stack.provider.stats)).in_flight != {"chat": count}:
        assert time.monotonic() < deadline


async def shown(page: Canvas, flow: Flow) -> None:
    await page.import_file("gauge", flow.to_dict())
    await expect(page.marks).to_have_count(0)
    await page.picture("flow-pressure-gauge")
    await page.ask("How are we?")
    answer = page.answers.filter(has_text="Under pressure").first
    await expect(answer).to_contain_text(f"{CALLS - CAP} waiting, limit {CAP} busy")
    await expect(answer).to_contain_text(f"{CAP} of {CAP}")
    await expect(answer).to_contain_text("Raise max_concurrency")
    picture = page.page.locator(PICTURE).first
    await expect(picture).to_be_visible()
    # It is there and could be read, which a broken one could not.
    assert await picture.evaluate("image => image.complete && image.naturalWidth") == 880
    await picture.evaluate("image => image.scrollIntoView()")
    await page.picture("pressure-gauge", readme=True)
    assert page.problems == []


@pytest.mark.skipif(found() is None, reason=f"the tests in a browser need one of {', '.join(NAMES)}")
async def test_the_playground_shows_who_waits_in_words_and_in_a_picture_and_the_api_gives_the_words(
    stack_afresh: Stack, palette: Palette
) -> None:
    stack, flow = stack_afresh, gauge_flow(palette)
    flow_id = stack.client.upload_flow(flow.to_dict())
    stack.provider.configure(fault="hang")
    tweaks = stack.tweaks
    tweaks["RateLimitedLLMComponent-llm"] |= dict.fromkeys(("queue_timeout", "read_timeout", "total_timeout"), 600)
    async with stack.langflow.async_client() as client, canvas(stack.langflow.base_url) as page:
        questions = [
            asyncio.ensure_future(client.run(stack.flows["chat_rate_limited"], f"q{number}", tweaks=tweaks))
            for number in range(CALLS)
        ]
        try:
            await until_provider_holds(stack, CAP)
            await page.page.goto(f"{stack.langflow.base_url}/flows")
            await shown(page, flow)
            answer = await client.run(flow_id, "How are we?")
            assert f"{CALLS - CAP} waiting, limit {CAP} busy" in answer.text
            assert "iVBOR" not in repr(answer.outputs)
            assert (await asyncio.to_thread(stack.provider.stats)).in_flight == {"chat": CAP}
        finally:
            stack.provider.configure(fault="ok")
            answers = await asyncio.gather(*questions)
    assert sorted(each.text for each in answers) == sorted(f"Answer to: q{number}" for number in range(CALLS))
