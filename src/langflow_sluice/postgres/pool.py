"""The pool behind our engines: one for all event loops, bounded, first come first served.

SQLAlchemy's own ``AsyncAdaptedQueuePool`` does not serve here. It belongs to one loop; when opening a connection fails
it wakes none of those who wait for one, so after an outage they sit out their whole timeout; it bounds neither their
number nor tells it; and it closes an overflow connection the moment it comes back, to open the next one a moment later,
while the server still counts the first.

A connection of psycopg belongs to a loop only while a statement runs, so an idle one serves whichever loop comes next.
Nothing here is locked: a lock would have loops wait for one another, and the garbage collector, which gives back what
its user forgot, can do so on any thread in the middle of anything. Three rules hold the limit instead. Whoever uses a
connection holds a permit to use one; it comes back to the idle ones before its permit is given back; and one is opened
only by a caller with a permit who found none idle, under a second permit that the connection keeps while it is open.
"""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy.pool import Pool
from sqlalchemy.util import await_only, greenlet_spawn

from langflow_sluice.errors import PoolTimeout
from langflow_sluice.guard.clock import SYSTEM_CLOCK
from langflow_sluice.postgres import sessions
from langflow_sluice.postgres.failures import translate
from langflow_sluice.postgres.permits import Budget, Holding, Permits
from langflow_sluice.postgres.waits import Waits

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

    from langflow_sluice.errors import SluiceError
    from langflow_sluice.postgres.roster import Roster
    from langflow_sluice.postgres.settings import PoolSettings

# An overflow connection is closed when it was not needed for this long.
OVERFLOW_IDLE_S = 10.0
# A connection that was in use so recently is tested only by looking whether the server has closed it.
PING_AFTER_S = 5.0


class BoundedPool(Pool):
    """At most ``settings.capacity`` connections, for all loops and threads of the process.

    Connections are made when needed, and the one used last goes out first, to any loop. Whoever is cancelled while
    waiting, or just after a connection was given to it, loses nothing. A connection that cannot be opened gives its
    place to the next in line. What a loop holds when it is closed is taken back by whoever has to wait next.

    Attributes:
        settings: The limits; PgBouncer mode is in them once it is known.
        label: ``host:port/database`` for messages; never a credential.
        fingerprint: Identity of database and credential.
        budget: The permits of this pool.
        roster: All pools of the process, and the permits that they share.
        engine: The engine in front.
        read_at: When somebody last asked for a connection for something else than an ingestion; on a monotonic clock.
        seated: Whether it may have connections that are idle; one that was evicted closes them.
        waits: How long callers waited for their turn.
    """

    settings: PoolSettings
    label: str
    fingerprint: str
    budget: Budget
    roster: Roster
    engine: AsyncEngine

    def __init__(self, creator: Any, **kw: Any) -> None:
        super().__init__(creator, **kw)
        self.seated = False
        self.waits = Waits()
        self.read_at = -math.inf
        self._idle: deque[tuple[ConnectionPoolEntry, float]] = deque()
        self._lent: dict[ConnectionPoolEntry, Holding] = {}
        self._open_places: dict[ConnectionPoolEntry, Holding] = {}
        self._closing: dict[ConnectionPoolEntry, socket.socket | None] = {}
        self._callers: set[Holding] = set()
        self._trimming = False
        # SQLAlchemy sets its dialect up on the first connection, and we look for a pooler: one caller at a time, since
        # its lock around that would bind the pool to a loop.
        self._is_set_up = False
        self._attempts = 0
        self._failure: SluiceError | None = None

    def configure(self, settings: PoolSettings, label: str, fingerprint: str, roster: Roster) -> None:
        """Sets the limits; once, before first use."""
        self.settings, self.label, self.fingerprint, self.roster = settings, label, fingerprint, roster
        self.budget = Budget(settings.capacity, settings.max_waiting)
        self._set_ups = Permits(1, settings.capacity)

    @property
    def waiting(self) -> int:
        """Callers that wait for a connection."""
        return self.budget.uses.waiting

    @property
    def is_idle(self) -> bool:
        """Whether nobody holds a connection or waits for one."""
        return not self.budget.uses.out and not self.budget.uses.waiting

    @property
    def writing(self) -> int:
        """Callers that write or build an index, or are about to."""
        budget = self.budget
        return budget.writes.out + (budget.builds.out if budget.builds is not budget.writes else 0)

    @property
    def limit(self) -> int:
        """The most connections it can have at present: its capacity, or the operator's limit if that is less."""
        capacity = self.settings.capacity
        return min(capacity, self.roster.budget.uses.limit) if self.roster.is_limited else capacity

    def size(self) -> int:
        """Connections that are kept open."""
        return self.settings.pool_size

    def checkedout(self) -> int:
        """Connections in use, or being opened or tested for a caller."""
        return self.budget.uses.out

    def checkedin(self) -> int:
        """Connections that are open and not in use."""
        return len(self._idle)

    def overflow(self) -> int:
        """Open connections beyond ``pool_size``."""
        return max(0, self.budget.uses.out + len(self._idle) - self.settings.pool_size)

    def status(self) -> str:
        """One line for logs."""
        return (
            f"{self.label}: {self.checkedout()} in use, {len(self._idle)} idle, {self.waiting} waiting,"
            f" capacity {self.settings.capacity}"
        )

    def drop_idle(self) -> None:
        """Closes the connections that are not in use: the server ended their sessions, or nobody needs them."""
        while self.close_longest_idle():
            pass

    def close_longest_idle(self) -> bool:
        """Closes the connection that was not used for longest, and tells whether there was one; any thread."""
        try:
            record, _ = self._idle.popleft()
        except IndexError:
            return False
        self._close(record)
        return True

    def sweep(self) -> None:
        """Takes back what callers hold whose loop is closed; any thread, the garbage collector's included."""
        for caller in list(self._callers):
            if caller.abandoned:
                record = caller.record
                if record is not None and self._lent.pop(record, None) is not None:
                    self._close(record)
                self.end(caller)

    def recreate(self) -> BoundedPool:
        """This pool: SQLAlchemy asks for another one when an engine is disposed, which would have limits of its own."""
        return self

    def dispose(self) -> None:
        """Closes what is idle."""
        self.drop_idle()

    async def ask(self, caller: Holding, permits: Permits, patience_s: float) -> bool:
        """Waits for a permit and tells whether the caller has it now."""
        waiter = permits.ask(patience_s)
        if not waiter.settled:
            self.roster.sweep()
            if not waiter.settled:
                await permits.wait(waiter)
        return caller.add(permits, waiter)

    async def lend(self) -> ConnectionPoolEntry:
        """A connection, tested where it was idle for a while; to be given to ``take_back``, or to ``discard``.

        SQLAlchemy's own way to a connection leads here too, but through a greenlet and an object that watches over it,
        which together take longer than a pool should.

        Raises:
            PoolTimeout: None came free in time, or too many wait already.
            Exception: None could be opened; what the driver says.
        """
        caller = Holding()
        asked_at = time.monotonic()
        deadline = asked_at + self.settings.pool_timeout_s
        try:
            await self._admit(caller, deadline)
            # What follows is the database's time: a connection is looked at, or opened.
            waited_s = time.monotonic() - asked_at
            record = await self._take_good() or await self._open(caller, deadline)
        except BaseException as exc:
            if isinstance(exc, PoolTimeout):
                self.waits.sent_away()
            self.end(caller)
            raise
        self.waits.served(waited_s)
        caller.record = record
        self._lent[record] = caller
        _unbind(record)
        return record

    def take_back(self, record: ConnectionPoolEntry) -> None:
        """Puts a connection that is in order back among the idle ones, or closes it where places are needed."""
        self._do_return_conn(record)

    def discard(self, record: ConnectionPoolEntry) -> None:
        """Closes a connection that is in no state to be used again; what it does on the server comes to its end."""
        self._close(record)
        self._do_return_conn(record)

    def _do_get(self) -> ConnectionPoolEntry:
        return await_only(self.lend())

    async def _admit(self, caller: Holding, deadline: float) -> None:
        uses = self.budget.uses
        if not await self.ask(caller, uses, self.settings.pool_timeout_s):
            raise self._full()
        self.track(caller)
        # In this order: who evicts a pool looks at its permits after taking its seat away.
        if not self.seated:
            await self.roster.seat(self, deadline - time.monotonic())
        roster = self.roster
        if roster.is_limited and not await self.ask(caller, roster.budget.uses, deadline - time.monotonic()):
            raise self._forbidden()

    async def _take_good(self) -> ConnectionPoolEntry | None:
        while True:
            record = self._take_idle()
            if record is None or record.fresh or not self.settings.pre_ping:  # type: ignore[attr-defined]
                return record
            _unbind(record)
            try:
                await record.driver_connection.execute("")  # type: ignore[union-attr]
            except psycopg.Error:
                # SQLAlchemy does the same: where one session has ended, the others that were idle have, too.
                self._close(record)
                self.drop_idle()
            except BaseException:
                self._close(record)
                raise
            else:
                record.fresh = True  # type: ignore[attr-defined]
                return record

    def _take_idle(self) -> ConnectionPoolEntry | None:
        recycle_s = self.settings.pool_recycle_s
        while True:
            try:
                record, since = self._idle.pop()
            except IndexError:
                return None
            young = not recycle_s or time.time() - record.starttime < recycle_s  # type: ignore[attr-defined]
            if young and sessions.is_alive(record.driver_connection):
                # In use a moment ago: there is no need to ask the server.
                record.fresh = time.monotonic() - since < PING_AFTER_S  # type: ignore[attr-defined]
                return record
            self._close(record)

    async def _open(self, caller: Holding, deadline: float) -> ConnectionPoolEntry:
        caller.places = places = Holding()
        if not await self.ask(places, self.budget.places, deadline - time.monotonic()):
            raise self._full()
        shared = self.roster.budget.places
        waiter = shared.ask(deadline - time.monotonic())
        if not waiter.settled:
            # The operator's limit is reached, so somebody's idle connection has to go.
            self.roster.close_an_idle_one()
            await shared.wait(waiter)
        if not places.add(shared, waiter):
            raise self._forbidden()
        opening = self._connect() if self._is_set_up else self._set_up(caller, deadline)
        record = await opening
        self._open_places[record] = places
        caller.places = None
        return record

    async def _connect(self) -> ConnectionPoolEntry:
        return await greenlet_spawn(self._create_connection)

    async def _set_up(self, caller: Holding, deadline: float) -> ConnectionPoolEntry:
        """Opens the first connection, or shares the failure of who has just tried."""
        attempts = self._attempts
        if not await self.ask(caller, self._set_ups, deadline - time.monotonic()):
            raise self._full()
        try:
            if not self._is_set_up and attempts != self._attempts and self._failure is not None:
                raise copy.copy(self._failure)
            record = await self._attempt()
        finally:
            caller.drop(self._set_ups)
        self._is_set_up = True
        return record

    async def _attempt(self) -> ConnectionPoolEntry:
        try:
            return await self._connect()
        except Exception as exc:
            self._attempts += 1
            self._failure = copy.copy(translate(exc, target=self.label))
            raise

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        caller = self._lent.pop(record, None)
        if caller is None:  # of a loop that was closed: everything has been taken back
            return
        roster = self.roster
        if record.dbapi_connection is None:
            self._vacate(record)
        elif not self.seated or roster.needs_places:
            self._close(record)
        else:
            self._idle.append((record, time.monotonic()))
            if not self._trimming and self.overflow():
                self._trimming = True
                SYSTEM_CLOCK.call_at(SYSTEM_CLOCK.now() + OVERFLOW_IDLE_S, self._trim)
        self.end(caller)
        roster.returned(self)

    def track(self, caller: Holding) -> None:
        """Notes a caller that holds something, so that it is taken back when the caller's loop closes."""
        self._callers.add(caller)

    def end(self, caller: Holding) -> None:
        """A caller has come to its end; gives back what it holds."""
        self._callers.discard(caller)
        caller.end()

    def _close(self, record: ConnectionPoolEntry) -> None:
        # SQLAlchemy's close awaits, so it works only in its own greenlets; the driver's needs no loop.
        driver = record.driver_connection
        record.dbapi_connection = None  # type: ignore[misc] # a slot of the class that is really used
        sessions.end_session(driver, self._ending(record))

    def closing(self, record: ConnectionPoolEntry) -> None:
        """SQLAlchemy is about to close a connection itself."""
        self._closing[record] = sessions.keep_socket(record.driver_connection)

    def opened(self, record: ConnectionPoolEntry) -> None:
        """SQLAlchemy has opened a connection, perhaps in place of another one."""
        former = self._closing.pop(record, None)
        if former is not None:
            former.close()

    def _vacate(self, record: ConnectionPoolEntry) -> None:
        sessions.await_end(self._closing.pop(record, None), self._ending(record))

    def _ending(self, record: ConnectionPoolEntry) -> Callable[[], None]:
        """What to do when the server has let go of a connection that is closed."""
        places = self._open_places.pop(record, None)
        if places is None:
            return _nothing
        self.roster.leaving.add(places)

        def ended() -> None:
            self.roster.leaving.discard(places)
            places.end()

        return ended

    def _trim(self) -> None:
        """Closes overflow connections that were idle for long enough; those used least recently stand in front."""
        self._trimming = False
        while self.overflow():
            try:
                record, since = self._idle.popleft()
            except IndexError:
                return
            if time.monotonic() - since < OVERFLOW_IDLE_S:
                self._idle.appendleft((record, since))
                self._trimming = True
                SYSTEM_CLOCK.call_at(SYSTEM_CLOCK.now() + OVERFLOW_IDLE_S - (time.monotonic() - since), self._trim)
                return
            self._close(record)

    def _full(self) -> PoolTimeout:
        settings, uses = self.settings, self.budget.uses
        limits = f"(pool_size {settings.pool_size}, max_overflow {settings.max_overflow})"
        if uses.waiting >= settings.max_waiting:
            msg = (
                f"The pool of {self.label} is full: {uses.out} of {settings.capacity} connections are in use {limits},"
                f" and {uses.waiting} callers wait, which is max_waiting."
            )
        else:
            msg = (
                f"No connection to {self.label} came free within pool_timeout ({settings.pool_timeout_s:g} s):"
                f" {uses.out} of {settings.capacity} are in use {limits}, {uses.waiting} others wait."
            )
        return PoolTimeout(msg, hint=_MORE)

    def _forbidden(self) -> PoolTimeout:
        uses = self.roster.budget.uses
        msg = (
            f"No connection to {self.label} could be had within pool_timeout ({self.settings.pool_timeout_s:g} s): the"
            f" operator of this server allows {uses.limit} to all databases together, {uses.out} are in use and"
            f" {uses.waiting} callers wait."
        )
        return PoolTimeout(msg, hint="Raise SLUICE_MAX_DB_CONNECTIONS, or let fewer callers in (max_concurrency).")


def _unbind(record: ConnectionPoolEntry) -> None:
    """Makes a connection fit for the running loop: a lock that was ever waited for is bound to its loop."""
    record.driver_connection.lock = asyncio.Lock()  # type: ignore[union-attr]


def _nothing() -> None:
    """For a connection that holds no place any more."""


_MORE = (
    "Raise pool_size or max_overflow if the database has connections to spare, raise pool_timeout, or let fewer"
    " callers in at once (max_concurrency)."
)
