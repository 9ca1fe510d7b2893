"""Langflow's canvas in a real browser, driven as its users drive it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.async_api import Page, async_playwright, expect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from playwright.async_api import Locator, Request, Route

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 90.0
"""How long a test waits for anything: only a test that fails waits as long as that."""

ROOT = Path(__file__).parents[2]
SCREENSHOTS = Path(os.environ.get("SLUICE_SCREENSHOTS") or ROOT / "test-artifacts")
"""Where the pictures of a run go."""
PICTURES = Path(os.environ["SLUICE_PICTURES"]) if os.environ.get("SLUICE_PICTURES") else None
"""Where the README's pictures go too: `SLUICE_PICTURES=docs uv run pytest tests/e2e/test_canvas.py` makes them anew."""

# Langflow asks other hosts for its fonts and for how many like it. Nothing leaves this machine: the fonts are those of
# the system that are as wide, and the figures are left out.
_FONTS = "".join(
    f'@font-face{{font-family:"{family}";font-weight:{weights};src:local("{local}"),local("{other}")}}'
    for family in ("Inter", "Chivo")
    for weights, local, other in (
        ("100 500", "Liberation Sans", "Arial"),
        ("501 900", "Liberation Sans Bold", "Arial Bold"),
    )
)


def found() -> str | None:
    """Returns the system's Chromium, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.asynccontextmanager
async def canvas(base_url: str) -> AsyncIterator[Canvas]:
    """A browser with one page that shows nothing yet."""
    async with async_playwright() as playwright:
        # Chromium's sandbox does not start as root, as which containers run tests.
        chromium = await playwright.chromium.launch(executable_path=found(), args=["--no-sandbox"])
        try:
            page = await chromium.new_page(viewport={"width": 1400, "height": 860})
            page.set_default_timeout(PATIENCE_S * 1000)
            expect.set_options(timeout=PATIENCE_S * 1000)
            yield await Canvas(page, base_url).listen()
        finally:
            await chromium.close()


class Canvas:
    """One page of Langflow.

    Args:
        page: The page.
        base_url: Address of the server.

    Attributes:
        page: The page.
        problems: What its console and its requests to the server complained of.
    """

    def __init__(self, page: Page, base_url: str) -> None:
        self.page = page
        self.problems: list[str] = []
        self._url = base_url

    async def listen(self) -> Canvas:
        """Begins to note problems, and keeps the page from asking other hosts."""
        await self.page.route(lambda url: not url.startswith(self._url), _stand_in)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        self.page.on(
            "response",
            lambda answer: self.problems.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None,
        )
        return self

    def part(self, name: str) -> Locator:
        """What Langflow's own tests call by this name."""
        return self.page.get_by_test_id(name)

    @property
    def nodes(self) -> Locator:
        """The nodes of the flow, without its notes."""
        return self.page.locator(".react-flow__node-genericNode")

    @property
    def marks(self) -> Locator:
        """All that says that a node, or the flow, must be updated, is legacy, blocked or broken."""
        words = re.compile(
            r"^(Update (available|required|ready)|Flow needs review|Legacy|Blocked|Flow build failed)", re.IGNORECASE
        )
        return self.page.get_by_text(words).or_(self.part("update-all-button")).or_(self.part("error-card"))

    @property
    def answers(self) -> Locator:
        """What the flow has said in the Playground."""
        return self.part("div-chat-message")

    async def import_file(self, name: str, flow: Mapping[str, Any]) -> None:
        """Imports a flow through the button of the list of flows, and opens it."""
        if not await self.part("upload-project-button").is_visible():
            await self.page.goto(f"{self._url}/flows")
        async with self.page.expect_file_chooser() as chooser:
            await self.part("upload-project-button").click()
        file = {"name": f"{name}.json", "mimeType": "application/json", "buffer": json.dumps(flow).encode()}
        async with self.page.expect_response(_creates_a_flow) as answer:
            await (await chooser.value).set_files(file)  # type: ignore[arg-type]
        flow_id = (await (await answer.value).json())["id"]
        await self.page.locator(f"button[aria-labelledby~=flow-name-{flow_id}]").click()
        # The note of success lies on the canvas for a while.
        notes = self.page.get_by_role("region", name="Notifications").get_by_test_id("icon-X")
        await notes.first.click()
        await self._shown(len([node for node in flow["data"]["nodes"] if node["type"] == "genericNode"]))

    async def open(self, flow_id: str, nodes: int) -> None:
        """Opens a flow that is on the server."""
        await self.page.goto(f"{self._url}/flow/{flow_id}")
        await self._shown(nodes)

    async def _shown(self, nodes: int) -> None:
        await expect(self.nodes).to_have_count(nodes)
        await expect(self.part("disclosure-sluice")).to_be_visible()

    async def open_group(self, name: str) -> Locator:
        """Opens a group of the palette and returns its nodes."""
        group = self.part(f"disclosure-{name}")
        rows = self.page.locator(f"[data-testid^={name}_][data-testid$=_draggable]")
        if not await rows.count():
            await group.click()
        await expect(rows.first).to_be_visible()
        return rows

    async def drag(self, title: str) -> Locator:
        """Drags a node of our group from the palette to the canvas, by the mouse, and returns it."""
        await (
            self.part(f"sluice_{title.lower()}_draggable")
            .locator("[draggable=true]")
            .drag_to(self.part("rf__wrapper"), target_position={"x": 380, "y": 60})
        )
        await expect(self.nodes).to_have_count(1)
        return self.nodes

    async def fit(self) -> None:
        """Hides the palette and shows the whole flow."""
        if await self.part("sidebar-search-input").is_visible():
            await self.part("sidebar-nav-components").click()
            try:
                await expect(self.part("sidebar-search-input")).not_to_be_in_viewport(timeout=10_000)
            except AssertionError:
                # The canvas, still at opening the flow, has shown it again.
                await self.part("sidebar-nav-components").click()
                await expect(self.part("sidebar-search-input")).not_to_be_in_viewport()
        await self.part("canvas_controls_dropdown").click()
        await self.part("fit_view").click()
        # Langflow fits the flow down to the edge of the window, below its own buttons.
        await self.part("zoom_out").click()
        await self.page.keyboard.press("Escape")
        await expect(self.part("fit_view")).not_to_be_visible()
        await self.page.evaluate("document.activeElement.blur()")
        await self._still(".react-flow__viewport")

    async def _still(self, selector: str) -> None:
        """Waits until nothing slides or grows any more."""
        await self.page.locator(selector).evaluate(
            """element => new Promise(done => {
                let last = null, still = 0
                const look = () => {
                    const now = JSON.stringify(element.getBoundingClientRect())
                    still = now === last ? still + 1 : 0
                    last = now
                    still > 12 ? done() : requestAnimationFrame(look)
                }
                look()
            })"""
        )

    async def playground(self) -> Locator:
        """Opens the Playground and returns its field for the message."""
        field = self.part("input-chat-playground")
        if not await field.is_visible():
            await self.part("playground-btn-flow-io").click()
        await expect(field).to_be_visible()
        return field

    async def close_playground(self) -> None:
        """Goes back to the canvas."""
        await self.part("playground-close-button").click()
        await expect(self.part("input-chat-playground")).not_to_be_visible()

    async def send(self, text: str) -> None:
        """Sends a message in the Playground; returns when the run has begun."""
        await (await self.playground()).fill(text)
        await self.part("button-send").click()
        await expect(self.part("button-stop")).to_be_visible()

    async def ask(self, text: str) -> None:
        """Sends a message in the Playground and waits for the end of the run."""
        await (await self.playground()).fill(text)
        async with self.page.expect_response(_runs_a_flow) as answer:
            await self.part("button-send").click()
        await (await answer.value).finished()
        await expect(self.part("button-send")).to_be_visible()

    async def picture(self, name: str, *, readme: bool = False) -> None:
        """Keeps what the page shows.

        Args:
            name: Name of the file, without its ending.
            readme: It is one of the README's pictures too.
        """
        # Icons are loaded one by one; grey squares hold their places.
        await expect(self.page.locator(".animate-pulse.rounded-md.bg-border:visible")).to_have_count(0)
        shot = await self.page.screenshot()
        for folder in filter(None, (SCREENSHOTS, PICTURES if readme else None)):
            _keep(folder / f"{name}.png", shot)


def _keep(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _creates_a_flow(answer: Any) -> bool:
    return answer.request.method == "POST" and answer.url.rstrip("/").endswith("/api/v1/flows")


def _runs_a_flow(answer: Any) -> bool:
    return answer.request.method == "POST" and answer.url.endswith("/api/v2/workflows")


async def _stand_in(route: Route, request: Request) -> None:
    if request.resource_type == "stylesheet":
        await route.fulfill(content_type="text/css", body=_FONTS)
    else:
        await route.fulfill(json={}, headers={"access-control-allow-origin": "*"})
