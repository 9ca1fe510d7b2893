"""The hands of whoever runs a simulated provider: its statistics, its settings and its process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import InvalidInput
from langflow_sluice.simulator.settings import ProviderSettings
from langflow_sluice.simulator.stats import ProviderStats

if TYPE_CHECKING:
    from types import TracebackType

    import httpx
    from typing_extensions import Self

KEYS_VARIABLE = "SLUICE_SIMULATOR_KEYS"
_CONTROL_TIMEOUT_S = 30.0
_STARTUP_S = 60.0
_GRACE_S = 5.0
_HTTP_BAD_REQUEST = 400


class ProviderControl:
    """Reads and changes a running provider over HTTP; safe from any thread, blocks for a round trip on loopback.

    Args:
        root_url: Address of the provider without ``/v1``.

    Attributes:
        root_url: Address for Anthropic's and Ollama's clients.
        base_url: Address for OpenAI's clients, ending in ``/v1``.
    """

    def __init__(self, root_url: str) -> None:
        self.root_url = root_url
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()
        self.base_url = f"{root_url}/v1"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the control connection."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def stats(self) -> ProviderStats:
        """Returns what the provider saw since its start or the last reset."""
        return ProviderStats.from_json(self._request("GET", "/_sim/stats"))

    def reset(self) -> None:
        """Makes the statistics start afresh."""
        self._request("POST", "/_sim/reset", {})

    def configure(self, **changes: Any) -> dict[str, Any]:
        """Changes settings of ``ProviderSettings`` while the provider runs.

        Args:
            **changes: New values by name.

        Returns:
            All settings now in force, without the keys.

        Raises:
            InvalidInput: If a name or a value is wrong; nothing has changed then.
        """
        answer: dict[str, Any] = self._request("POST", "/_sim/config", changes)
        return answer

    def _request(self, method: str, path: str, payload: dict[str, Any] | None = None) -> Any:
        import httpx

        with self._lock:
            if self._client is None:
                # Loopback only: a proxy from the environment must not get in between.
                self._client = httpx.Client(base_url=self.root_url, timeout=_CONTROL_TIMEOUT_S, trust_env=False)
            client = self._client
        response = client.request(method, path, json=payload)
        if response.status_code == _HTTP_BAD_REQUEST:
            raise InvalidInput(response.json()["error"]["message"])
        response.raise_for_status()
        return response.json()


class ProviderProcess(ProviderControl):
    """A simulated provider in a child process of its own, so that it does not compete for the caller's event loop.

    A context manager. The child ends when the block is left, by whatever exception, and when this process dies in any
    way: it watches a pipe whose other end only this process holds. A process forked (not executed) from this one
    inherits that end and keeps the child alive as long as it lives.

    Args:
        settings: Capacity, speed and faults. Keys travel through the child's environment, not its command line.
        policy: Where the answer policy is, as ``"module:function"``; ``None`` takes the default.
        port: Port of 127.0.0.1; 0 takes a free one.

    Raises:
        RuntimeError: If the child does not start; the message ends with what it said.
    """

    def __init__(self, settings: ProviderSettings | None = None, *, policy: str | None = None, port: int = 0) -> None:
        super().__init__("")
        self.settings = settings or ProviderSettings()
        self._policy = policy
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    @property
    def pid(self) -> int:
        """Process id of the child.

        Raises:
            RuntimeError: If it is not running.
        """
        if self._process is None:
            msg = "The simulated provider is not running: use it in a with statement."
            raise RuntimeError(msg)
        return self._process.pid

    def _start(self) -> None:
        command = [sys.executable, "-m", "langflow_sluice.simulator", "--port", str(self._port), "--exit-with-stdin"]
        command += ["--settings", json.dumps(self.settings.public())]
        if self._policy is not None:
            command += ["--policy", self._policy]
        environment = {**os.environ, KEYS_VARIABLE: json.dumps(list(self.settings.keys))}
        # A session of its own: Ctrl-C reaches this process only, which then ends the child in order.
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        announced = self._first_line(self._process)
        self.root_url = announced["base_url"].removesuffix("/v1")
        self.base_url = announced["base_url"]

    @staticmethod
    def _first_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
        # A thread reads the line: a timeout on a pipe needs one to be portable.
        lines: list[bytes] = []

        def read() -> None:
            if process.stdout is not None:
                lines.append(process.stdout.readline())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(_STARTUP_S)
        if not lines or not lines[0]:
            msg = f"The simulated provider did not start (exit code {process.poll()})."
            raise RuntimeError(msg)
        announced: dict[str, Any] = json.loads(lines[0])
        return announced

    def close(self) -> None:
        """Ends the child; returns when it is gone. Does nothing the second time."""
        super().close()
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            process.wait(_GRACE_S)
        except BaseException as exc:
            process.kill()
            process.wait()
            if not isinstance(exc, subprocess.TimeoutExpired):
                raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
