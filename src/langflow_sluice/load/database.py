"""What a PostgreSQL tells of its connections and its work while calls are under way, over one connection."""

from __future__ import annotations

import selectors
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import DatabaseError

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGconn, PGresult
    from sqlalchemy import URL

APPLICATION_NAME = "sluice-load"
_CONNECT_S = 5
# A database that is at its end is what one wants to see, so nobody may wait for it without end.
_ANSWER_S = 2
# After it was waited for in vain; what else is looked at meanwhile is not held up again and again.
_REST_S = 5.0
_WITH_ACTIVE_TIME = 140000

# In one message with what is asked, so in one transaction with it: a session that a pooler lends out must not keep it,
# and as an option of the connection poolers refuse it.
_BOUNDED = f"SET LOCAL statement_timeout = {_ANSWER_S * 1000}; "

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

    Its connection is kept, so that a full server does not shut it out, and made again when it breaks. No look waits
    longer than 2 s for an answer and as long for a new connection; after one that did, it is left alone for 5 s.

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
        self._not_before = 0.0
        self._connection: psycopg.Connection[Any] | None = None
        self.max_connections = 0
        self._version = 0
        import psycopg

        from langflow_sluice.postgres.failures import translate
        from langflow_sluice.postgres.url import redacted

        try:
            self._connection = self._connect(_CONNECT_S)
            row = _answer(self._connection.pgconn, _LIMIT)
        except TimeoutError:
            self.close()
            msg = f"{redacted(url)} took the connection and then did not answer within {_ANSWER_S} s."
            raise DatabaseError(msg) from None
        except psycopg.Error as error:
            self.close()
            raise translate(error, target=redacted(url)) from None
        if row is None:
            self.close()
            msg = f"{redacted(url)} does not tell its settings."
            raise DatabaseError(msg)
        self.max_connections, self._version = (int(each) for each in row)

    def close(self) -> None:
        """Closes the connection; not while another thread looks for longer than a look may take."""
        if not self._lock.acquire(timeout=_CONNECT_S):
            return
        try:
            self._drop()
        finally:
            self._lock.release()

    def connections(self) -> Connections | None:
        """The connections now; None if the database does not answer."""
        row = self._ask(_NOW)
        return None if row is None else Connections(*(int(each) for each in row))

    def worked_s(self) -> float | None:
        """Seconds for which this database's sessions ran statements, since its statistics were reset.

        From PostgreSQL 14 on; before, and if it does not answer, None. A session tells once a second while it works and
        10 s after it has stopped at the latest, so the last second of each may be missing.
        """
        row = self._ask(_WORK) if self._version >= _WITH_ACTIVE_TIME else None
        return None if row is None else float(row[0])

    def _ask(self, statement: str) -> tuple[bytes, ...] | None:
        import psycopg

        with self._lock:
            began = time.monotonic()
            if began < self._not_before:
                return None
            try:
                self._connection = self._connection or self._connect(_ANSWER_S)
                return _answer(self._connection.pgconn, statement)
            except (psycopg.Error, TimeoutError):
                self._drop()
                if time.monotonic() - began > _ANSWER_S / 2:
                    self._not_before = time.monotonic() + _REST_S
                return None

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self, within_s: int) -> psycopg.Connection[Any]:
        import psycopg

        url = self._url
        given: dict[str, Any] = {
            **url.query,
            "host": url.host or url.query.get("host"),
            "port": url.port,
            "user": url.username,
            "password": url.password,
            "dbname": url.database,
            "connect_timeout": within_s,
            "application_name": APPLICATION_NAME,
        }
        arguments = {name: value for name, value in given.items() if value is not None}
        # Nothing prepared, no transaction kept open: as poolers want it.
        return psycopg.connect(autocommit=True, prepare_threshold=None, **arguments)


def _answer(session: PGconn, statement: str) -> tuple[bytes, ...] | None:
    """The only row of the answer, as text; None where it has none, or nothing in one of its columns.

    ``Connection.execute`` waits for as long as the server is silent, and neither the statement's own timeout nor one of
    TCP helps against a server that is there and does nothing.

    Raises:
        psycopg.Error: The server has refused it, or the connection broke.
        TimeoutError: It was not answered in time; the connection is of no more use.
    """
    from psycopg.pq import ExecStatus

    until = time.monotonic() + _ANSWER_S
    row: tuple[bytes, ...] | None = None
    refusal: psycopg.Error | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(session.socket, selectors.EVENT_READ)
        session.send_query((_BOUNDED + statement).encode())
        session.flush()
        while True:
            while session.is_busy():
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise TimeoutError
                session.consume_input()
            result = session.get_result()
            if result is None:
                break
            if result.status == ExecStatus.FATAL_ERROR:
                refusal = _error_of(result)
            elif result.ntuples:
                values = [result.get_value(0, column) for column in range(result.nfields)]
                row = tuple(value for value in values if value is not None)
                row = row if len(row) == result.nfields else None
    if refusal is not None:
        raise refusal
    return row


def _error_of(result: PGresult) -> psycopg.Error:
    import psycopg
    from psycopg.pq import DiagnosticField

    text = result.error_message.decode("utf-8", "replace")
    state = result.error_field(DiagnosticField.SQLSTATE)
    try:
        return psycopg.errors.lookup(state.decode() if state else "")(text)
    except KeyError:
        return psycopg.OperationalError(text)
