"""How many connections a PostgreSQL server has open, sampled while something else runs."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from langflow_sluice.errors import DatabaseError

if TYPE_CHECKING:
    from types import TracebackType

    import psycopg
    from typing_extensions import Self

_OPEN_NOW = (
    "SELECT application_name, datname, count(*) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND application_name NOT IN ('sluice-admin', 'sluice-watch') GROUP BY 1, 2"
)


class ConnectionWatch:
    """Samples ``pg_stat_activity`` from a thread of its own, over one connection, and keeps the peaks.

    The connection is made, and the first sample taken, before ``with`` enters its block, the last one after it. The
    watch does not count itself. It goes on when the server restarts: samples that fail are left out. Any thread may
    ask for a peak.

    Args:
        url: Address of any database of the server; a superuser sees all and gets in when the server is full.
        interval_s: Pause between two samples, in seconds.

    Raises:
        DatabaseError: The server cannot be reached at the start.
    """

    def __init__(self, url: str, *, interval_s: float = 0.02) -> None:
        self._url = url
        self._interval_s = interval_s
        self._peaks: Counter[tuple[str | None, str | None]] = Counter()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples = 0

    def __enter__(self) -> Self:
        connection = self._connect()
        if connection is None:
            msg = "The watch cannot reach the server."
            raise DatabaseError(msg, hint="Is it running, and is the address right?")
        self._sample(connection)
        self._thread = threading.Thread(target=self._run, args=(connection,), name="sluice-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def samples(self) -> int:
        """Samples taken so far."""
        return self._samples

    def peak(self, application_name: str | None = None, database: str | None = None) -> int:
        """The most connections seen at once.

        Args:
            application_name: Only those of this application.
            database: Only those to this database.
        """
        with self._lock:
            return self._peaks[application_name, database]

    def peaks_by_application(self) -> dict[str, int]:
        """The most connections seen at once, for each application name."""
        with self._lock:
            return {name: peak for (name, database), peak in self._peaks.items() if name is not None and not database}

    def peaks_by_database(self) -> dict[str, int]:
        """The most connections seen at once, for each database."""
        with self._lock:
            return {name: peak for (application, name), peak in self._peaks.items() if name and application is None}

    def _run(self, connection: psycopg.Connection | None) -> None:
        last = False
        while not last:
            last = self._stop.wait(self._interval_s)
            connection = connection or self._connect()
            if connection is not None and not self._sample(connection):
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _connect(self) -> psycopg.Connection | None:
        import psycopg

        try:
            return psycopg.connect(self._url, autocommit=True, application_name="sluice-watch", connect_timeout=5)
        except psycopg.Error:
            return None

    def _sample(self, connection: psycopg.Connection) -> bool:
        import psycopg

        try:
            rows = connection.execute(_OPEN_NOW).fetchall()
        except psycopg.Error:
            return False
        now: Counter[tuple[str | None, str | None]] = Counter()
        for application, database, count in rows:
            # A set: a session that is just starting has no database yet, and must not count twice among all.
            for key in {(None, None), (application, None), (None, database), (application, database)}:
                now[key] += count
        with self._lock:
            self._samples += 1
            for key, count in now.items():
                self._peaks[key] = max(self._peaks[key], count)
        return True
