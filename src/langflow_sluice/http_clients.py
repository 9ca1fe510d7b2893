"""HTTP clients shared by all nodes that call one upstream with one credential.

A client's connection pool belongs to one event loop: used from a second one it fails with "Event loop is closed", or
worse, the SDK sends the request again. So the shared client keeps one pool for each loop behind one transport, and
callers of any loop may hold the same client.

Langflow's guard against server-side request forgery stays in force: a custom endpoint's pools are built from what
``lfx.base.models.provider_ssrf`` returns, with connections pinned to the addresses it has validated.
"""

from __future__ import annotations

import atexit
import hashlib
import math
import os
import threading
import urllib.request
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from langflow_sluice.errors import InvalidInput
from langflow_sluice.http_transports import KEEPALIVE_S, NO_LIMIT, BlockingTransport, LoopTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

MAX_CLIENTS = 64


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
        limits = httpx.Limits(max_connections=NO_LIMIT, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_S)
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
