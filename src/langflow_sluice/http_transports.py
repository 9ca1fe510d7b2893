"""Transports under the shared HTTP clients: one pool for each event loop, closed only when nobody uses it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import weakref
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

KEEPALIVE_S = 60.0
# The guard decides how many calls are in flight; the pool must never be a second, unseen queue behind it.
NO_LIMIT = None


class _LoopPool:
    """The connections of one event loop, and the requests that are using them."""

    __slots__ = ("closer", "in_use", "transport")

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.transport = transport
        self.closer: AsyncGenerator[None, None] | None = None
        self.in_use = 0


class LoopTransport(httpx.AsyncBaseTransport):
    """One connection pool for each event loop that uses it.

    Connections of the main thread's loop are kept for reuse, and closed when that loop shuts down its asynchronous
    generators (``asyncio.run`` does). Other loops are mostly short-lived (Langflow starts one for a single call from
    synchronous code and closes it without any notice), so their connections are closed after each request.

    Args:
        make_pool: Makes the pool, given its limits.
    """

    def __init__(self, make_pool: Callable[[httpx.Limits], httpx.AsyncBaseTransport]) -> None:
        self._make_pool = make_pool
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopPool] = weakref.WeakKeyDictionary()
        self._retired = False

    @property
    def in_use(self) -> int:
        """Requests under way, their answers' streams included, over all loops."""
        return sum(pool.in_use for _, pool in self._known())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends the request over the running loop's pool."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop) or await self._open(loop)
        pool.in_use += 1
        try:
            response = await pool.transport.handle_async_request(request)
        except BaseException:
            await self._done(loop, pool)
            raise
        response.stream = _Counted(response.stream, functools.partial(self._done, loop, pool))  # type: ignore[arg-type]
        return response

    async def _open(self, loop: asyncio.AbstractEventLoop) -> _LoopPool:
        stays = threading.current_thread() is threading.main_thread()
        limits = httpx.Limits(
            max_connections=NO_LIMIT, max_keepalive_connections=None if stays else 0, keepalive_expiry=KEEPALIVE_S
        )
        pool = self._pools[loop] = _LoopPool(self._make_pool(limits))
        if stays:
            # Only here: a generator holds on to its loop, and a short-lived loop would never be freed.
            pool.closer = self._close_with_loop(loop, pool.transport)
            # Starting the generator makes it known to the loop, which closes it when it shuts down.
            await pool.closer.__anext__()
        return pool

    async def _close_with_loop(
        self, loop: asyncio.AbstractEventLoop, transport: httpx.AsyncBaseTransport
    ) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._pools.pop(loop, None)
            await transport.aclose()

    async def _done(self, loop: asyncio.AbstractEventLoop, pool: _LoopPool) -> None:
        pool.in_use -= 1
        if self._retired and not pool.in_use:
            await self._close(loop)

    async def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        pool = self._pools.pop(loop, None)
        if pool is None:
            return
        if pool.closer is not None:
            await pool.closer.aclose()
        else:
            await pool.transport.aclose()

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


class _Counted(httpx.AsyncByteStream):
    """An answer's stream that tells, once, when it is done with."""

    def __init__(self, stream: httpx.AsyncByteStream, done: Callable[[], Awaitable[None]]) -> None:
        self._stream = stream
        self._done = done
        self._open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            if self._open:
                self._open = False
                await self._done()


class BlockingTransport(httpx.BaseTransport):
    """A pool for threads that, once retired, closes its connections whenever none of its requests is under way.

    Args:
        pool: The pool.
    """

    def __init__(self, pool: httpx.BaseTransport) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._retired = False
        self.in_use = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends the request; any thread."""
        with self._lock:
            self.in_use += 1
        try:
            response = self._pool.handle_request(request)
        except BaseException:
            self._done()
            raise
        response.stream = _CountedBlocking(response.stream, self._done)  # type: ignore[arg-type]
        return response

    def _done(self) -> None:
        with self._lock:
            self.in_use -= 1
            if self._retired and not self.in_use:
                self._pool.close()

    def close_soon(self) -> None:
        """Closes the connections now, or when the last request under way has ended."""
        with self._lock:
            self._retired = True
            if not self.in_use:
                self._pool.close()

    def close(self) -> None:
        """Closes the connections now, whatever is under way."""
        self._pool.close()


class _CountedBlocking(httpx.SyncByteStream):
    """``_Counted`` for threads."""

    def __init__(self, stream: httpx.SyncByteStream, done: Callable[[], None]) -> None:
        self._stream = stream
        self._done = done
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            if self._open:
                self._open = False
                self._done()
