"""The page of a load report in a real browser, without any network; needs no Langflow."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from langflow_sluice.load.page import write_page

pytest.importorskip("playwright", reason="the tests in a browser need Playwright")

from playwright.async_api import async_playwright

from .. import load_reports as made  # noqa: TID252 - tests are not on the path
from .browser import NAMES, SCREENSHOTS, found

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from playwright.async_api import Browser, Page

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(found() is None, reason=f"the tests in a browser need one of {', '.join(NAMES)}"),
]

PHONE, DESK = 390, 1400
REPORTS = {
    "two flows": made.report(),
    "one flow": made.report(made.open_loop()),
    "hostile": made.report(made.hostile(), made.unmeasured()),
    "many stages": made.report(made.many_stages(), made.nothing_sent(), max_connections=None),
}
# Texts of one chart that lie on one another, and such that stick out of it.
CLASHES = """() => [...document.querySelectorAll('figure svg')].flatMap(svg => {
    const box = element => element.getBoundingClientRect()
    const frame = box(svg), texts = [...svg.querySelectorAll('text')]
    const name = element => svg.closest('.chart').id + ': ' + element.textContent
    const out = texts.filter(text => box(text).left < frame.left - 1 || box(text).right > frame.right + 1
        || box(text).top < frame.top - 1 || box(text).bottom > frame.bottom + 1).map(text => name(text) + ' sticks out')
    const over = texts.flatMap((one, index) => texts.slice(index + 1).filter(other => {
        const a = box(one), b = box(other)
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left)
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)
        // Boxes of letters are higher than the letters.
        return wide > 1 && high > 0.35 * Math.min(a.height, b.height)
    }).map(other => name(one) + ' lies on ' + other.textContent))
    return [...out, ...over]
})"""
# Pictures without a size, or without a single visible stroke or bar.
EMPTY = """() => [...document.querySelectorAll('figure svg')].filter(svg => {
    const inked = [...svg.querySelectorAll('path, use')].filter(path => {
        const {width, height} = path.getBoundingClientRect()
        const {fill, stroke} = getComputedStyle(path)
        return width + height > 4 && (fill.startsWith('rgb') || stroke.startsWith('rgb'))
    })
    return svg.clientWidth < 250 || svg.clientHeight < 150 || inked.length < 4
}).map(svg => svg.closest('.chart').id)"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found(), args=["--no-sandbox"])
        yield browser
        await browser.close()


class Opened:
    """A page without a network, and what it asked for and complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.problems: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Callable[[str], Path]:
    """Writes a report's page, each but once."""
    folder = tmp_path_factory.mktemp("pages")

    @functools.cache
    def written(name: str) -> Path:
        path = folder / f"{name.replace(' ', '-')}.html"
        write_page(REPORTS[name], path)
        return path

    return written


@pytest_asyncio.fixture(loop_scope="module")
async def show(chromium: Browser, file: Callable[[str], Path]) -> AsyncIterator[Any]:
    """Opens a report's page, offline; whatever else it asks for and complains of fails the test."""
    shown = []

    async def opened(name: str, width: int, scheme: str = "light") -> Page:
        path = file(name)
        context = await chromium.new_context(
            viewport={"width": width, "height": 860}, color_scheme=scheme, offline=True, accept_downloads=True
        )
        page = Opened(await context.new_page())
        shown.append((context, page, path.as_uri()))
        await page.page.goto(path.as_uri())
        return page.page

    yield opened
    for context, page, address in shown:
        await context.close()
        # The icon is data of the page itself.
        assert [url for url in page.asked if not url.startswith("data:")] == [address]
        assert page.problems == []


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", REPORTS)
async def test_the_page_fits_and_its_charts_can_be_read(show, name, width) -> None:
    page = await show(name, width)
    assert await page.evaluate("document.documentElement.scrollWidth") == width
    assert await page.evaluate(EMPTY) == []
    assert await page.evaluate(CLASHES) == []
    letters = await page.evaluate("""() => Math.min(...[...document.querySelectorAll('svg text')].map(text =>
        parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a))""")
    assert letters >= 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
async def test_the_page_follows_the_colour_scheme(show, width, scheme) -> None:
    page = await show("two flows", width, scheme)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"load-{width}-{scheme}.png", full_page=True)
    light = "(colour => colour.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 765)"
    paper = await page.evaluate(f"{light}(getComputedStyle(document.querySelector('.chart')).backgroundColor)")
    ink = await page.evaluate(
        f"[...document.querySelectorAll('svg text, td, p')].map(text => {light}(text.closest('svg')"
        " ? getComputedStyle(text).fill : getComputedStyle(text).color))"
    )
    assert paper > 0.9 if scheme == "light" else paper < 0.2
    assert all(abs(each - paper) > 0.35 for each in ink), "letters stand out from their ground"


async def test_both_flows_stand_side_by_side_on_a_desk_and_one_below_the_other_on_a_phone(show) -> None:
    places = "[...document.querySelectorAll('.verdict')].map(card => card.getBoundingClientRect().left)"
    left, right = await (await show("two flows", DESK)).evaluate(places)
    assert left < right
    left, right = await (await show("two flows", PHONE)).evaluate(places)
    assert left == right


async def test_the_figures_can_be_saved_from_the_page(show) -> None:
    page = await show("two flows", DESK)
    async with page.expect_download() as download:
        await page.click("#data")
    assert (await download.value).suggested_filename == "load-report.json"
