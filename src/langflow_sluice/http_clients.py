"""HTTP clients shared by all nodes that call one upstream with one credential.

A client's connection pool belongs to one event loop: used from a second one it fails with "Event loop is closed", or
worse, the SDK sends the request again. So the shared client keeps one pool for each loop behind one transport, and
callers of any loop may hold the same client.

Langflow's guard against server-side request forgery stays in force: a custom endpoint's pools are built from what
``lfx.base.models.provider_ssrf`` returns, with connections pinned to the addresses it has validated.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import hashlib
import math
import os
import threading
import urllib.request
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

MAX_CLIENTS = 64
KEEPALIVE_S = 60.0
# The guard decides how many calls are in flight; the pool must never be a second, unseen queue behind it.
_NO_LIMIT = None


@dataclass(frozen=True, slots=True)
class HttpTimeouts:
    """Seconds for each phase of a request; 0 turns a timeout off.

    Attributes:
        connect_s: To open a connection.
        read_s: Between two pieces of the answer; also the longest silence in a stream.
    """

    connect_s: float = 5.0
    read_s: float = 120.0

    def __post_init__(self) -> None:
        for name, field in (("connect_s", "connect_timeout"), ("read_s", "read_timeout")):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise InvalidInput.of(
                    field, value, "a timeout is a number of seconds", fix=f"Set {field} to 0 or above."
                )

    def as_httpx(self) -> httpx.Timeout:
        """The same for httpx; the pool of connections has no limit, hence no timeout either."""
        return httpx.Timeout(
            connect=self.connect_s or None, read=self.read_s or None, write=self.read_s or None, pool=None
        )


@dataclass(frozen=True, slots=True)
class HttpClients:
    """The clients for one upstream and credential, for asynchronous and for synchronous callers."""

    asynchronous: httpx.AsyncClient
    synchronous: httpx.Client


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
            max_connections=_NO_LIMIT, max_keepalive_connections=None if stays else 0, keepalive_expiry=KEEPALIVE_S
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


@dataclass(frozen=True, slots=True)
class _Entry:
    clients: HttpClients
    asynchronous: LoopTransport
    blocking: BlockingTransport

    @property
    def idle(self) -> bool:
        return not self.asynchronous.in_use and not self.blocking.in_use

    def close_soon(self) -> None:
        self.asynchronous.close_soon()
        self.blocking.close_soon()


class ClientCache:
    """Clients by endpoint, credential and timeouts; least recently used ones are closed when idle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[object, ...], _Entry] = OrderedDict()
        self._tls: ssl.SSLContext | None = None

    def clients(self, base_url: str, default_url: str, api_key: str, timeouts: HttpTimeouts) -> HttpClients:
        """The clients for one upstream and credential, made on first use; any thread.

        Args:
            base_url: The API's root; blank for ``default_url``.
            default_url: The provider's own endpoint, which needs no check.
            api_key: Only its fingerprint is kept.
            timeouts: Of each phase.

        Raises:
            ValueError: Langflow's guard refuses the endpoint (LANGFLOW_SSRF_ALLOWED_HOSTS).
        """
        egress = _egress(base_url, default_url)
        key = (base_url or default_url, fingerprint(api_key), timeouts, egress)
        with self._lock:
            known = self._entries.get(key)
            if known is None:
                known = self._entries[key] = self._make(base_url or default_url, egress, timeouts)
                self._drop_idle()
            self._entries.move_to_end(key)
            return known.clients

    def _make(self, url: str, egress: _Egress, timeouts: HttpTimeouts) -> _Entry:
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
        asynchronous = LoopTransport(_pool_maker(url, egress.pinned, self._tls))
        limits = httpx.Limits(max_connections=_NO_LIMIT, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_S)
        blocking = BlockingTransport(_blocking_pool(url, egress.pinned, self._tls, limits))
        options: dict[str, Any] = {"timeout": timeouts.as_httpx(), "follow_redirects": egress.follow_redirects}
        clients = HttpClients(
            asynchronous=httpx.AsyncClient(transport=asynchronous, **options),
            synchronous=httpx.Client(transport=blocking, **options),
        )
        return _Entry(clients, asynchronous, blocking)

    def _drop_idle(self) -> None:
        surplus = len(self._entries) - MAX_CLIENTS
        newest = next(reversed(self._entries))
        for key, entry in list(self._entries.items()):
            if surplus <= 0:
                return
            if entry.idle and key != newest:
                del self._entries[key]
                surplus -= 1
                entry.close_soon()

    def close(self) -> None:
        """Closes everything that can be closed from the calling thread; for the end of the process."""
        with self._lock:
            entries, self._entries = self._entries, OrderedDict()
        for entry in entries.values():
            entry.asynchronous.close_soon()
            entry.blocking.close()


_Pinned = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class _Egress:
    """What Langflow's guard allows.

    Attributes:
        pinned: Host names with the validated addresses that may be connected to; empty for no pinning.
        follow_redirects: Whether an answer may send the request, and the credential with it, elsewhere.
    """

    pinned: _Pinned = ()
    follow_redirects: bool = True


def _egress(base_url: str, default_url: str) -> _Egress:
    if not base_url:
        return _Egress()
    from lfx.base.models.provider_ssrf import provider_httpx_client_kwargs

    _, options = provider_httpx_client_kwargs(base_url, default_url=default_url)
    transport = options.get("transport")
    pinned = tuple(sorted((host, tuple(ips)) for host, ips in transport.pinned_ips.items())) if transport else ()
    # Without options there is nothing to enforce, and the SDK's own clients follow redirects.
    return _Egress(pinned, options.get("follow_redirects", not options))


def _pool_maker(url: str, pinned: _Pinned, tls: ssl.SSLContext) -> Callable[[httpx.Limits], httpx.AsyncBaseTransport]:
    def make(limits: httpx.Limits) -> httpx.AsyncBaseTransport:
        if not pinned:
            return httpx.AsyncHTTPTransport(verify=tls, limits=limits, proxy=_proxy(url))
        from lfx.utils.ssrf_transport import SSRFProtectedTransport

        return SSRFProtectedTransport(pinned_ips={host: list(ips) for host, ips in pinned}, verify=tls, limits=limits)

    return make


def _blocking_pool(url: str, pinned: _Pinned, tls: ssl.SSLContext, limits: httpx.Limits) -> httpx.BaseTransport:
    if not pinned:
        return httpx.HTTPTransport(verify=tls, limits=limits, proxy=_proxy(url))
    from lfx.utils.ssrf_transport import SSRFProtectedSyncTransport

    return SSRFProtectedSyncTransport(pinned_ips={host: list(ips) for host, ips in pinned}, verify=tls, limits=limits)


def _proxy(url: str) -> str | None:
    """The proxy that the environment prescribes for an endpoint, as httpx would choose it for a client of its own."""
    parsed = httpx.URL(url)
    if urllib.request.proxy_bypass(parsed.netloc.decode()):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parsed.scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def fingerprint(secret: str) -> str:
    """A short name for a credential that does not tell it."""
    return hashlib.blake2b(secret.encode(), digest_size=6, person=b"sluice-credentl").hexdigest()


_cache = ClientCache()
# The caches of parent processes: collected, they would warn of connections that are the parent's to close.
_inherited: list[ClientCache] = []


def _start_afresh() -> None:
    global _cache  # noqa: PLW0603 - the parent's connections are not ours, and its lock may be held
    _inherited.append(_cache)
    _cache = ClientCache()


def _close_all() -> None:
    _cache.close()


os.register_at_fork(after_in_child=_start_afresh)
atexit.register(_close_all)


def client_cache() -> ClientCache:
    """The clients of this process; a forked child has its own, empty cache."""
    return _cache
