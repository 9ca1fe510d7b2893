"""How far long work has come, said now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from langflow_sluice.guard.clock import Clock
    from langflow_sluice.sections.fan_out import Outcome

SECONDS_BETWEEN = 1.0
# The longer it takes, the less often it is said: every second for half a minute, every 30 s after a quarter of an hour.
# Langflow keeps all log entries of a node and sends them once more when it is done; an hour comes to some 200.
SHARE_BETWEEN = 1 / 30
MAX_SECONDS_BETWEEN = 30.0
BAR_CELLS = 24
DONE_CELL, FAILED_CELL, OPEN_CELL = "█", "▒", "░"


class Progress:
    """Counts outcomes and says at most once a second how far they have come; the last word is left to its owner.

    Args:
        total: Number of items.
        clock: Source of time.
        say: Takes one line.
        unit: What the items are, in the plural.

    Attributes:
        done: Items that are finished, those that failed included.
        failed: Items that failed.
    """

    def __init__(self, total: int, clock: Clock, say: Callable[[str], None], unit: str = "rows") -> None:
        self._total = total
        self._clock = clock
        self._say = say
        self._unit = unit
        self._started = clock.now()
        self._next_at = self._started + SECONDS_BETWEEN
        self.done = 0
        self.failed = 0

    def count(self, outcome: Outcome) -> None:
        """Notes one outcome."""
        self.add(failed=int(outcome.error is not None))

    def add(self, done: int = 1, *, failed: int = 0) -> None:
        """Notes that so many more are finished, of which some failed."""
        self.done += done
        self.failed += failed
        self.tick()

    def tick(self) -> None:
        """Says how far it has come, if it is time to."""
        now = self._clock.now()
        if now >= self._next_at and self.done < self._total:
            self._next_at = now + self.pause_s()
            self._say(self.line())

    def pause_s(self) -> float:
        """Seconds from one line to the next, at this time."""
        return min(MAX_SECONDS_BETWEEN, max(SECONDS_BETWEEN, self._elapsed_s() * SHARE_BETWEEN))

    def line(self) -> str:
        """The state in one line: done of total, failed, rate and time left."""
        elapsed_s, rate, left = self._elapsed_s(), self._rate(), self._total - self.done
        parts = [f"{self.done} of {self._total} {self._unit}"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if rate:
            parts.append(f"{rate:.3g} {self._unit}/s")
        if left and rate:
            parts.append(f"about {_duration(left / rate)} left")
        elif not left:
            parts.append(f"in {elapsed_s:.2f} s" if elapsed_s < 60 else f"in {_duration(elapsed_s)}")  # noqa: PLR2004
        return ", ".join(parts)

    def bar(self) -> str:
        """The state as a picture: what is done, what of it failed, and what is left."""
        total = max(self._total, 1)
        filled = min(BAR_CELLS, BAR_CELLS * self.done // total)
        # One failure in thousands is seen, too.
        failed = min(filled, -(-BAR_CELLS * self.failed // total))
        return DONE_CELL * (filled - failed) + FAILED_CELL * failed + OPEN_CELL * (BAR_CELLS - filled)

    def figures(self) -> dict[str, Any]:
        """The state for programs: counts, the rate a second, seconds passed and left (None where nobody can tell)."""
        rate = self._rate()
        return {
            "done": self.done,
            "total": self._total,
            "failed": self.failed,
            "per_s": round(rate, 3),
            "elapsed_s": round(self._elapsed_s(), 2),
            "left_s": round((self._total - self.done) / rate, 1) if rate else None,
        }

    def _elapsed_s(self) -> float:
        return self._clock.now() - self._started

    def _rate(self) -> float:
        elapsed_s = self._elapsed_s()
        return self.done / elapsed_s if elapsed_s > 0 else 0.0


def _duration(seconds: float) -> str:
    if seconds < 90:  # noqa: PLR2004 - whole minutes would be too coarse
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"  # noqa: PLR2004
