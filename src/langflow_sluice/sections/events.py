"""What the canvas and the Playground see of the nodes inside a section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from langflow_sluice.guard.clock import Clock

# Langflow's event streams hold 256 events and fail the run past that; two events a node and item overflow them within
# a few dozen items.
MESSAGES_PER_SECOND = 4.0


class SectionEvents:
    """An event manager for the nodes inside a section: it lets a few chat messages a second through and nothing else.

    What the nodes report of themselves (started, finished, logged, failed) is told once by the section's owner, as
    progress; an error event in particular would end the run in the eyes of the canvas although the item is retried or
    collected.

    Args:
        outer: The run's event manager, or None where nobody listens.
        clock: Meters the messages.
    """

    def __init__(self, outer: Any, clock: Clock) -> None:
        self._outer = outer
        self._clock = clock
        self._next_at = clock.now()

    def on_message(self, *, data: Any) -> None:
        """Passes a chat message on, if the last one is long enough ago."""
        now = self._clock.now()
        if self._outer is not None and now >= self._next_at:
            self._next_at = now + 1 / MESSAGES_PER_SECOND
            self._outer.on_message(data=data)

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return _ignore


def _ignore(*, data: Any) -> None:
    """Drops an event."""
