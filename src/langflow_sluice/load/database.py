"""What a PostgreSQL tells of its connections and its work while calls are under way, over one connection."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import DatabaseError

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import URL

APPLICATION_NAME = "sluice-load"
_CONNECT_S = 5
_WITH_ACTIVE_TIME = 140000

_LIMIT = """
    SELECT current_setting('max_connections')::int
           - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true), '0')::int,
           current_setting('server_version_num')::int
"""
# Every database's: they share the limit. Of other roles' sessions an ordinary role does not see whether they work.
_NOW = """
    SELECT count(*), count(*) FILTER (WHERE state = 'active')
    FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
_WORK = "SELECT active_time / 1000 FROM pg_stat_database WHERE datname = current_database()"


@dataclass(frozen=True, slots=True)
class Connections:
    """Client connections to a server at one moment, without the one that asks.

    Attributes:
        total: All of them.
        active: Those that were running a statement, as far as the role may see that.
    """

    total: int
    active: int


class DatabaseLook:
    """Looks at one database; any thread, one at a time.

    Its connection is kept, so that a full server does not shut it out, and made again when it breaks.

    Args:
        url: Any database of the server; its own work is what ``worked_s`` is about.

    Raises:
        DatabaseError: It cannot be reached.

    Attributes:
        max_connections: What the server takes, less those reserved for superusers and such.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self.max_connections = 0
        self._version = 0
        import psycopg

        from langflow_sluice.postgres.failures import translate
        from langflow_sluice.postgres.url import redacted

        try:
            self._connection = self._connect()
            row = self._connection.execute(_LIMIT).fetchone()
        except psycopg.Error as error:
            self.close()
            raise translate(error, target=redacted(url)) from None
        if row is None:
            self.close()
            msg = f"{redacted(url)} does not tell its settings."
            raise DatabaseError(msg)
        self.max_connections, self._version = row

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._drop()

    def connections(self) -> Connections | None:
        """The connections now; None if the database does not answer."""
        row = self._ask(_NOW)
        return None if row is None else Connections(*row)

    def worked_s(self) -> float | None:
        """Seconds for which this database's sessions ran statements, since its statistics were reset.

        From PostgreSQL 14 on; before, and if it does not answer, None. A session tells once a second while it works and
        10 s after it has stopped at the latest, so the last second of each may be missing.
        """
        row = self._ask(_WORK) if self._version >= _WITH_ACTIVE_TIME else None
        return None if row is None else float(row[0])

    def _ask(self, statement: str) -> tuple[Any, ...] | None:
        import psycopg

        with self._lock:
            try:
                self._connection = self._connection or self._connect()
                return self._connection.execute(statement).fetchone()
            except psycopg.Error:
                self._drop()
                return None

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg

        url = self._url
        given: dict[str, Any] = {
            **url.query,
            "host": url.host or url.query.get("host"),
            "port": url.port,
            "user": url.username,
            "password": url.password,
            "dbname": url.database,
            "connect_timeout": _CONNECT_S,
            "application_name": APPLICATION_NAME,
        }
        arguments = {name: value for name, value in given.items() if value is not None}
        # Nothing prepared, no transaction kept open: as poolers want it.
        return psycopg.connect(autocommit=True, prepare_threshold=None, **arguments)
