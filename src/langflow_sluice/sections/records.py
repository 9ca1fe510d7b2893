"""Which items of a section leave records in Langflow's database: the first ones, with all that they did."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextvars import Token

    from lfx.custom.custom_component.component import Component
    from lfx.graph.vertex.base import Vertex

# Langflow writes a transaction for each build of a node, of which it keeps 3,000 in all, and its own tracer holds a
# span for each until the run ends: 20,000 rows would push out all other records and fill the memory.
RECORDED_ITEMS = 50
# Tracers that send spans elsewhere; who has set one up wants to see every model call.
_EXTERNAL_TRACERS = ("langsmith", "langwatch", "langfuse", "arize_phoenix", "opik", "traceloop", "openlayer")

_recording: ContextVar[bool] = ContextVar("sluice_recording", default=True)


class Records:
    """Says for each item of a section's run whether it is recorded: the first ``RECORDED_ITEMS`` are.

    Sections inside an item that is not recorded leave no records either.
    """

    def __init__(self) -> None:
        self._left = RECORDED_ITEMS
        self._is_watched: bool | None = None

    def begin(self) -> Token[bool]:
        """Begins an item in the current context; give the token to ``end``."""
        recorded = _recording.get() and self._left > 0
        self._left -= recorded
        return _recording.set(recorded)

    def end(self, token: Token[bool]) -> None:
        """Ends the item."""
        _recording.reset(token)

    def apply_to(self, vertex: Vertex, component: Component) -> None:
        """Lets one build of a node be recorded, or not, as the current item is.

        Args:
            vertex: The node in our own copy of the section; the change is made to this object alone.
            component: Its component, made for this item alone.
        """
        recorded = _recording.get()
        attributes: dict[str, Any] = vertex.__dict__
        if recorded:
            attributes.pop("_log_transaction_async", None)
            return
        attributes["_log_transaction_async"] = _write_nothing
        if self._is_watched is None:
            self._is_watched = _is_watched()
        if not self._is_watched:
            component.__dict__["_tracing_service"] = _UNTRACED


class _Untraced:
    """In place of the tracing service. It is false, so that Langflow takes it for none."""

    deactivated = True

    def __bool__(self) -> bool:
        return False


_UNTRACED = _Untraced()


def _is_watched() -> bool:
    """Whether somebody other than Langflow's own tracer sees the spans of this run."""
    from lfx.services.deps import get_tracing_service

    service = get_tracing_service()
    find = getattr(service, "get_tracer", None)
    native = find("native") if find is not None else None
    if find is None or native is None or not native.ready:
        return True  # nothing holds the spans: left as it is
    return any(tracer is not None and tracer.ready for tracer in map(find, _EXTERNAL_TRACERS))


async def _write_nothing(*_: Any, **__: Any) -> None:
    """In place of a vertex's ``_log_transaction_async``."""
