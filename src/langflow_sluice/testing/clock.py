"""A clock that a test holds in its hands."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from typing import TYPE_CHECKING

from langflow_sluice.guard.clock import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

# Turns of the event loop given to woken callers after each step of time: a woken caller may need several (its future,
# its task, what it wakes in turn).
_TURNS = 25


class ManualClock:
    """Time that stands still until ``advance`` is called; any thread.

    Wake-ups run on the thread that advances the time, in the order of their times.

    Args:
        start: The first value of ``now``.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._timers: list[tuple[float, int, Timer]] = []
        self._sequence = itertools.count()
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds, as many as have been advanced to."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Calls ``callback`` when the time has been advanced to ``when``."""
        timer = Timer(when, callback)
        with self._lock:
            heapq.heappush(self._timers, (when, next(self._sequence), timer))
        return timer

    def step(self, seconds: float) -> None:
        """Moves the time on and runs what falls due, without giving an event loop a turn."""
        target = self._now + seconds
        while (timer := self._due(target)) is not None:
            self._now = max(self._now, timer.when)
            if not timer.cancelled:
                timer.callback()
        self._now = target

    async def advance(self, seconds: float) -> None:
        """Moves the time on and lets the callers that this wakes go on, wake-up by wake-up."""
        target = self._now + seconds
        await settle()
        while (when := self._next(target)) is not None:
            self.step(when - self._now)
            await settle()
        self.step(target - self._now)
        await settle()

    def _next(self, target: float) -> float | None:
        with self._lock:
            if self._timers and self._timers[0][0] <= target:
                return max(self._timers[0][0], self._now)
        return None

    def _due(self, target: float) -> Timer | None:
        with self._lock:
            if self._timers and self._timers[0][0] <= target:
                return heapq.heappop(self._timers)[2]
        return None


async def settle() -> None:
    """Gives every task of the running loop turns enough to come to its next wait."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
