"""Transports under the shared HTTP clients: one pool for each event loop, closed only when nobody uses it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

KEEPALIVE_S = 60.0
# The guard decides how many calls are in flight; the pool must never be a second, unseen queue behind it.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_S)


TransportT = TypeVar("TransportT", httpx.AsyncBaseTransport, httpx.BaseTransport)

# What httpcore calls a connection that is none yet.
_UNCONNECTED = frozenset({"CONNECTING", "CONNECTION FAILED"})


@dataclass(frozen=True, slots=True)
class Connections:
    """The connections of a transport at one moment.

    Attributes:
        in_use: Connections that a request, or the stream of its answer, uses.
        idle: Connections that are open and may be used again.
        opening: Requests whose connection is not open yet.
    """

    in_use: int = 0
    idle: int = 0
    opening: int = 0

    @classmethod
    def of(cls, busy: set[weakref.ref[TransportT]], idle: list[TransportT]) -> Connections:
        """Counts them; any thread, since looking at a connection changes nothing.

        Args:
            busy: Transports with a request.
            idle: Transports without one.
        """
        # Others add to it meanwhile; a list is taken in one step.
        working = [transport for reference in list(busy) if (transport := reference()) is not None]
        connected = [any(each.info() not in _UNCONNECTED for each in _known_to(transport)) for transport in working]
        # One that the service has closed meanwhile is found out by the next request, and is not open until then.
        open_ = [any(not each.has_expired() for each in _known_to(transport)) for transport in idle]
        return cls(sum(connected), sum(open_), len(connected) - sum(connected))

    def __add__(self, other: Connections) -> Connections:
        return Connections(self.in_use + other.in_use, self.idle + other.idle, self.opening + other.opening)


def _known_to(transport: object) -> list[Any]:
    """The connections of httpcore's pool under one of our transports, which has one at most."""
    pool = getattr(transport, "_pool", None)
    return [] if pool is None else list(pool.connections)


class _Idle(Generic[TransportT]):
    """Transports without a request, each with one connection; not thread-safe.

    One transport for all connections would be httpcore's pool, which looks at every pair of idle connections with each
    request: at fifty connections that takes longer than all the rest of a call.
    """

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: deque[tuple[TransportT, float]] = deque()

    def take(self) -> TransportT | None:
        """The one that was used last, whose connection is the likeliest to be open still."""
        return self._found.pop()[0] if self._found else None

    def put(self, transport: TransportT) -> Iterator[TransportT]:
        """Keeps a transport; gives back those that have been of no use for too long, to be closed."""
        now = time.monotonic()
        pool = getattr(transport, "_pool", None)
        if pool is not None and not pool.connections:
            yield transport  # whose connection was closed with its last request
        else:
            self._found.append((transport, now))
        while self._found and self._found[0][1] < now - KEEPALIVE_S:
            yield self._found.popleft()[0]

    def clear(self) -> list[TransportT]:
        """Gives back all, to be closed."""
        found = self.now()
        self._found.clear()
        return found

    def now(self) -> list[TransportT]:
        """Those that are idle at this moment; any thread, since a copy is taken in one step."""
        return [transport for transport, _ in list(self._found)]


class _LoopPool:
    """The connections of one event loop, and the requests that are using them."""

    __slots__ = ("busy", "closed", "closer", "idle", "stays")

    def __init__(self, *, stays: bool) -> None:
        self.stays = stays
        self.idle: _Idle[httpx.AsyncBaseTransport] = _Idle()
        self.closer: AsyncGenerator[None, None] | None = None
        self.closed = False
        # By weak references: a connection holds on to its loop, which may be closed with a request under way.
        self.busy: set[weakref.ref[httpx.AsyncBaseTransport]] = set()

    @property
    def in_use(self) -> int:
        """Requests under way."""
        return len(self.busy)

    async def close(self) -> None:
        """Closes the connections, those in use when their requests have ended."""
        self.closed = True
        for transport in self.idle.clear():
            await transport.aclose()


class LoopTransport(httpx.AsyncBaseTransport):
    """One connection pool for each event loop that uses it.

    Connections of the main thread's loop are kept for reuse, and closed when that loop shuts down its asynchronous
    generators (``asyncio.run`` does). Other loops are mostly short-lived (Langflow starts one for a single call from
    synchronous code and closes it without any notice), so their connections are closed after each request.

    Args:
        make_transport: Makes a transport that serves one request at a time.
    """

    def __init__(self, make_transport: Callable[[], httpx.AsyncBaseTransport]) -> None:
        self._make_transport = make_transport
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopPool] = weakref.WeakKeyDictionary()
        self._retired = False

    @property
    def in_use(self) -> int:
        """Requests under way, their answers' streams included, over all loops."""
        return sum(pool.in_use for _, pool in self._known())

    def connections(self) -> Connections:
        """The connections of all loops that are not closed; any thread."""
        pools = [pool for loop, pool in self._known() if not loop.is_closed()]
        return sum((Connections.of(pool.busy, pool.idle.now()) for pool in pools), Connections())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends the request over the running loop's pool."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop) or await self._open(loop)
        transport = pool.idle.take() or self._make_transport()
        pool.busy.add(weakref.ref(transport))
        done = functools.partial(self._done, loop, pool, transport)
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            await done()
            raise
        response.stream = _Counted(response.stream, done)  # type: ignore[arg-type]
        return response

    async def _open(self, loop: asyncio.AbstractEventLoop) -> _LoopPool:
        pool = self._pools[loop] = _LoopPool(stays=threading.current_thread() is threading.main_thread())
        if pool.stays:
            # Only here: a generator holds on to its loop, and a short-lived loop would never be freed.
            pool.closer = self._close_with_loop(loop, pool)
            # Starting the generator makes it known to the loop, which closes it when it shuts down.
            await pool.closer.__anext__()
        return pool

    async def _close_with_loop(self, loop: asyncio.AbstractEventLoop, pool: _LoopPool) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._pools.pop(loop, None)
            await pool.close()

    async def _done(
        self, loop: asyncio.AbstractEventLoop, pool: _LoopPool, transport: httpx.AsyncBaseTransport
    ) -> None:
        pool.busy.discard(weakref.ref(transport))
        if not pool.stays or pool.closed:
            await transport.aclose()
        else:
            for useless in pool.idle.put(transport):
                await useless.aclose()
        if self._retired and not pool.in_use:
            await self._close(loop)

    async def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        pool = self._pools.pop(loop, None)
        if pool is None:
            return
        if pool.closer is not None:
            await pool.closer.aclose()
        else:
            await pool.close()

    async def aclose(self) -> None:
        """Closes the running loop's pool; the next request opens another one."""
        await self._close(asyncio.get_running_loop())

    def close_soon(self) -> None:
        """Closes the pools of all running loops from any thread, without waiting for it.

        A pool in use is closed when its last request has ended. Whoever still holds the client may go on using it: its
        connections are then closed whenever none of its requests is under way.
        """
        self._retired = True
        for loop, pool in self._known():
            with contextlib.suppress(RuntimeError):  # the loop is closed, and its connections with it
                loop.call_soon_threadsafe(self._close_if_idle, loop, pool)

    def _close_if_idle(self, loop: asyncio.AbstractEventLoop, pool: _LoopPool) -> None:
        if not pool.in_use:
            task = loop.create_task(self._close(loop))
            _closing.add(task)
            task.add_done_callback(_closing.discard)

    def _known(self) -> list[tuple[asyncio.AbstractEventLoop, _LoopPool]]:
        # Other threads open pools meanwhile; a list of the references is taken in one step.
        loops = [reference() for reference in self._pools.keyrefs()]
        found = [(loop, self._pools.get(loop)) for loop in loops if loop is not None]
        return [(loop, pool) for loop, pool in found if pool is not None]


# Event loops keep weak references to their tasks only.
_closing: set[asyncio.Task[None]] = set()


# The last event of a stream by OpenAI's protocol ("Streaming events"). The SDK leaves there, before the body's end, and
# a connection whose body was not read to its end cannot be used again.
_DONE = b"[DONE]"
_DRAIN_S = 1.0


class _Counted(httpx.AsyncByteStream):
    """An answer's stream that tells, once, when it is done with."""

    def __init__(self, stream: httpx.AsyncByteStream, done: Callable[[], Awaitable[None]]) -> None:
        self._stream = stream
        self._chunks = aiter(stream)
        self._last = b""
        self._done = done
        self._open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            self._last = chunk
            yield chunk

    async def aclose(self) -> None:
        try:
            try:
                if self._last.rstrip().endswith(_DONE):
                    await self._drain()
            finally:
                await self._stream.aclose()
        finally:
            if self._open:
                self._open = False
                await self._done()

    async def _drain(self) -> None:
        """Reads the little that follows the last event; a service that sends more, or nothing, is not waited for."""
        self._last = b""
        # RuntimeError: somebody else is reading, who then reads to the end.
        with contextlib.suppress(httpx.HTTPError, TimeoutError, asyncio.TimeoutError, RuntimeError):
            async with timeout(_DRAIN_S):
                await anext(self._chunks, None)


class BlockingTransport(httpx.BaseTransport):
    """A pool for threads that, once retired, closes its connections whenever none of its requests is under way.

    Args:
        make_transport: Makes a transport that serves one request at a time.
    """

    def __init__(self, make_transport: Callable[[], httpx.BaseTransport]) -> None:
        self._make_transport = make_transport
        self._lock = threading.Lock()
        self._idle: _Idle[httpx.BaseTransport] = _Idle()
        self._retired = False
        self._busy: set[weakref.ref[httpx.BaseTransport]] = set()

    @property
    def in_use(self) -> int:
        """Requests under way, their answers' streams included."""
        return len(self._busy)

    def connections(self) -> Connections:
        """The connections as they are; any thread, and nobody who sends a request waits for it."""
        return Connections.of(self._busy, self._idle.now())

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends the request; any thread."""
        with self._lock:
            transport = self._idle.take() or self._make_transport()
            self._busy.add(weakref.ref(transport))
        done = functools.partial(self._done, transport)
        try:
            response = transport.handle_request(request)
        except BaseException:
            done()
            raise
        network = response.extensions.get("network_stream")
        response.stream = _CountedBlocking(response.stream, done, network)  # type: ignore[arg-type]
        return response

    def _done(self, transport: httpx.BaseTransport) -> None:
        with self._lock:
            self._busy.discard(weakref.ref(transport))
            useless = [transport] if self._retired else list(self._idle.put(transport))
        for each in useless:
            each.close()

    def close_soon(self) -> None:
        """Closes the connections now, those in use when their requests have ended; any thread."""
        self._retired = True
        self.close()

    def close(self) -> None:
        """Closes the connections that are not in use; the next request opens another one."""
        with self._lock:
            idle = self._idle.clear()
        for each in idle:
            each.close()


class _CountedBlocking(httpx.SyncByteStream):
    """``_Counted`` for threads."""

    def __init__(self, stream: httpx.SyncByteStream, done: Callable[[], None], network: Any) -> None:
        self._stream = stream
        self._network = network
        self._chunks = iter(stream)
        self._last = b""
        self._done = done
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._last = chunk
            yield chunk

    def close(self) -> None:
        try:
            try:
                if self._last.rstrip().endswith(_DONE):
                    self._drain()
            finally:
                self._stream.close()
        finally:
            if self._open:
                self._open = False
                self._done()

    def _drain(self) -> None:
        self._last = b""
        if self._network is None:
            return
        read = self._network.read
        # The pool has given the answer's reads their timeout when it began; a minute or none at all is too long here.
        self._network.read = lambda size, timeout=None: read(size, _DRAIN_S)  # noqa: ARG005 - httpcore names it
        try:
            with contextlib.suppress(httpx.HTTPError):
                next(self._chunks, None)
        finally:
            del self._network.read
