"""How far long work has come, said now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from langflow_sluice.guard.clock import Clock
    from langflow_sluice.sections.fan_out import Outcome

SECONDS_BETWEEN = 1.0


class Progress:
    """Counts outcomes and says at most once a second how far they have come, and at the end.

    Args:
        total: Number of items.
        clock: Source of time.
        say: Takes one line.
    """

    def __init__(self, total: int, clock: Clock, say: Callable[[str], None]) -> None:
        self._total = total
        self._clock = clock
        self._say = say
        self._started = clock.now()
        self._next_at = self._started + SECONDS_BETWEEN
        self.done = 0
        self.failed = 0

    def count(self, outcome: Outcome) -> None:
        """Notes one outcome."""
        self.done += 1
        self.failed += outcome.error is not None
        now = self._clock.now()
        if now >= self._next_at and self.done < self._total:
            self._next_at = now + SECONDS_BETWEEN
            self._say(self.line())

    def line(self) -> str:
        """The state in one line: done of total, failed, rate and time left."""
        elapsed = self._clock.now() - self._started
        rate = self.done / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.done} of {self._total} rows"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if rate:
            parts.append(f"{rate:.3g} rows/s")
        left = self._total - self.done
        if left and rate:
            parts.append(f"about {left / rate:.0f} s left")
        elif not left:
            parts.append(f"in {elapsed:.2f} s")
        return ", ".join(parts)
