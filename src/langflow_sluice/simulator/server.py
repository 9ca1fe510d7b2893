"""Runs the simulated provider on uvicorn: on a free port of 127.0.0.1, counting TCP connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from langflow_sluice.simulator.control import ProviderControl
from langflow_sluice.simulator.provider import CONNECTION_KEY, Provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.types import Receive, Scope, Send

    from langflow_sluice.simulator.answers import AnswerPolicy
    from langflow_sluice.simulator.settings import ProviderSettings
    from langflow_sluice.simulator.stats import Recorder

_HOST = "127.0.0.1"
_GRACE_S = 1
# Longer than any pooled client keeps a connection: a server that closes first makes the client's next request fail.
_KEEP_ALIVE_S = 300
_STARTUP_S = 30.0


class Connection(asyncio.Protocol):
    """The part of a server connection that counts it; stands in front of uvicorn's protocol class."""

    recorder: Recorder
    peers: dict[tuple[str, int], Connection]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remembers the connection by its peer, so that its requests find it."""
        super().connection_made(transport)
        self._counted = False
        self._wire = transport
        self._peer: tuple[str, int] = transport.get_extra_info("peername")[:2]
        self.peers[self._peer] = self

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts the end."""
        super().connection_lost(exc)
        self.peers.pop(self._peer, None)
        if self._counted:
            self.recorder.connection_closed()

    def count(self) -> None:
        """Counts the connection, once; called by its first API request."""
        if not self._counted:
            self._counted = True
            self.recorder.connection_opened()

    def abort(self) -> None:
        """Resets the connection: the client sees a reset, not an orderly end."""
        sock = self._wire.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if isinstance(self._wire, asyncio.Transport):
            self._wire.abort()


class _Server(uvicorn.Server):
    """A uvicorn server that tells when it listens."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_started()


def listen(port: int = 0) -> socket.socket:
    """Binds a TCP socket of 127.0.0.1; port 0 takes a free one."""
    # The protocol by name: asyncio switches Nagle's algorithm off only where it can read it, and with it on every
    # answer on a kept connection waits 40 ms for the client's delayed acknowledgement.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((_HOST, port))
    except BaseException:
        sock.close()
        raise
    return sock


def make_server(provider: Provider, on_started: Callable[[], None]) -> uvicorn.Server:
    """Makes a server for a provider; run it with ``serve(sockets=[listen()])`` and end it with ``should_exit``.

    Nothing is logged: requests hold prompts and keys.

    Args:
        provider: The application.
        on_started: Called on the loop once the server accepts connections.
    """
    peers: dict[tuple[str, int], Connection] = {}
    members = {"recorder": provider.recorder, "peers": peers}
    protocol = type("CountedConnection", (Connection, AutoHTTPProtocol), members)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = peers.get(tuple(scope.get("client") or ()))
        scope["extensions"] = {**scope.get("extensions", {}), CONNECTION_KEY: connection}
        await provider(scope, receive, send)

    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return _Server(config, on_started)


@contextlib.contextmanager
def serve_in_thread(
    settings: ProviderSettings | None = None, policy: AnswerPolicy | None = None
) -> Iterator[ProviderControl]:
    """Serves a provider from a thread of this process, for tests that want no child process.

    The server has its own event loop, so callers on any loop may use it. On leaving, requests under way are cut off
    after a second and the thread has ended.

    Args:
        settings: Capacity, speed and faults.
        policy: Decides the answers; called on the server's thread.

    Yields:
        The control of the running provider.

    Raises:
        RuntimeError: If the server does not start.
    """
    provider = Provider(settings, policy)
    started = threading.Event()
    server = make_server(provider, started.set)
    sock = listen()
    port = sock.getsockname()[1]

    def run() -> None:
        asyncio.run(server.serve(sockets=[sock]))

    thread = threading.Thread(target=run, name="sluice-simulator", daemon=True)
    thread.start()
    try:
        if not started.wait(_STARTUP_S):
            msg = f"The simulated provider did not start within {_STARTUP_S:g} s."
            raise RuntimeError(msg)
        with ProviderControl(f"http://{_HOST}:{port}") as control:
            yield control
    finally:
        server.should_exit = True
        thread.join()
        sock.close()


def announce(port: int) -> dict[str, Any]:
    """What a provider in a child process says on standard output once it listens."""
    return {"host": _HOST, "port": port, "base_url": f"http://{_HOST}:{port}/v1"}
