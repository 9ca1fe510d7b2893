"""How long the callers of a pool waited for their turn, and how many never had it."""

from __future__ import annotations

import threading
from collections import deque

from langflow_sluice.guard.histogram import Histogram


class Waits:
    """Counts the callers of one pool; any thread, and none waits for another.

    A histogram takes one thread at a time. Whoever finds another one at it leaves a note, which that one works off
    before it goes or the next caller does; see ``guard.admission``.

    Attributes:
        times: Of callers who had their turn, in seconds.
        turned_away: Callers who had none.
    """

    __slots__ = ("_lock", "_notes", "times", "turned_away")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notes: deque[float | None] = deque()
        self.times = Histogram()
        self.turned_away = 0

    def served(self, seconds: float) -> None:
        """Notes a caller who has waited for so long."""
        self._note(seconds)

    def sent_away(self) -> None:
        """Notes a caller who got nothing."""
        self._note(None)

    def _note(self, note: float | None) -> None:
        self._notes.append(note)
        while self._notes and self._lock.acquire(blocking=False):
            try:
                while self._notes:
                    seconds = self._notes.popleft()
                    if seconds is None:
                        self.turned_away += 1
                    else:
                        self.times.add(seconds)
            finally:
                self._lock.release()
