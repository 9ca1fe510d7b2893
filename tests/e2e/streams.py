"""Runs as the canvas and as streaming API clients start them; leaving one closes its connection, as Stop does."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from .conftest import Stack


@dataclass(frozen=True)
class Event:
    """One event of a run, by whichever protocol.

    Attributes:
        kind: Langflow's name for it (``token``, ``add_message``, ``error``), or AG-UI's (``RUN_ERROR``).
        data: What it carries.
    """

    kind: str
    data: Mapping[str, Any]


class Run:
    """A run under way.

    Args:
        response: The stream of its events.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def events(self) -> AsyncIterator[Event]:
        """What happens from now on."""
        async for line in self._lines:
            text = line.removeprefix("data: ")
            if text.startswith("{"):
                yield _event(json.loads(text))

    async def until_begun(self) -> None:
        """Until the first node, the chat's input, has passed the message on."""
        async for event in self.events():
            if event.kind == "add_message":
                return
        msg = "the run ended before it began"
        raise AssertionError(msg)

    async def until_written(self, pieces: int) -> None:
        """Until so many pieces of an answer, not counting empty ones, have come."""
        async for event in self.events():
            pieces -= event.kind == "token" and bool(event.data["chunk"])
            if not pieces:
                return
        msg = f"the run ended {pieces} pieces before that"
        raise AssertionError(msg)


def _event(payload: dict[str, Any]) -> Event:
    if "event" in payload:
        return Event(payload["event"], payload["data"])
    if payload["type"] == "CUSTOM" and payload["name"] == "langflow.event":
        return Event(payload["value"]["event_type"], payload["value"]["data"])
    return Event(payload["type"], payload)


@contextlib.asynccontextmanager
async def on_the_canvas(stack: Stack, flow_id: str, text: str, tweaks: Mapping[str, Any]) -> AsyncIterator[Run]:
    """A run started in the Playground; leaving the block is Stop, which only aborts the request."""
    payload = {
        "flow_id": flow_id,
        "input_value": text,
        "mode": "stream",
        "stream_protocol": "agui",
        "expose_graph_state": True,
        "session_id": flow_id,
        "tweaks": tweaks,
    }
    async with _posted(stack, "/api/v2/workflows", payload) as run:
        yield run


@contextlib.asynccontextmanager
async def through_the_api(stack: Stack, flow_id: str, text: str, tweaks: Mapping[str, Any]) -> AsyncIterator[Run]:
    """A run whose answer an API client streams; leaving the block disconnects the client."""
    payload = {"input_value": text, "tweaks": tweaks}
    async with _posted(stack, f"/api/v1/run/{flow_id}?stream=true", payload) as run:
        yield run


@contextlib.asynccontextmanager
async def _posted(stack: Stack, path: str, payload: Mapping[str, Any]) -> AsyncIterator[Run]:
    headers = {"x-api-key": stack.langflow.api_key}
    async with (
        httpx.AsyncClient(base_url=stack.langflow.base_url, headers=headers, timeout=60.0) as http,
        http.stream("POST", path, json=payload) as response,
    ):
        response.raise_for_status()
        yield Run(response)
