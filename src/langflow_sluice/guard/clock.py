"""Time as the guard sees it, so that tests can hold it in their hands.

A guard asks its clock for the time and for one wake-up at a time (the next rate refill, the end of a pause or the
earliest deadline of its queue, whichever comes first). The real clock answers from one daemon thread for the whole
process, not from an event loop: a loop that closes would take its timers with it and leave callers of other loops
waiting for ever.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


# Timers kept before cancelled ones are looked for: most wake-ups are deadlines that are cancelled long before they fall
# due, and each would hold on to what it would have woken.
_SWEEP_FROM = 256

_log = logging.getLogger("langflow_sluice.guard")


class Timer:
    """A pending wake-up; ``cancel`` makes it do nothing."""

    __slots__ = ("callback", "cancelled", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Drops the wake-up; safe from any thread, at any time."""
        self.cancelled = True


class Clock(Protocol):
    """What a guard needs of time; every method may be called from any thread."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Calls ``callback`` once, on a thread of the clock's choice, when ``now()`` has reached ``when``."""


class SystemClock:
    """The monotonic clock of the machine, with wake-ups from one daemon thread.

    The thread starts with the first wake-up asked for and again after a fork; a process whose guards never make
    anyone wait has none.
    """

    def __init__(self) -> None:
        self._forget_thread()
        os.register_at_fork(after_in_child=self._forget_thread)

    def _forget_thread(self) -> None:
        # After a fork the child has neither the thread nor a usable lock: the parent may have held it.
        self._condition = threading.Condition()
        self._timers: list[tuple[float, int, Timer]] = []
        self._sweep_at = _SWEEP_FROM
        self._sequence = itertools.count()
        self._thread: threading.Thread | None = None

    def now(self) -> float:
        """Seconds of ``time.monotonic``."""
        return time.monotonic()

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Calls ``callback`` on the timer thread at ``when``."""
        timer = Timer(when, callback)
        with self._condition:
            if len(self._timers) >= self._sweep_at:
                self._sweep()
            heapq.heappush(self._timers, (when, next(self._sequence), timer))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sluice-timer", daemon=True)
                self._thread.start()
            elif self._timers[0][2] is timer:
                self._condition.notify()
        return timer

    def _sweep(self) -> None:
        """Forgets cancelled timers; rarely enough that it costs a timer a constant time."""
        self._timers = [entry for entry in self._timers if not entry[2].cancelled]
        heapq.heapify(self._timers)
        self._sweep_at = max(_SWEEP_FROM, 2 * len(self._timers))

    def _run(self) -> None:
        while True:
            with self._condition:
                timer = self._wait_for_due()
            if not timer.cancelled:
                try:
                    timer.callback()
                except Exception:  # noqa: BLE001 - logged; whatever a callback raises, the others must run
                    # Without this thread no guard's rate, pause or timeout would ever end again.
                    _log.exception("A wake-up of a guard failed")

    def _wait_for_due(self) -> Timer:
        while True:
            if not self._timers:
                self._condition.wait()
                continue
            when, _, timer = self._timers[0]
            remaining = when - time.monotonic()
            if timer.cancelled or remaining <= 0:
                heapq.heappop(self._timers)
                return timer
            self._condition.wait(min(remaining, threading.TIMEOUT_MAX))


SYSTEM_CLOCK = SystemClock()
