"""A real PgBouncer in front of an embedded PostgreSQL, for tests and the doctor's."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from langflow_sluice.embedded.process import SupervisedProcess
from langflow_sluice.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self

    from langflow_sluice.embedded.postgres import EmbeddedPostgres

HOST = "127.0.0.1"
START_TIMEOUT_S = 20.0
_POLL_S = 0.02
# It refuses to run as root.
_USER = "nobody"
# Debian puts it where only root's search path leads.
_ELSEWHERE = "/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"


def program() -> str | None:
    """Where the program ``pgbouncer`` is; ``None`` where it is not installed. No Python package brings it."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path=_ELSEWHERE)


class EmbeddedPgBouncer:
    """PgBouncer on a free port of 127.0.0.1, with the databases, role and password of the server behind it.

    Ends, and removes its folder, at the end of the ``with`` block or with this process, however that happens.

    Args:
        server: The PostgreSQL behind; running, for as long as this one.
        pool_mode: ``transaction``, ``session`` or ``statement``.
        server_connections: Connections to the server for each database and role.
        settings: Further settings of its section ``[pgbouncer]``, such as ``{"query_wait_timeout": "1"}``.

    Raises:
        DatabaseError: It is not installed, or did not start.
    """

    def __init__(
        self,
        server: EmbeddedPostgres,
        *,
        pool_mode: str = "transaction",
        server_connections: int = 3,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._server = server
        self._settings = {
            "listen_addr": HOST,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "pool_mode": pool_mode,
            "default_pool_size": str(server_connections),
            "max_client_conn": "500",
            **(settings or {}),
        }
        self._process: SupervisedProcess | None = None
        self._folder: Path | None = None
        self.port = 0

    def __repr__(self) -> str:
        return f"<EmbeddedPgBouncer {HOST}:{self.port} {'running' if self._process else 'stopped'}>"

    def __enter__(self) -> Self:
        found = program()
        if found is None:
            msg = "The program pgbouncer is not installed."
            raise DatabaseError(msg, hint="Install it with the system's packages, such as apt-get install pgbouncer.")
        self._folder = Path(tempfile.mkdtemp(prefix="sluice-pgbouncer-"))
        try:
            self._start(found, self._folder)
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
        """Address of the server's default database through PgBouncer."""
        return self.through(self._server.url)

    def through(self, url: str) -> str:
        """The address, through PgBouncer, of a database of the server behind."""
        return url.replace(f"@{HOST}:{self._server.port}/", f"@{HOST}:{self.port}/")

    def close(self) -> None:
        """Ends it and removes its folder; a second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, found: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = int(probe.getsockname()[1])
        user, password = self._server.url.split("://")[1].split("@")[0].split(":")
        (folder / "users.txt").write_text(f'"{user}" "{password}"\n')
        lines = [f"{name} = {value}" for name, value in self._settings.items()]
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={HOST} port={self._server.port}\n\n[pgbouncer]\nlisten_port = {self.port}\n"
            f"auth_file = {folder / 'users.txt'}\n" + "\n".join(lines) + "\n"
        )
        command = [found, str(folder / "pgbouncer.ini")]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command[1:1] = ["-u", _USER]
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, _USER)
        log = folder / "log"
        self._process = SupervisedProcess(
            command, env={"PATH": os.defpath}, cwd=folder, log_path=log, grace_s=2.0, remove=folder
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
                msg = f"The embedded PgBouncer did not start: {' / '.join(words) or 'it left no log'}"
                raise DatabaseError(msg, hint="See the lines above.")
            time.sleep(_POLL_S)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
            return True
        return False
