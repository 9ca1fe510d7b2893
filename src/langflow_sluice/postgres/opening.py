"""How a connection is opened: what is said to the server, and what to make of a pooler in front of it."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy.util import await_only

if TYPE_CHECKING:
    from sqlalchemy import URL

    from langflow_sluice.postgres.pool import BoundedPool
    from langflow_sluice.postgres.settings import PoolSettings

APPLICATION_NAME = "sluice"

_log = logging.getLogger("langflow_sluice.postgres")


def arguments_of(url: URL, settings: PoolSettings) -> dict[str, Any]:
    """What the driver is told beside the address."""
    arguments: dict[str, Any] = {"autocommit": True}
    if "connect_timeout" not in url.query:
        arguments["connect_timeout"] = settings.connect_timeout_s
    if "application_name" not in url.query:
        arguments["application_name"] = APPLICATION_NAME
    return arguments


class Opener:
    """Opens the connections of one pool, in SQLAlchemy's greenlets, and finds out about PgBouncer on the way.

    Settings go with the connection, unless a pooler is in front that hands each transaction to another session: it
    refuses them (or drops them), and what was prepared in one session is missing, or in the way, in the next. Then
    settings are said at the start of each transaction, and nothing is prepared. Where it is left to us to find out
    (``detect_pgbouncer``), the refusal tells, or else that the process that serves us is not the one that the
    connection was promised.

    Args:
        pool: Its settings are replaced once a pooler is found.
        url: The address, for settings of its own.
    """

    def __init__(self, pool: BoundedPool, url: URL) -> None:
        self._pool = pool
        self._own_options = str(url.query.get("options", ""))
        self._looked = False

    def __call__(self, dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        """Opens a connection; SQLAlchemy's event ``do_connect``."""
        pool = self._pool
        if not pool.settings.pgbouncer:
            said = " ".join(filter(None, (self._own_options, _options(pool.settings))))
            try:
                adapted = dialect.connect(*arguments, **{**options, "options": said})
            except psycopg.Error as exc:
                if not (pool.settings.detect_pgbouncer and "unsupported startup parameter" in str(exc)):
                    raise
                self._found("it refuses settings at connect")
            else:
                if not self._looked and pool.settings.detect_pgbouncer and _is_relayed(adapted.driver_connection):
                    self._found("it serves each transaction by another session")
                    adapted.driver_connection.prepare_threshold = None
                self._looked = True
                return adapted
        # The next transaction may run on another server connection, which knows nothing of what was prepared.
        own = {"options": self._own_options} if self._own_options else {}
        return dialect.connect(*arguments, **{**options, **own, "prepare_threshold": None})

    def _found(self, sign: str) -> None:
        pool = self._pool
        pool.settings = dataclasses.replace(pool.settings, pgbouncer=True)
        _log.info("A pooler stands in front of %s (%s): PgBouncer mode is on.", pool.label, sign)


def local_settings(settings: PoolSettings) -> str:
    """What PgBouncer mode says at the start of each transaction instead of at connect."""
    return (
        f"SET LOCAL statement_timeout = {settings.statement_timeout_ms}; SET LOCAL hnsw.iterative_scan = strict_order"
    )


def _options(settings: PoolSettings) -> str:
    # Without an iterative scan an index gives at most hnsw.ef_search rows, and fewer under a filter.
    timeout = f"-c statement_timeout={settings.statement_timeout_ms} " if settings.statement_timeout_s else ""
    return f"{timeout}-c hnsw.iterative_scan=strict_order"


def _is_relayed(driver: psycopg.AsyncConnection[Any]) -> bool:
    # A pooler makes up the process id that it gives with the key to cancel.
    cursor = await_only(driver.execute("SELECT pg_backend_pid()", prepare=False))
    row = await_only(cursor.fetchone())
    return row is not None and int(row[0]) != driver.info.backend_pid
