"""The pool behind our engines: bounded, first come first served, and never shy of telling who waits.

SQLAlchemy's own ``AsyncAdaptedQueuePool`` does not serve here. When opening a connection fails it wakes none of those
who wait for one, so after an outage they sit out their whole timeout; it bounds neither their number nor tells it; and
it closes an overflow connection the moment it comes back, to open the next one a moment later, while the server still
counts the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from sqlalchemy.pool import Pool
from sqlalchemy.util import await_only

from langflow_sluice.errors import PoolTimeout

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

    from langflow_sluice.postgres.settings import PoolSettings

# An overflow connection is closed when it was not needed for this long.
OVERFLOW_IDLE_S = 10.0
# A connection that was in use so recently is tested only by looking whether the server has closed it.
PING_AFTER_S = 5.0


class BoundedPool(Pool):
    """At most ``settings.capacity`` connections, for one event loop.

    Connections are made when needed, the one used last goes out first, and one that comes back goes straight to the
    caller that waits longest. Whoever is cancelled while waiting, or just after a connection was given to it, loses
    nothing. A connection that cannot be opened gives its place to the next in line.

    All methods but ``retire`` belong to the thread of the loop.

    Attributes:
        settings: The limits; set by whoever makes the engine, before first use.
        label: ``host:port/database`` for messages; never a credential.
        fingerprint: Identity of database and credential.
    """

    settings: PoolSettings
    label: str
    fingerprint: str

    def __init__(self, creator: Any, **kw: Any) -> None:
        super().__init__(creator, **kw)
        # Weak, so that a loop nobody closes in front of us can go, which is when its connections are closed.
        self._loop = weakref.ref(asyncio.get_running_loop())
        self._opened: weakref.WeakSet[Any] = weakref.WeakSet()
        self._thread = threading.get_ident()
        self._busy = 0
        self._idle: deque[tuple[ConnectionPoolEntry, float]] = deque()
        self._waiters: dict[asyncio.Future[ConnectionPoolEntry | None], None] = {}
        self._trimmer: asyncio.TimerHandle | None = None
        self._retired = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop whose thread the pool belongs to, while it can run."""
        loop = self._loop()
        return None if loop is None or loop.is_closed() else loop

    @property
    def waiting(self) -> int:
        """Callers that wait for a connection."""
        return len(self._waiters)

    @property
    def is_idle(self) -> bool:
        """Whether nobody holds a connection or waits for one."""
        return not self._busy and not self._waiters

    def size(self) -> int:
        """Connections that are kept open."""
        return self.settings.pool_size

    def checkedout(self) -> int:
        """Connections in use, or being opened or tested for a caller."""
        return self._busy

    def checkedin(self) -> int:
        """Connections that are open and not in use."""
        return len(self._idle)

    def overflow(self) -> int:
        """Open connections beyond ``pool_size``."""
        return max(0, self._busy + len(self._idle) - self.settings.pool_size)

    def status(self) -> str:
        """One line for logs."""
        return (
            f"{self.label}: {self._busy} in use, {len(self._idle)} idle, {len(self._waiters)} waiting,"
            f" capacity {self.settings.capacity}"
        )

    def opened(self, driver_connection: Any) -> None:
        """Takes note of a new connection, weakly."""
        self._opened.add(driver_connection)

    def drop_idle(self) -> None:
        """Closes the connections that are not in use: the server ended their sessions, or nobody needs them."""
        while self._idle:
            _finish(self._idle.pop()[0])

    def retire(self) -> None:
        """Closes what is idle now and what is in use when it comes back; any thread.

        The connections of a loop that is closed are all closed at once, since nobody can use them any more.
        """
        self._retired = True
        loop = self.loop
        if loop is None:
            for connection in list(self._opened):
                connection.pgconn.finish()
            self._idle.clear()
        elif threading.get_ident() == self._thread:
            self.drop_idle()
        else:
            with contextlib.suppress(RuntimeError):  # it closes this very moment, and its connections go with it
                loop.call_soon_threadsafe(self.drop_idle)

    def recreate(self) -> BoundedPool:
        """A new pool with the same settings; SQLAlchemy asks for it when an engine is disposed."""
        fresh = type(self)(
            self._creator,
            recycle=self._recycle,
            pre_ping=self._pre_ping,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )
        fresh.settings, fresh.label, fresh.fingerprint = self.settings, self.label, self.fingerprint
        return fresh

    def dispose(self) -> None:
        """Closes what is idle now and what is in use when it comes back."""
        self.retire()

    def _do_get(self) -> ConnectionPoolEntry:
        if self._busy < self.settings.capacity and not self._waiters:
            self._busy += 1
            record = self._take_idle()
        else:
            record = await_only(self._wait())
        if record is not None:
            return record
        try:
            return self._create_connection()
        except BaseException:
            self._pass_on(None)
            raise

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if threading.get_ident() == self._thread:
            self._pass_on(record)
            return
        # The garbage collector returns what its user forgot, on whichever thread it happens to run.
        loop = self.loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it closes this very moment, and its connections go with it
                loop.call_soon_threadsafe(self._pass_on, record)

    def _take_idle(self) -> ConnectionPoolEntry | None:
        if not self._idle:
            return None
        record, since = self._idle.pop()
        if time.monotonic() - since < PING_AFTER_S and _is_silent(record):
            record.fresh = True  # type: ignore[attr-defined] # SQLAlchemy leaves the ping out then
        return record

    async def _wait(self) -> ConnectionPoolEntry | None:
        """Waits for a place in the pool; ``None`` is a place without a connection, to be filled by the caller."""
        settings = self.settings
        if len(self._waiters) >= settings.max_waiting:
            msg = (
                f"The pool of {self.label} is full: {self._busy} of {settings.capacity} connections are in use"
                f" (pool_size {settings.pool_size}, max_overflow {settings.max_overflow}), and"
                f" {len(self._waiters)} callers wait, which is max_waiting."
            )
            raise PoolTimeout(msg, hint=_MORE)
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[ConnectionPoolEntry | None] = loop.create_future()
        self._waiters[turn] = None
        timer = loop.call_later(settings.pool_timeout_s, _expire, turn)
        try:
            return await turn
        except TimeoutError:
            msg = (
                f"No connection to {self.label} came free within pool_timeout ({settings.pool_timeout_s:g} s):"
                f" {self._busy} of {settings.capacity} are in use (pool_size {settings.pool_size}, max_overflow"
                f" {settings.max_overflow}), {len(self._waiters) - 1} others wait."
            )
            raise PoolTimeout(msg, hint=_MORE) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on(turn.result())  # given to us in the moment we were cancelled
            raise
        finally:
            timer.cancel()
            self._waiters.pop(turn, None)

    def _pass_on(self, record: ConnectionPoolEntry | None) -> None:
        """Gives a place, with or without a connection, to who waits longest, or takes it back."""
        while self._waiters:
            turn = next(iter(self._waiters))
            del self._waiters[turn]
            if not turn.done():
                if record is not None and not self._retired:
                    record.fresh = True  # type: ignore[attr-defined] # in use a moment ago: no ping
                turn.set_result(record)
                return
        self._busy -= 1
        if record is None:
            return
        loop = self.loop
        if self._retired or loop is None:
            _finish(record)
        elif record.dbapi_connection is not None:
            self._idle.append((record, time.monotonic()))
            if self.overflow() and self._trimmer is None:
                self._trimmer = loop.call_later(OVERFLOW_IDLE_S, self._trim)

    def _trim(self) -> None:
        """Closes overflow connections that were idle for long enough; those used least recently stand in front."""
        self._trimmer = None
        now = time.monotonic()
        while self._idle and self.overflow() and now - self._idle[0][1] >= OVERFLOW_IDLE_S:
            _finish(self._idle.popleft()[0])
        if self._idle and self.overflow():
            pause = max(0.0, self._idle[0][1] + OVERFLOW_IDLE_S - now)
            self._trimmer = asyncio.get_running_loop().call_later(pause, self._trim)


_MORE = (
    "Raise pool_size or max_overflow if the database has connections to spare, raise pool_timeout, or let fewer"
    " callers in at once (max_concurrency)."
)


def _expire(turn: asyncio.Future[Any]) -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())


def _finish(record: ConnectionPoolEntry) -> None:
    # SQLAlchemy's close awaits, so it works only in its own greenlets; the driver's needs no loop, and none may run.
    adapted = record.dbapi_connection
    if adapted is not None:
        record.driver_connection.pgconn.finish()  # type: ignore[union-attr]
        record.dbapi_connection = None  # type: ignore[misc] # a slot of the class that is really used


def _is_silent(record: ConnectionPoolEntry) -> bool:
    """Whether an idle connection has nothing to read: a server that went away has closed its side, which reads."""
    try:
        sock = record.driver_connection.pgconn.socket  # type: ignore[union-attr]
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            return not poll.poll(0)
        return not select.select([sock], [], [], 0)[0]
    except Exception:  # noqa: BLE001 - a connection without a socket is one to test
        return False
