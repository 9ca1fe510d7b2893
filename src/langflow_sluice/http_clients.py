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
import hashlib
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
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

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
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
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
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncBaseTransport]
        self._pools = weakref.WeakKeyDictionary()
        self._closers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None, None]]
        self._closers = weakref.WeakKeyDictionary()
        self.in_use = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends the request over the running loop's pool."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop) or await self._open(loop)
        self.in_use += 1
        try:
            response = await pool.handle_async_request(request)
        except BaseException:
            self.in_use -= 1
            raise
        response.stream = _Counted(response.stream, self)  # type: ignore[arg-type]
        return response

    async def _open(self, loop: asyncio.AbstractEventLoop) -> httpx.AsyncBaseTransport:
        stays = threading.current_thread() is threading.main_thread()
        limits = httpx.Limits(
            max_connections=_NO_LIMIT, max_keepalive_connections=None if stays else 0, keepalive_expiry=KEEPALIVE_S
        )
        pool = self._pools[loop] = self._make_pool(limits)
        closer = self._closers[loop] = _close_with_loop(pool)
        # Starting the generator makes it known to the loop, which closes it when it shuts down.
        await closer.__anext__()
        return pool

    async def aclose(self) -> None:
        """Closes the running loop's pool; the next request opens another one."""
        loop = asyncio.get_running_loop()
        self._pools.pop(loop, None)
        closer = self._closers.pop(loop, None)
        if closer is not None:
            await closer.aclose()

    def close_soon(self) -> None:
        """Closes the pools of all running loops from any thread, without waiting for it."""
        for loop in list(self._pools):
            if loop.is_running():
                with contextlib.suppress(RuntimeError):
                    asyncio.run_coroutine_threadsafe(self.aclose(), loop)


async def _close_with_loop(pool: httpx.AsyncBaseTransport) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await pool.aclose()


class _Counted(httpx.AsyncByteStream):
    """An answer's stream that tells its transport when it is done with."""

    def __init__(self, stream: httpx.AsyncByteStream, transport: LoopTransport) -> None:
        self._stream = stream
        self._transport = transport
        self._open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        if self._open:
            self._open = False
            self._transport.in_use -= 1
        await self._stream.aclose()


class ClientCache:
    """Clients by process, endpoint, credential and timeouts; least recently used ones are closed when idle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: OrderedDict[tuple[object, ...], tuple[HttpClients, LoopTransport]] = OrderedDict()
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
        pinned = _pinned_addresses(base_url, default_url)
        key = (os.getpid(), base_url or default_url, fingerprint(api_key), timeouts, pinned)
        with self._lock:
            known = self._clients.get(key)
            if known is None:
                known = self._clients[key] = self._make(base_url or default_url, pinned, timeouts)
                self._drop_idle()
            self._clients.move_to_end(key)
            return known[0]

    def _make(self, url: str, pinned: _Pinned, timeouts: HttpTimeouts) -> tuple[HttpClients, LoopTransport]:
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
        transport = LoopTransport(_pool_maker(url, pinned, self._tls))
        limits = httpx.Limits(max_connections=_NO_LIMIT, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_S)
        options: dict[str, Any] = {"timeout": timeouts.as_httpx(), "follow_redirects": not pinned}
        clients = HttpClients(
            asynchronous=httpx.AsyncClient(transport=transport, **options),
            synchronous=httpx.Client(transport=_blocking_pool(url, pinned, self._tls, limits), **options),
        )
        return clients, transport

    def _drop_idle(self) -> None:
        surplus = len(self._clients) - MAX_CLIENTS
        for key, (clients, transport) in list(self._clients.items()):
            if surplus <= 0:
                return
            if not transport.in_use:
                del self._clients[key]
                surplus -= 1
                transport.close_soon()
                clients.synchronous.close()

    def close(self) -> None:
        """Closes everything that can be closed from the calling thread; for the end of the process."""
        with self._lock:
            clients, self._clients = self._clients, OrderedDict()
        for each, transport in clients.values():
            transport.close_soon()
            each.synchronous.close()


_Pinned = tuple[tuple[str, tuple[str, ...]], ...]


def _pinned_addresses(base_url: str, default_url: str) -> _Pinned:
    """What Langflow's guard allows connections to: host names with their validated addresses; empty for no pinning."""
    if not base_url:
        return ()
    from lfx.base.models.provider_ssrf import provider_httpx_client_kwargs

    _, options = provider_httpx_client_kwargs(base_url, default_url=default_url)
    transport = options.get("transport")
    return tuple(sorted((host, tuple(ips)) for host, ips in transport.pinned_ips.items())) if transport else ()


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
    if urllib.request.proxy_bypass(parsed.host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parsed.scheme) or proxies.get("all")


def fingerprint(secret: str) -> str:
    """A short name for a credential that does not tell it."""
    return hashlib.blake2b(secret.encode(), digest_size=6, person=b"sluice-credentl").hexdigest()


_cache = ClientCache()
atexit.register(_cache.close)


def client_cache() -> ClientCache:
    """The clients of this process."""
    return _cache
