"""How long an event loop takes to come round: what sync code inside async shows up as."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections import deque

# The longest of so many looks is told: a loop that is blocked for seconds now and then must not hide between them.
_LOOKS = 15


class _Loop:
    """One loop: a look under way, and what the latest ones found."""

    __slots__ = ("asked_at", "found")

    def __init__(self) -> None:
        self.asked_at: float | None = None
        self.found: deque[float] = deque(maxlen=_LOOKS)

    def answer(self) -> None:
        if self.asked_at is not None:
            self.found.append(time.monotonic() - self.asked_at)
            self.asked_at = None


class LoopLags:
    """Asks event loops to come round, and measures how long they take; any thread."""

    def __init__(self) -> None:
        self._start_afresh()
        os.register_at_fork(after_in_child=self._start_afresh)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = weakref.WeakKeyDictionary()

    def watch_running_loop(self) -> None:
        """From now on the calling thread's loop is looked at; nothing where none runs."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        with self._lock:
            if loop not in self._loops:
                self._loops[loop] = _Loop()

    def look(self) -> None:
        """Asks each loop to come round, unless it still has not since the last time."""
        for loop, state in self._all():
            if state.asked_at is None:
                state.asked_at = time.monotonic()
                with contextlib.suppress(RuntimeError):  # closed just now
                    loop.call_soon_threadsafe(state.answer)

    def read(self) -> tuple[float, ...]:
        """The longest of each loop's latest looks, in seconds; one under way counts for as long as it has taken."""
        now = time.monotonic()
        lags = []
        for _, state in self._all():
            asked_at = state.asked_at
            under_way = [] if asked_at is None else [now - asked_at]
            lags.append(max([*state.found, *under_way], default=0.0))
        return tuple(lags)

    def _all(self) -> list[tuple[asyncio.AbstractEventLoop, _Loop]]:
        with self._lock:
            # A loop that was closed while it was asked never comes round.
            for loop in [loop for loop in self._loops if loop.is_closed()]:
                del self._loops[loop]
            return list(self._loops.items())


loop_lags = LoopLags()
