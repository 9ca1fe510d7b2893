"""Permits under a limit that all event loops and threads of the process share, and what one caller holds of them."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING

from langflow_sluice.guard.admission import AdmissionQueue
from langflow_sluice.guard.clock import SYSTEM_CLOCK
from langflow_sluice.guard.settings import GuardSettings
from langflow_sluice.guard.waiter import Waiter, WaiterState

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

# To the queue, no patience at all is patience without end.
_LEAST_PATIENCE_S = 0.001
# Of a pool's connections, this part may be used for writing at a time.
_WRITERS_PART = 4
# A pool this small has no connection to spare for an index beside those that write.
_LEAST_FOR_BUILDING = 4


class Permits:
    """At most ``limit`` permits out at a time; first come first served, with a bounded number of callers waiting.

    All methods may be called from any thread and loop and return at once, except for ``wait``. The queue is the
    guard's: no caller of it ever waits for another thread, and a finaliser may give back in the middle of anything.

    Args:
        limit: Permits out at a time, at least 1.
        max_waiting: Callers that may wait; 0 lets nobody wait.
    """

    __slots__ = ("_max_waiting", "_queue")

    def __init__(self, limit: int, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._queue = AdmissionQueue(self._settings(limit), SYSTEM_CLOCK)

    def _settings(self, limit: int) -> GuardSettings:
        return GuardSettings(max_concurrency=limit, max_queue=self._max_waiting, queue_timeout_s=0)

    @property
    def limit(self) -> int:
        """Permits that may be out now."""
        return self._queue.settings.max_concurrency

    @property
    def out(self) -> int:
        """Permits that are out; for a while more than the limit, after it was lowered."""
        return self._queue.in_flight

    @property
    def waiting(self) -> int:
        """Callers that wait for one."""
        return sum(self._queue.waiting().values())

    def change(self, limit: int) -> None:
        """Puts another limit in force; permits that are out stay out."""
        if limit != self.limit:
            self._queue.change(self._settings(limit))

    def ask(self, patience_s: float) -> Waiter:
        """Asks for one; ``settled`` of the result tells whether the answer is there already.

        Args:
            patience_s: Seconds to wait at most.
        """
        waiter = Waiter(0.0, "normal", max(patience_s, _LEAST_PATIENCE_S))
        self._queue.enter(waiter)
        if not self._max_waiting and not waiter.settled:
            self._queue.leave(waiter)
        return waiter

    async def wait(self, waiter: Waiter) -> None:
        """Waits for the answer; whoever is cancelled meanwhile, or just after it came, holds nothing."""
        try:
            await waiter.wait()
        except BaseException:
            self._queue.leave(waiter)
            raise

    def withdraw(self, waiter: Waiter) -> None:
        """Ends another's wait, which then finds itself without a permit."""
        self._queue.leave(waiter)
        waiter.wake()

    def give_back(self, waiter: Waiter) -> None:
        """Gives back what ``ask`` was granted; once."""
        self._queue.release(waiter)


class Holding:
    """What one caller holds of several ``Permits``, given back once: at its end, or when its loop is found closed.

    Attributes:
        record: The connection lent to the caller, once there is one.
        places: The permits of a connection that is being opened for the caller, until the connection holds them.
    """

    __slots__ = ("__weakref__", "_held", "_loop", "places", "record")

    def __init__(self) -> None:
        self._loop = weakref.ref(asyncio.get_running_loop())
        self._held: list[tuple[Permits, Waiter]] = []
        self.record: ConnectionPoolEntry | None = None
        self.places: Holding | None = None

    @property
    def abandoned(self) -> bool:
        """Whether the caller's loop is closed, so that the caller will never come to its end."""
        loop = self._loop()
        return loop is None or loop.is_closed()

    def add(self, permits: Permits, waiter: Waiter) -> bool:
        """Notes a permit if it was granted, and tells whether it was."""
        granted = waiter.state is WaiterState.GRANTED
        if granted:
            self._held.append((permits, waiter))
        return granted

    def drop(self, permits: Permits) -> None:
        """Gives one permit back before the end."""
        for each in self._held:
            if each[0] is permits:
                self._held.remove(each)
                permits.give_back(each[1])
                return

    def end(self) -> None:
        """Gives everything back, what was taken last first; any thread, and any number of times."""
        if self.places is not None:
            self.places.end()
        while self._held:
            try:
                permits, waiter = self._held.pop()
            except IndexError:  # another thread has taken the last one
                return
            permits.give_back(waiter)


class Budget:
    """What a limit on connections allows: of one pool, or of all pools of the process.

    Writing and building indexes have shares of their own, so that however many write, most connections are left for
    reading. A limit of 1 has nothing to share out: writers then take turns with readers.

    Attributes:
        uses: To have a connection in use.
        places: To have a connection open.
        writes: To be among those who write.
        builds: To build an index, which takes long and so has a share of its own where there is room for one.
    """

    __slots__ = ("builds", "places", "uses", "writes")

    def __init__(self, limit: int, max_waiting: int) -> None:
        self.uses = Permits(limit, max_waiting)
        self.places = Permits(limit, max(1, max_waiting))
        self.writes = Permits(max(1, limit // _WRITERS_PART), max_waiting)
        self.builds = Permits(1, max_waiting) if limit >= _LEAST_FOR_BUILDING else self.writes

    def change(self, limit: int) -> None:
        """Puts another limit in force."""
        self.uses.change(limit)
        self.places.change(limit)
        self.writes.change(max(1, limit // _WRITERS_PART))
