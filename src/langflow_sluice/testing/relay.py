"""A way to a server that a test can make slow, stop, forget or cut: what networks and firewalls do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from typing_extensions import Self

HOST: Final = "127.0.0.1"
_BACKLOG: Final = 1024
_CHUNK: Final = 65536
# Chunks that wait for their time or for the release, each way; beyond them the sender is not read on.
_CHUNKS: Final = 64
_RESET: Final = struct.pack("ii", 1, 0)


class Relay:
    """Takes TCP connections on a port of 127.0.0.1 and passes all that is sent on to a server, and back.

    A context manager that runs in a thread of its own, so it works for callers on any loop and for those that block;
    leaving the block breaks what is open. Every method returns when it is done, and may be called by any thread.

    Args:
        port: Where the server listens; it need not, yet.
        host: On which machine.

    Attributes:
        port: Where the relay listens.
        request_delay_s: Seconds that what clients send takes longer; may be set at any time, for what comes then.
        answer_delay_s: The same for what the server sends.
        held: Set once something was not passed on, since the last ``hold``, ``release`` or ``forget``.
    """

    def __init__(self, port: int, host: str = HOST) -> None:
        self._target = (host, port)
        self.port = 0
        self.request_delay_s = 0.0
        self.answer_delay_s = 0.0
        self.held = threading.Event()
        self._connections: set[_Connection] = set()
        self._opened = 0
        self._most_open = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._requests_pass = asyncio.Event()
        self._answers_pass = asyncio.Event()
        self._left = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Relay {HOST}:{self.port} to {self._target[0]}:{self._target[1]}, {self.open_now} open>"

    def __enter__(self) -> Self:
        listening = threading.Event()

        def run() -> None:
            try:
                asyncio.run(self._serve(listening.set))
            except BaseException as exc:  # noqa: BLE001 - said to who entered
                self._failure = exc
                listening.set()

        self._thread = threading.Thread(target=run, name="sluice-relay", daemon=True)
        self._thread.start()
        listening.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._left.set)
            self._thread.join()
            self._loop = None

    @property
    def delay_s(self) -> float:
        """Seconds that each way takes longer, requests and answers alike; the larger where they differ."""
        return max(self.request_delay_s, self.answer_delay_s)

    @delay_s.setter
    def delay_s(self, seconds: float) -> None:
        self.request_delay_s = self.answer_delay_s = seconds

    @property
    def open_now(self) -> int:
        """Connections of clients now open, with those that are held."""
        return len(self._connections)

    @property
    def opened(self) -> int:
        """Connections of clients taken since the start."""
        return self._opened

    @property
    def most_open(self) -> int:
        """The most connections open at once since the start."""
        return self._most_open

    def through(self, url: str) -> str:
        """The same address by way of the relay: only host and port are replaced."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}{HOST}:{self.port}"))

    def hold(self, *, requests: bool = True, answers: bool = True) -> None:
        """Goes on taking connections and bytes, and passes nothing on: a network that is gone, without a word.

        The end of a connection is held as well, so the server does not learn of clients that leave.

        Args:
            requests: Whether to hold what clients send, new connections included.
            answers: Whether to hold what the server sends. Alone, it has done what it was asked and nobody knows.
        """

        async def do() -> None:
            self.held.clear()
            for gate, close in ((self._requests_pass, requests), (self._answers_pass, answers)):
                (gate.clear if close else gate.set)()

        self._run(do())

    def release(self) -> None:
        """Passes on what was held, in order, as a network does that is back; from now on all passes."""

        async def do() -> None:
            self.held.clear()
            self._requests_pass.set()
            self._answers_pass.set()

        self._run(do())

    def cut(self) -> None:
        """Resets all connections now open, at both ends; what was under way or held is lost. New ones are taken."""
        self._run(self._cut())

    def forget(self, *, silently: bool = False) -> None:
        """Passes nothing on any more over the connections now open: a firewall that dropped them for being idle.

        New ones work.

        Args:
            silently: Whether what is sent over one of them disappears, so that its client waits for an answer; else
                the client's next word resets it. The server learns of it with the reset, or never.
        """

        async def do() -> None:
            self.held.clear()
            for connection in self._connections:
                connection.forgotten = True
                connection.resets = not silently

        self._run(do())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        if self._loop is None:
            work.close()
            msg = "The relay is not running: use it in a with block."
            raise RuntimeError(msg)
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _cut(self) -> None:
        tasks = [connection.task for connection in self._connections]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            # The sockets close in the loop's next turn.
            await asyncio.sleep(0)

    async def _serve(self, listening: Callable[[], None]) -> None:
        self._requests_pass.set()
        self._answers_pass.set()
        server = await asyncio.start_server(self._take, HOST, 0, backlog=_BACKLOG)
        self.port = server.sockets[0].getsockname()[1]
        self._loop = asyncio.get_running_loop()
        listening()
        try:
            await self._left.wait()
        finally:
            server.close()
            await self._cut()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection()
        connection.task = asyncio.ensure_future(self._relay(connection, reader, writer))
        self._connections.add(connection)
        self._opened += 1
        self._most_open = max(self._most_open, len(self._connections))
        # Also where it is cancelled before its first step.
        connection.task.add_done_callback(lambda _: self._end(connection, writer))

    def _end(self, connection: _Connection, writer: asyncio.StreamWriter) -> None:
        self._connections.discard(connection)
        for each in (writer, connection.back):
            if each is not None and connection.ended_in_order:
                each.close()
            elif each is not None:
                _reset(each)

    async def _relay(self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._pass(self._requests_pass)
        try:
            back_reader, connection.back = await asyncio.open_connection(*self._target)
        except OSError:
            return
        requests: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS)
        answers: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS)
        steps = [
            asyncio.ensure_future(step)
            for step in (
                self._read(reader, requests, lambda: self.request_delay_s, lambda: connection.resets),
                self._write(connection, requests, connection.back, self._requests_pass),
                self._read(back_reader, answers, lambda: self.answer_delay_s, lambda: False),
                self._write(connection, answers, writer, self._answers_pass),
            )
        ]
        try:
            done, waiting = await asyncio.wait(steps, return_when=asyncio.FIRST_EXCEPTION)
            connection.ended_in_order = not waiting and all(step.exception() is None for step in done)
        finally:
            for step in steps:
                step.cancel()
            await asyncio.gather(*steps, return_exceptions=True)

    @staticmethod
    async def _read(
        reader: asyncio.StreamReader,
        queue: asyncio.Queue[tuple[float, bytes]],
        delay_s: Callable[[], float],
        resets: Callable[[], bool],
    ) -> None:
        loop = asyncio.get_running_loop()
        data = b"-"
        while data:
            data = await reader.read(_CHUNK)
            if resets():
                raise ConnectionResetError
            # A time for each chunk, not a pause after each: a long way is not a narrow one.
            await queue.put((loop.time() + delay_s(), data))

    async def _write(
        self,
        connection: _Connection,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        gate: asyncio.Event,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            await self._pass(gate)
            if connection.forgotten:
                self.held.set()
                continue
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    async def _pass(self, gate: asyncio.Event) -> None:
        if not gate.is_set():
            self.held.set()
            await gate.wait()


class _Connection:
    """One client's connection, and the one to the server behind it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        self.back: asyncio.StreamWriter | None = None
        self.forgotten = False
        self.resets = False
        self.ended_in_order = False


def _reset(writer: asyncio.StreamWriter) -> None:
    # Without lingering, closing a socket resets its connection; else the other end would read an orderly end.
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
