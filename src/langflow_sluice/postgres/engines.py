"""Database engines shared by all flows of the process: one for each loop, database, credential and pool settings."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections import OrderedDict
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from psycopg.pq import TransactionStatus
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

from langflow_sluice.postgres import vectors
from langflow_sluice.postgres.failures import translate
from langflow_sluice.postgres.pool import BoundedPool
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import fingerprint, redacted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psycopg import AsyncConnection
    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

# Engines kept for this process; more only while more are in use at the same time.
MAX_ENGINES = 16
APPLICATION_NAME = "sluice"


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
    """

    label: str
    pool_size: int
    max_overflow: int
    checked_out: int
    idle: int
    overflow: int
    waiting: int


@dataclass(frozen=True, slots=True)
class _Key:
    loop: int
    database: str
    settings: PoolSettings


class _Engines:
    """The engines of one process; any thread. Decides under its lock, closes outside of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: OrderedDict[_Key, AsyncEngine] = OrderedDict()

    def get(self, url: URL, settings: PoolSettings) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        key = _Key(id(loop), fingerprint(url), settings)
        surplus: list[BoundedPool] = []
        with self._lock:
            engine = self._engines.get(key)
            # An id is free for others once its loop is gone.
            if engine is None or pool_of(engine).loop is not loop:
                surplus += self._pop_closed()
                engine = self._engines[key] = _create(url, settings, key.database)
                surplus += self._pop_surplus(key)
                weakref.finalize(loop, self.sweep).atexit = False
            self._engines.move_to_end(key)
        for pool in surplus:
            pool.retire()
        return engine

    def sweep(self) -> None:
        """Closes what loops that are closed have left behind, unless the lock is taken: then the next one does."""
        # The garbage collector calls this too, in the middle of anything, also of what holds the lock.
        if not self._lock.acquire(blocking=False):
            return
        try:
            closed = self._pop_closed()
        finally:
            self._lock.release()
        for pool in closed:
            pool.retire()

    def pools(self) -> list[BoundedPool]:
        with self._lock:
            return [pool_of(engine) for engine in self._engines.values()]

    def clear(self) -> None:
        with self._lock:
            pools = [pool_of(engine) for engine in self._engines.values()]
            self._engines.clear()
        for pool in pools:
            pool.retire()

    def _pop_closed(self) -> list[BoundedPool]:
        closed = [key for key, engine in self._engines.items() if pool_of(engine).loop is None]
        return [pool_of(self._engines.pop(key)) for key in closed]

    def _pop_surplus(self, newest: _Key) -> list[BoundedPool]:
        idle = [key for key, engine in self._engines.items() if key != newest and pool_of(engine).is_idle]
        return [pool_of(self._engines.pop(key)) for key in idle[: max(0, len(self._engines) - MAX_ENGINES)]]


def engine_for(url: URL, settings: PoolSettings | None = None) -> AsyncEngine:
    """The engine for a database, made on first use; call it from a coroutine, on the loop that will use the engine.

    Ask for it each time instead of keeping it: an engine that nobody asked for may be retired to make room, after
    which its connections are closed as they come back. The same call on another loop returns another engine, since
    sockets belong to their loop; a loop's connections are closed when it is closed and collected, or the next time
    anybody makes an engine. A forked child starts with none.

    The engine is in autocommit, with the setting ``statement_timeout``; each database and credential shows up in
    ``pg_stat_activity`` as application ``sluice`` unless the address says otherwise.

    Args:
        url: From ``parse_database_url``.
        settings: Limits of its pool; the defaults unless given.
    """
    return _engines.get(url, settings or PoolSettings())


@asynccontextmanager
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection[tuple[Any, ...]]]:
    """Lends the driver's connection, in autocommit, without SQLAlchemy's result layers on top.

    It goes back to the pool at the end of the block, cancelled or not; one whose transaction was left open is closed
    instead. Giving back never suspends, so it cannot be interrupted.

    Raises:
        PoolTimeout: No connection came free in time, or too many wait already.
        DatabaseError: No connection could be opened; the subclass says why.
    """
    pool = pool_of(engine)
    try:
        lent = await greenlet_spawn(engine.sync_engine.raw_connection)
    except Exception as exc:  # noqa: BLE001 - one function knows all errors
        raise translate(exc, target=pool.label) from None
    driver = cast("AsyncConnection[tuple[Any, ...]]", lent.driver_connection)
    try:
        yield driver
    finally:
        if driver.closed or driver.info.transaction_status != TransactionStatus.IDLE:
            await greenlet_spawn(lent.invalidate)
        else:
            lent.close()  # our pool only passes it on, without I/O


def pool_of(engine: AsyncEngine) -> BoundedPool:
    """The pool of an engine made by ``engine_for``."""
    return cast("BoundedPool", engine.sync_engine.pool)


def pool_statistics() -> list[PoolStatistics]:
    """A snapshot of all pools of the process, the one used last at the end; any thread."""
    _engines.sweep()
    return [
        PoolStatistics(
            label=pool.label,
            pool_size=pool.settings.pool_size,
            max_overflow=pool.settings.max_overflow,
            checked_out=pool.checkedout(),
            idle=pool.checkedin(),
            overflow=pool.overflow(),
            waiting=pool.waiting,
        )
        for pool in _engines.pools()
    ]


def dispose_all() -> None:
    """Closes all engines of the process; any thread.

    Idle connections are closed now (those of another thread's loop as soon as it gets to it), connections in use when
    their users give them back. The next ``engine_for`` makes a new engine.
    """
    _engines.clear()


def _create(url: URL, settings: PoolSettings, identity: str) -> AsyncEngine:
    arguments: dict[str, Any] = {}
    if "connect_timeout" not in url.query:
        arguments["connect_timeout"] = settings.connect_timeout_s
    if "application_name" not in url.query:
        arguments["application_name"] = APPLICATION_NAME
    if settings.pgbouncer:
        # The next transaction may run on another server connection, which knows nothing of what was prepared.
        arguments["prepare_threshold"] = None
    else:
        arguments["options"] = " ".join(filter(None, (str(url.query.get("options", "")), _options(settings))))
    engine = create_async_engine(
        url,
        poolclass=BoundedPool,
        pool_recycle=settings.pool_recycle_s or -1,
        pool_pre_ping=settings.pre_ping,
        pool_reset_on_return=None,  # connection() hands back none with an open transaction, so nothing is to roll back
        isolation_level="AUTOCOMMIT",
        connect_args=arguments,
        hide_parameters=True,
        use_native_hstore=False,
    )
    pool = pool_of(engine)
    pool.settings, pool.label, pool.fingerprint = settings, redacted(url), identity

    def opened(adapted: Any, _record: Any) -> None:
        driver = adapted.driver_connection
        pool.opened(driver)
        vectors.register(driver)

    event.listen(engine.sync_engine, "connect", opened)
    return engine


def local_settings(settings: PoolSettings) -> str:
    """What PgBouncer mode says at the start of each transaction instead of at connect."""
    return (
        f"SET LOCAL statement_timeout = {settings.statement_timeout_ms}; SET LOCAL hnsw.iterative_scan = strict_order"
    )


def _options(settings: PoolSettings) -> str:
    # Without an iterative scan an index gives at most hnsw.ef_search rows, and fewer under a filter.
    timeout = f"-c statement_timeout={settings.statement_timeout_ms} " if settings.statement_timeout_s else ""
    return f"{timeout}-c hnsw.iterative_scan=strict_order"


_engines = _Engines()
# Never collected: the end of a connection that the parent still uses would end it there, too.
_inherited: list[_Engines] = []


def _start_afresh() -> None:
    global _engines  # noqa: PLW0603 - sockets are the parent's
    _inherited.append(_engines)
    _engines = _Engines()


os.register_at_fork(after_in_child=_start_afresh)
atexit.register(dispose_all)
