"""HTTP clients shared by all nodes that call one upstream with one credential.

A client's connection pool belongs to one event loop: used from a second one it fails with "Event loop is closed", or
worse, the SDK sends the request again. So the shared client keeps one pool for each loop behind one transport, and
callers of any loop may hold the same client.

Langflow's guard against server-side request forgery stays in force: a custom endpoint's pools are built from what
``lfx.base.models.provider_ssrf`` returns, with connections pinned to the addresses it has validated.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import threading
import urllib.request
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from langflow_sluice.errors import checked_amount
from langflow_sluice.http_transports import LIMITS, BlockingTransport, Connections, LoopTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Hashable

MAX_CLIENTS = 64


@dataclass(frozen=True, slots=True)
class HttpTimeouts:
    """Seconds for each phase of a request; 0 turns a timeout off.

    Attributes:
        connect_s: To open a connection.
        read_s: Between two pieces of the answer; also the longest silence in a stream.
        write_s: Until the service takes the next piece of the request.
    """

    connect_s: float = 5.0
    read_s: float = 120.0
    write_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("connect_s", "read_s", "write_s"):
            field, value = f"{name[:-2]}_timeout", getattr(self, name)
            checked_amount(field, value, "a timeout is a number of seconds", fix=f"Set {field} to 0 or above.")

    def as_httpx(self) -> httpx.Timeout:
        """The same for httpx.

        The pool of connections has no limit, hence no timeout: callers wait for a slot of the guard (queue_timeout).
        """
        return httpx.Timeout(
            connect=self.connect_s or None, read=self.read_s or None, write=self.write_s or None, pool=None
        )


@dataclass(frozen=True, slots=True)
class HttpClients:
    """The clients for one upstream and credential, for asynchronous and for synchronous callers.

    Attributes:
        label: The upstream as ``scheme://host:port``; never a credential, and no path, which may hold one.
        asynchronous: For callers on any event loop.
        synchronous: For threads.
        loop_transport: What the asynchronous client sends through, for SDKs that insist on a client of their own.
        blocking_transport: The same of the synchronous one.
    """

    label: str
    asynchronous: httpx.AsyncClient
    synchronous: httpx.Client
    loop_transport: LoopTransport
    blocking_transport: BlockingTransport

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return not self.loop_transport.in_use and not self.blocking_transport.in_use

    def connections(self) -> Connections:
        """Those of both; any thread, and nobody who sends a request waits for it."""
        return self.loop_transport.connections() + self.blocking_transport.connections()

    def close_soon(self) -> None:
        """Closes the connections, each when its request has ended; any thread."""
        self.loop_transport.close_soon()
        self.blocking_transport.close_soon()


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """A snapshot of the connections to one upstream, with whatever credentials; holds none of them.

    Attributes:
        label: The upstream as ``scheme://host:port``.
        open: Connections open, in use or fit to be used again.
        in_use: Connections that a request, or the stream of its answer, uses.
        waiting: Requests without a connection so far. It is being opened: there is no limit to wait for, since the
            guard decides how many calls are in flight.
        limit: The most connections allowed; 0 for any number.
    """

    label: str
    open: int
    in_use: int
    waiting: int
    limit: int


class ClientCache:
    """Clients by endpoint, credential and timeouts; least recently used ones are closed when idle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[object, ...], HttpClients] = OrderedDict()
        # A copy, replaced as a whole: who only looks takes no lock.
        self._seen: tuple[HttpClients, ...] = ()
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
        return self._known(base_url or default_url, _egress(base_url, default_url), api_key, timeouts)

    def clients_like(self, own: httpx.Client | httpx.AsyncClient, address: str, credential: Hashable) -> HttpClients:
        """Shared clients that may go where a client made under Langflow's rules may go; any thread.

        Args:
            own: The client to do without; its timeouts are given with each request by the SDK that uses it.
            address: The API's root.
            credential: Of a text only the fingerprint is kept; anything else is kept, and shared with its equals.
        """
        egress = _Egress(_pins(own._transport), own.follow_redirects)  # noqa: SLF001 - it is told nowhere else
        return self._known(address, egress, credential, HttpTimeouts())

    def _known(self, url: str, egress: _Egress, credential: Hashable, timeouts: HttpTimeouts) -> HttpClients:
        owner = fingerprint(credential) if isinstance(credential, str) else credential
        key = (url.rstrip("/"), owner, timeouts, egress)
        with self._lock:
            known = self._entries.get(key)
            if known is None:
                known = self._entries[key] = self._make(url, egress, timeouts)
                self._drop_idle()
                self._seen = tuple(self._entries.values())
            self._entries.move_to_end(key)
            return known

    def _make(self, url: str, egress: _Egress, timeouts: HttpTimeouts) -> HttpClients:
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
        route = (_proxy(url), egress.pinned, self._tls)
        asynchronous = LoopTransport(functools.partial(_transport, *route))
        blocking = BlockingTransport(functools.partial(_blocking_transport, *route))
        options: dict[str, Any] = {"timeout": timeouts.as_httpx(), "follow_redirects": egress.follow_redirects}
        return HttpClients(
            label=_label(url),
            asynchronous=httpx.AsyncClient(transport=asynchronous, **options),
            synchronous=httpx.Client(transport=blocking, **options),
            loop_transport=asynchronous,
            blocking_transport=blocking,
        )

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

    def statistics(self) -> list[ClientStatistics]:
        """The connections by upstream, in the order of the labels; any thread, and nobody ever waits for it."""
        sums: dict[str, Connections] = {}
        for entry in self._seen:
            sums[entry.label] = sums.get(entry.label, Connections()) + entry.connections()
        return [
            ClientStatistics(label, seen.in_use + seen.idle, seen.in_use, seen.opening, LIMITS.max_connections or 0)
            for label, seen in sorted(sums.items())
        ]

    def close(self) -> None:
        """Closes everything that can be closed from the calling thread; for the end of the process."""
        with self._lock:
            entries, self._entries = self._entries, OrderedDict()
            self._seen = ()
        for entry in entries.values():
            entry.close_soon()


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
    pinned = _pins(transport)
    # Without options there is nothing to enforce, and the SDK's own clients follow redirects.
    return _Egress(pinned, options.get("follow_redirects", not options))


def _pins(transport: Any) -> _Pinned:
    """The addresses that a transport of Langflow's guard connects to; empty for any other transport."""
    ips: dict[str, list[str]] = getattr(transport, "pinned_ips", None) or {}
    return tuple(sorted((host, tuple(addresses)) for host, addresses in ips.items()))


def _transport(proxy: str | None, pinned: _Pinned, tls: ssl.SSLContext) -> httpx.AsyncBaseTransport:
    if not pinned:
        return httpx.AsyncHTTPTransport(verify=tls, limits=LIMITS, proxy=proxy)
    from lfx.utils.ssrf_transport import SSRFProtectedTransport

    return SSRFProtectedTransport(pinned_ips={host: list(ips) for host, ips in pinned}, verify=tls, limits=LIMITS)


def _blocking_transport(proxy: str | None, pinned: _Pinned, tls: ssl.SSLContext) -> httpx.BaseTransport:
    if not pinned:
        return httpx.HTTPTransport(verify=tls, limits=LIMITS, proxy=proxy)
    from lfx.utils.ssrf_transport import SSRFProtectedSyncTransport

    return SSRFProtectedSyncTransport(pinned_ips={host: list(ips) for host, ips in pinned}, verify=tls, limits=LIMITS)


def _proxy(url: str) -> str | None:
    """The proxy that the environment prescribes for an endpoint, as httpx would choose it for a client of its own."""
    parsed = httpx.URL(url)
    if urllib.request.proxy_bypass(parsed.netloc.decode()):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parsed.scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


_PORTS = {"http": 80, "https": 443}


def _label(url: str) -> str:
    parsed = httpx.URL(url)
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    return f"{parsed.scheme}://{host}:{parsed.port or _PORTS.get(parsed.scheme, 0)}"


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


def client_statistics() -> list[ClientStatistics]:
    """The connections of this process's shared clients, by upstream; any thread, and nobody ever waits for it."""
    return _cache.statistics()
