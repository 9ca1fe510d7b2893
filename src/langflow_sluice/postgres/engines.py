"""Database engines shared by all flows of the process: one for each database, credential and pool settings."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
import weakref
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from psycopg.pq import TransactionStatus
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from langflow_sluice.errors import PoolTimeout
from langflow_sluice.postgres import vectors
from langflow_sluice.postgres.failures import translate
from langflow_sluice.postgres.opening import APPLICATION_NAME, Opener, arguments_of, local_settings
from langflow_sluice.postgres.permits import Holding
from langflow_sluice.postgres.pool import BoundedPool
from langflow_sluice.postgres.roster import Roster
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import fingerprint, redacted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psycopg import AsyncConnection
    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = [
    "APPLICATION_NAME",
    "PoolStatistics",
    "connection",
    "dispose_all",
    "engine_at_hand",
    "engine_for",
    "local_settings",
    "pool_of",
    "pool_statistics",
    "writing",
]

# Pools with connections at a time; a further one waits until one of them is not in use.
MAX_POOLS = 16


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A snapshot of one pool; holds no credential.

    Attributes:
        label: The database as ``host:port/database``.
        pool_size: Connections kept open.
        max_overflow: Further connections under load.
        checked_out: Connections in use.
        idle: Connections open and not in use.
        overflow: Open connections beyond ``pool_size``.
        waiting: Callers that wait for a connection.
        writing: Callers that write or build an index, out of the writers' share.
        pgbouncer: Whether it works in PgBouncer mode, because it was told to or has found a pooler.
        turned_away: Callers who got no connection, because the pool was full or their time was up.
        wait_counts: Times until callers had their turn, by the ranges of ``guard.histogram``.
        wait_sum_s: All of them together, in seconds.
    """

    label: str
    pool_size: int
    max_overflow: int
    checked_out: int
    idle: int
    overflow: int
    waiting: int
    writing: int
    pgbouncer: bool
    turned_away: int
    wait_counts: tuple[int, ...]
    wait_sum_s: float


@dataclass(frozen=True, slots=True)
class _Key:
    database: str
    settings: PoolSettings


class _Engines:
    """The engines of one process; any thread."""

    def __init__(self) -> None:
        self.roster = Roster(MAX_POOLS)
        self._lock = threading.Lock()
        # One pool for a key, for as long as anybody holds it: a second one would have limits of its own.
        self._pools: weakref.WeakValueDictionary[_Key, BoundedPool] = weakref.WeakValueDictionary()
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    def get(self, url: URL, settings: PoolSettings) -> AsyncEngine:
        self.roster.heed_operator()
        loop = asyncio.get_running_loop()
        key = _Key(fingerprint(url), settings)
        with self._lock:
            if loop not in self._loops:
                self._loops.add(loop)
                weakref.finalize(loop, self.roster.sweep).atexit = False
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = _create(url, settings, key.database, self.roster)
                self.roster.add(pool)
        self.roster.touch(pool)
        return pool.engine


def engine_for(url: URL, settings: PoolSettings | None = None) -> AsyncEngine:
    """The engine for a database, made on first use; call it from a coroutine.

    All loops and threads share it: its connections serve whichever asks next, and what a loop holds when it is closed
    is closed and given back. Ask for it each time instead of keeping it: that is how the pools know which of them was
    not needed for longest. A forked child starts with none.

    The engine is in autocommit, with the setting ``statement_timeout``; each database and credential shows up in
    ``pg_stat_activity`` as application ``sluice`` unless the address says otherwise.

    Args:
        url: From ``parse_database_url``.
        settings: Limits of its pool; the defaults unless given.

    Raises:
        InvalidInput: The operator's limits cannot be read.
    """
    return _engines.get(url, settings or PoolSettings())


def engine_at_hand(url: URL) -> AsyncEngine | None:
    """An engine of that database and credential that has a connection open and not in use, if there is one; any thread.

    For who wants to ask something in passing, and not be one connection more; others may be faster to take it.
    """
    identity = fingerprint(url)
    fitting = (pool for pool in _engines.roster.pools() if pool.fingerprint == identity)
    return next((pool.engine for pool in fitting if pool.checkedin() and not pool.waiting), None)


@asynccontextmanager
async def connection(
    engine: AsyncEngine, *, for_writing: bool = False
) -> AsyncIterator[AsyncConnection[tuple[Any, ...]]]:
    """Lends the driver's connection, in autocommit, without SQLAlchemy's result layers on top.

    It goes back to the pool at the end of the block, cancelled or not; one whose transaction was left open is closed
    instead. Giving back never suspends, so it cannot be interrupted.

    Args:
        engine: From ``engine_for``.
        for_writing: Whether it is used for an ingestion; all other uses slow ingestions down a little.

    Raises:
        PoolTimeout: No connection came free in time, or too many wait already.
        DatabaseError: No connection could be opened; the subclass says why.
    """
    pool = pool_of(engine)
    if not for_writing:
        pool.read_at = time.monotonic()
    try:
        record = await pool.lend()
    except Exception as exc:  # noqa: BLE001 - one function knows all errors
        raise translate(exc, target=pool.label) from None
    driver = cast("AsyncConnection[tuple[Any, ...]]", record.driver_connection)
    try:
        yield driver
    finally:
        if driver.closed or driver.info.transaction_status != TransactionStatus.IDLE:
            pool.discard(record)
        else:
            pool.take_back(record)


@asynccontextmanager
async def writing(engine: AsyncEngine, *, building: bool = False) -> AsyncIterator[None]:
    """A place among those who write, to be taken before a connection, and before a slot of the guard.

    Writers have a quarter of the connections between them, at least one, whatever loops they run on, so that reading
    has the rest; and since nobody waits in here with a slot of the guard, they take no more of those either.

    Args:
        engine: From ``engine_for``.
        building: Whether for an index, which takes long: one a pool, beside the others where there is room.

    Raises:
        PoolTimeout: Others write for longer than ``pool_timeout``, or too many wait already.
    """
    pool = pool_of(engine)
    caller = Holding()
    budgets = [pool.budget, *([pool.roster.budget] if pool.roster.is_limited else [])]
    try:
        for budget in budgets:
            permits = budget.builds if building else budget.writes
            if not await pool.ask(caller, permits, pool.settings.pool_timeout_s):
                msg = (
                    f"{permits.out} others {'build an index' if building else 'write'} over the pool of {pool.label},"
                    f" which is all that may at a time, and {permits.waiting} wait; none came to its end within"
                    f" pool_timeout ({pool.settings.pool_timeout_s:g} s)."
                )
                raise PoolTimeout(msg, hint="Write less at once, or raise pool_size, max_overflow or pool_timeout.")
            pool.track(caller)
        yield
    finally:
        pool.end(caller)


def pool_of(engine: AsyncEngine) -> BoundedPool:
    """The pool of an engine made by ``engine_for``."""
    return cast("BoundedPool", engine.sync_engine.pool)


def pool_statistics() -> list[PoolStatistics]:
    """A snapshot of all pools of the process, the one used last at the end; any thread."""
    roster = _engines.roster
    roster.sweep()
    return [
        PoolStatistics(
            label=pool.label,
            pool_size=pool.settings.pool_size,
            max_overflow=pool.settings.max_overflow,
            checked_out=pool.checkedout(),
            idle=pool.checkedin(),
            overflow=pool.overflow(),
            waiting=pool.waiting,
            writing=pool.writing,
            pgbouncer=pool.settings.pgbouncer,
            turned_away=pool.waits.turned_away,
            wait_counts=tuple(pool.waits.times.counts),
            wait_sum_s=pool.waits.times.sum_s,
        )
        for pool in roster.pools()
    ]


def dispose_all() -> None:
    """Closes all pools of the process; any thread.

    Idle connections are closed now, connections in use when their users give them back.
    """
    _engines.roster.clear()


def _create(url: URL, settings: PoolSettings, identity: str, roster: Roster) -> BoundedPool:
    # The address's own options go with ours, if at all.
    engine = create_async_engine(
        url.difference_update_query(["options"]),
        poolclass=BoundedPool,
        pool_pre_ping=settings.pre_ping,
        pool_reset_on_return=None,  # connection() hands back none with an open transaction, so nothing is to roll back
        isolation_level="AUTOCOMMIT",
        connect_args=arguments_of(url, settings),
        hide_parameters=True,
        use_native_hstore=False,
    )
    pool = pool_of(engine)
    pool.configure(settings, redacted(url), identity, roster)
    pool.engine = engine

    def opened(adapted: Any, record: Any) -> None:
        vectors.register(adapted.driver_connection)
        pool.opened(record)

    event.listen(engine.sync_engine, "do_connect", Opener(pool, url))
    event.listen(engine.sync_engine, "connect", opened)
    event.listen(engine.sync_engine, "close", lambda _, record: pool.closing(record))
    return pool


_engines = _Engines()
# Never collected: the end of a connection that the parent still uses would end it there, too.
_inherited: list[_Engines] = []


def _start_afresh() -> None:
    global _engines  # noqa: PLW0603 - sockets are the parent's
    _inherited.append(_engines)
    _engines = _Engines()


os.register_at_fork(after_in_child=_start_afresh)
atexit.register(dispose_all)
