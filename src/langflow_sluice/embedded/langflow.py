"""A real Langflow server for the demo and the tests: started in a folder of its own, ended without a trace."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from langflow_sluice.embedded.langflow_client import (
    AsyncLangflowClient,
    LangflowClient,
    LangflowError,
    RunResult,
)
from langflow_sluice.embedded.process import SupervisedProcess
from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["AsyncLangflowClient", "LangflowClient", "LangflowError", "LangflowServer", "RunResult"]

_HOST = "127.0.0.1"
_POLL_S = 0.25
_TAIL_LINES = 25
_OK = 200
_STEP = re.compile(r"✓ (?P<step>[^\n\r]+)")
_PASSWORD_IN_URL = re.compile(r"://[^\s/@]+@")
_SECRET_NAME = re.compile(r"KEY|PASSWORD|SECRET|TOKEN|URL", re.IGNORECASE)
_SHORTEST_SECRET = 6

# What a server needs for being driven by a program, and what only costs time there: starter projects (12 of 63 s of
# a start), the MCP servers it would start after 10 s, and everything that wants the network.
_BASE_ENV = {
    "DO_NOT_TRACK": "true",
    "LANGFLOW_AUTO_LOGIN": "true",
    "LANGFLOW_SAVE_DB_IN_CONFIG_DIR": "true",
    "LANGFLOW_PRETTY_LOGS": "false",
    "LANGFLOW_LOG_LEVEL": "info",
    "LANGFLOW_SSRF_ALLOWED_HOSTS": "127.0.0.1,localhost",
    "LANGFLOW_STORE_ENVIRONMENT_VARIABLES": "false",
    "LANGFLOW_STORE": "false",
    "LANGFLOW_MODELS_DEV_REFRESH": "false",
    "LANGFLOW_AGENTIC_EXPERIENCE": "false",
    "LANGFLOW_SKIP_MCP_AUTO_INIT": "true",
    "LANGFLOW_ADD_PROJECTS_TO_MCP_SERVERS": "false",
    "LANGFLOW_MCP_COMPOSER_ENABLED": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
_NO_STARTER_PROJECTS = {"LANGFLOW_CREATE_STARTER_PROJECTS": "false", "LANGFLOW_UPDATE_STARTER_PROJECTS": "false"}
_SHARED_QUEUE = ("LANGFLOW_JOB_QUEUE_TYPE", "LANGFLOW_DANGEROUSLY_ALLOW_MULTI_WORKER_WITHOUT_SHARED_QUEUE")


class LangflowServer:
    """A Langflow server on a free port of 127.0.0.1, with its own folder and SQLite database. A context manager.

    Entering waits until the server is healthy (about 45 s on one core) and has an API key. Leaving, by whatever
    exception, ends all its processes and removes the folder; so does the death of this process. ``LANGFLOW_*`` and
    ``LFX_*`` variables of this process do not reach the server: only those of ``env`` do.

    Args:
        env: Environment variables for the server, over everything set here.
        ui: Whether the server also serves the canvas.
        workers: Number of worker processes; more than one needs ``LANGFLOW_JOB_QUEUE_TYPE=redis`` in ``env``.
        components_path: A folder of components to scan, as ``LANGFLOW_COMPONENTS_PATH``.
        starter_projects: Whether the server creates its starter projects (12 s).
        port: Port to take; 0 takes a free one.
        start_timeout_s: Seconds to wait for the server's health.
        stop_grace_s: Seconds between asking the server to end and killing it.
        on_progress: Called about four times a second while the server starts, with the seconds so far and the name
            of the last step that Langflow reported.

    Attributes:
        base_url: Address of the server.
        port: Its port.
        folder: Its folder, as long as it runs.
        log_path: File with everything it prints.
        api_key: A key for its API.
    """

    def __init__(
        self,
        *,
        env: Mapping[str, str] | None = None,
        ui: bool = False,
        workers: int = 1,
        components_path: Path | str | None = None,
        starter_projects: bool = False,
        port: int = 0,
        start_timeout_s: float = 600.0,
        stop_grace_s: float = 10.0,
        on_progress: Callable[[float, str], None] | None = None,
    ) -> None:
        self._env = dict(env or {})
        if workers < 1:
            name = "workers"
            raise InvalidInput.of(name, workers, "a server needs at least one worker", fix="Give 1 or more.")
        if workers > 1 and not any(name in self._env for name in _SHARED_QUEUE):
            name, fix = "workers", "Set LANGFLOW_JOB_QUEUE_TYPE=redis and LANGFLOW_REDIS_QUEUE_URL in env."
            raise InvalidInput.of(name, workers, "Langflow refuses several workers without a shared queue", fix=fix)
        self._ui = ui
        self._workers = workers
        self._components_path = components_path
        self._starter_projects = starter_projects
        self._asked_port = port
        self._start_timeout_s = start_timeout_s
        self._stop_grace_s = stop_grace_s
        self._on_progress = on_progress
        self._process: SupervisedProcess | None = None
        self._reservation: socket.socket | None = None
        self.port = 0
        self.base_url = ""
        self.api_key = ""
        self.folder = Path()
        self.log_path = Path()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Id of the server's main process, and of the process group that holds all of them; 0 when not running."""
        return self._process.pid if self._process is not None else 0

    def client(self, *, timeout_s: float = 120.0) -> LangflowClient:
        """Returns a client with the server's API key; close it after use."""
        return LangflowClient(self.base_url, self.api_key, timeout_s=timeout_s)

    def async_client(self, *, max_connections: int = 100) -> AsyncLangflowClient:
        """Returns a client for an event loop, with the server's API key; use it with ``async with``."""
        return AsyncLangflowClient(self.base_url, self.api_key, max_connections=max_connections)

    def close(self) -> None:
        """Ends the server and removes its folder; returns when both are gone. Does nothing the second time."""
        process, self._process = self._process, None
        reservation, self._reservation = self._reservation, None
        folder, self.folder = self.folder, Path()
        try:
            if process is not None:
                process.close()
        finally:
            if reservation is not None:
                reservation.close()
            if folder != Path():
                shutil.rmtree(folder, ignore_errors=True)

    def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-langflow-"))
        self.log_path = self.folder / "server.log"
        (self.folder / "tmp").mkdir()
        (self.folder / "work").mkdir()
        self._reservation, self.port = _reserve_port(self._asked_port)
        self.base_url = f"http://{_HOST}:{self.port}"
        command = [sys.executable, "-m", "langflow", "run", "--host", _HOST, "--port", str(self.port)]
        command += ["--workers", str(self._workers), "--no-open-browser"]
        command += [] if self._ui else ["--backend-only"]
        self._process = SupervisedProcess(
            command,
            env=self._environment(),
            cwd=self.folder / "work",
            log_path=self.log_path,
            grace_s=self._stop_grace_s,
            remove=self.folder,
        )
        self._wait_until_healthy(self._process)
        with LangflowClient(self.base_url) as client:
            self.api_key = client.create_api_key()

    def _environment(self) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if not k.upper().startswith(("LANGFLOW_", "LFX_"))}
        environment |= _BASE_ENV
        if not self._starter_projects:
            environment |= _NO_STARTER_PROJECTS
        environment |= {
            "LANGFLOW_CONFIG_DIR": str(self.folder / "config"),
            "SLUICE_STATE_DIR": str(self.folder / "state"),
            "LANGFLOW_KNOWLEDGE_BASES_DIR": str(self.folder / "knowledge_bases"),
            # Langflow's start-up locks lie in the temporary folder: two servers at once would wait for each other.
            "TMPDIR": str(self.folder / "tmp"),
        }
        # Langflow asks its own address for health; a proxy from the environment must not get in between.
        for name in ("NO_PROXY", "no_proxy"):
            environment[name] = ",".join(filter(None, (environment.get(name), "127.0.0.1,localhost")))
        if self._components_path is not None:
            environment["LANGFLOW_COMPONENTS_PATH"] = str(self._components_path)
        return environment | self._env

    def _wait_until_healthy(self, process: SupervisedProcess) -> None:
        import httpx

        started = time.monotonic()
        # /health answers before the database does; /health_check asks it.
        with httpx.Client(base_url=self.base_url, timeout=5.0, trust_env=False) as http:
            while True:
                if process.poll() is not None:
                    message = f"Langflow ended while starting.\n{self._tail()}"
                    raise LangflowError(message)
                try:
                    if http.get("/health_check").status_code == _OK:
                        return
                except httpx.HTTPError:
                    # Not yet listening.
                    pass
                elapsed_s = time.monotonic() - started
                if elapsed_s > self._start_timeout_s:
                    message = f"Langflow was not healthy after {elapsed_s:.0f} s.\n{self._tail()}"
                    raise LangflowError(message, hint="Raise start_timeout_s.")
                if self._on_progress is not None:
                    self._on_progress(elapsed_s, self._last_step())
                time.sleep(_POLL_S)

    def _log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def _last_step(self) -> str:
        steps = _STEP.findall(self._log())
        return str(steps[-1]) if steps else "Loading Langflow"

    def _tail(self) -> str:
        """The end of the log, without what looks like a secret."""
        text = "\n".join(self._log().splitlines()[-_TAIL_LINES:])
        for name, value in self._env.items():
            if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
                text = text.replace(value, "***")
        return _PASSWORD_IN_URL.sub("://***@", text)


def _reserve_port(port: int) -> tuple[socket.socket | None, int]:
    """Finds a free port and, on Linux, keeps it free for a server that starts a minute later.

    A socket that is bound but does not listen keeps the kernel from giving the port to others, and lets in a server
    that sets SO_REUSEADDR, as gunicorn does. Elsewhere the bound socket would keep that server out too.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((_HOST, port))
        port = sock.getsockname()[1]
    except BaseException:
        sock.close()
        raise
    if sys.platform == "linux":
        return sock, port
    sock.close()
    return None, port
