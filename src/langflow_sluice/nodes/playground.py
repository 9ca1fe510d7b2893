"""Long work in the Playground: one message that updates in place while it lasts and is not kept in the history."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from typing import TYPE_CHECKING, Any

from langflow_sluice.guard.retry import sleep
from langflow_sluice.sections.events import SectionEvents
from langflow_sluice.sections.progress import Progress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lfx.custom.custom_component.component import Component

    from langflow_sluice.guard.clock import Clock

logger = logging.getLogger("langflow_sluice.nodes.playground")

# Langflow's event streams hold 256 events, and a run fails whose client reads too slowly for that; progress is the
# first thing that such a client can do without.
ROOM_LEFT = 0.5


@contextlib.asynccontextmanager
async def shown_progress(component: Component, total: int, clock: Clock, unit: str = "rows") -> AsyncIterator[Progress]:
    """Shows how far a node's work has come while the block runs: in the node's Logs and in the Playground.

    From a second on, at most once a second, seldom in long work; also while nothing finishes. Where nobody listens (a
    plain API call, a node inside a section) it only counts. It never fails the run. The node's own last line, with
    what else it has to say, is the caller's.

    Args:
        component: The node.
        total: Number of items.
        clock: Source of time.
        unit: What the items are, in the plural.
    """
    listener = _listener(component)
    message = PlaygroundMessage(component, listener)

    def say(line: str) -> None:
        with _harmless():
            if listener is not None and _has_room(listener):
                component.log(line, name="Progress")
                message.show(progress)

    progress = Progress(total, clock, say, unit)
    ticker = None if listener is None else asyncio.ensure_future(_tick(progress, clock))
    end = "ended by an error"
    try:
        yield progress
        end = ""
    except asyncio.CancelledError:
        end = "stopped"
        raise
    finally:
        if ticker is not None:
            ticker.cancel()
        with _harmless():
            message.end(progress, end)


class PlaygroundMessage:
    """One message in the Playground, the same from its first showing to its end.

    It goes to those who follow this run and nowhere else: it is not stored, so that it is in no agent's memory and gone
    when the chat is opened again. Its text is a content block and not the message's own, since clients of Langflow's
    OpenAI and AG-UI streams would take that for a part of the answer; they find the figures under ``progress``.

    Args:
        component: The node that speaks.
        listener: The run's event manager, or None.
    """

    def __init__(self, component: Component, listener: Any) -> None:
        self._component = component
        self._listener = listener
        self._message: dict[str, Any] = {}

    def show(self, progress: Progress) -> None:
        """Shows how far the work has come, in place of what was shown before."""
        # Partial: the Playground takes it away by itself if the run is stopped.
        self._send(progress, "partial", progress.line())

    def end(self, progress: Progress, reason: str = "") -> None:
        """Shows the end state, if anything was shown at all.

        Args:
            progress: The work.
            reason: Why it has ended before its time.
        """
        if self._message:
            self._send(progress, "complete", ", ".join(filter(None, (progress.line(), reason))), reason=reason)

    def _send(self, progress: Progress, state: str, line: str, *, reason: str = "") -> None:
        if self._listener is None:
            return
        if not self._message:
            self._message = _new_message(self._component)
        properties = {**self._message["properties"], "state": state}
        figures = {**progress.figures(), "text": line, "state": state, "reason": reason}
        block = {"type": "text", "id": "progress", "text": f"{progress.bar()} {line}"}
        self._listener.on_message(
            data={**self._message, "properties": properties, "content_blocks": [block], "progress": figures}
        )


async def _tick(progress: Progress, clock: Clock) -> None:
    while True:
        await sleep(clock, progress.pause_s())
        progress.tick()


def _listener(component: Component) -> Any:
    """Who follows the run; nobody inside a section, whose owner tells of all its items."""
    events = component.get_event_manager()
    return None if isinstance(events, SectionEvents) else events


def _has_room(listener: Any) -> bool:
    queue: Any = getattr(listener, "queue", None)
    # Langflow's own queue tells neither its length nor whether it is full; what it wraps does.
    if not hasattr(queue, "qsize"):
        queue = getattr(queue, "_queue", None)
    size = getattr(queue, "maxsize", 0)
    return not size or bool(queue.qsize() < ROOM_LEFT * size)


def _new_message(component: Component) -> dict[str, Any]:
    from lfx.schema.message import Message
    from lfx.schema.properties import Properties, Source

    graph = component.graph
    flow_id = str(graph.flow_id or "")
    source = Source(id=component.get_id(), display_name=component.display_name, source=component.display_name)
    message = Message(
        text="",
        sender="Machine",
        # Not AI: Langflow's OpenAI stream takes what comes from there for the answer.
        sender_name=component.display_name,
        flow_id=flow_id,
        session_id=str(graph.session_id or flow_id),
        properties=Properties(source=source, icon=component.icon),
    )
    return {**message.model_dump(), "id": str(uuid.uuid4())}


@contextlib.contextmanager
def _harmless() -> Any:
    try:
        yield
    except Exception:
        # Whoever listens may be gone, or Langflow may have changed; the work goes on.
        logger.debug("progress could not be shown", exc_info=True)
