"""Clients of the cluster's Redis: few connections, short timeouts, and nothing sent twice.

redis-py tries a command again by itself, three times unless told otherwise, also when the connection broke or the
answer was late after the command had been sent. A script that was sent may have run: run again, it would take a second
lease, or count a call twice. So these clients try once and raise; whoever knows whether a script may run twice decides.
What is safe happens by itself, because nothing has been sent yet: a connection that broke while nobody used it is
replaced before a command goes over it.

A client talks to one server and follows no redirections: to a Redis Cluster it would need ``redis.RedisCluster``, which
is left out. The scripts' keys share a hash tag (``{guard}``), as one would need.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

import redis
import redis.asyncio
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from langflow_sluice.cluster.redis_settings import NOT_OURS

if TYPE_CHECKING:
    from langflow_sluice.cluster.redis_settings import RedisSettings

CLIENT_NAME: Final = "sluice"
# A connection that nobody used for so long is tested first: firewalls forget silent ones, most after minutes.
HEALTH_CHECK_S: Final = 30.0
# So that the kernel finds out by itself, and a firewall sees some traffic: probes after 15 s, given up 15 s later.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


def async_client(settings: RedisSettings, *, connections: int = 4) -> aioredis.Redis:
    """A client for one event loop; connects when first used, and is closed by its owner (``aclose``).

    Who finds all connections in use waits for one, for at most ``settings.timeout_s``. A command takes at most that
    for its answer; connecting to a server that hangs, and testing a connection first, that again each.

    Args:
        settings: Where it is. Commands that wait at the server need a ``timeout_s`` above their wait.
        connections: The most it has open.

    Returns:
        A client that answers in bytes and raises ``redis.RedisError`` at the first failure of a command, which may
        have been carried out.
    """
    kinds = {"redis": _AsyncTcp, "rediss": _AsyncTls, "unix": _AsyncUnix}
    scheme, options = _options(settings)
    pool = aioredis.BlockingConnectionPool(
        connection_class=kinds[scheme],
        max_connections=connections,
        timeout=settings.timeout_s,
        retry=AsyncRetry(NoBackoff(), 0),
        **options,
    )
    return aioredis.Redis.from_pool(pool)


def blocking_client(settings: RedisSettings, *, connections: int = 4) -> redis.Redis:
    """The same for threads: any number of them may share it; never for a thread that runs an event loop."""
    kinds = {"redis": _Tcp, "rediss": _Tls, "unix": _Unix}
    scheme, options = _options(settings)
    pool = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
        connection_class=kinds[scheme],
        max_connections=connections,
        timeout=settings.timeout_s,
        retry=Retry(NoBackoff(), 0),
        **options,
    )
    return redis.Redis.from_pool(pool)


def _options(settings: RedisSettings) -> tuple[str, dict[str, Any]]:
    scheme = settings.url.partition("://")[0]
    given = parse_url(settings.url)  # type: ignore[no-untyped-call]
    options: dict[str, Any] = {name: value for name, value in given.items() if name not in NOT_OURS}
    options.pop("connection_class", None)
    if scheme != "unix":
        known = {getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)}
        options.update(socket_keepalive=True, socket_keepalive_options=known)
    return scheme, {
        **options,
        "socket_timeout": settings.timeout_s,
        "socket_connect_timeout": settings.timeout_s,
        "health_check_interval": HEALTH_CHECK_S,
        "client_name": CLIENT_NAME,
        # Else two further commands at each connect, which tell the server redis-py's name and version.
        "driver_info": None,
        "decode_responses": False,
    }


class _AsyncReconnecting(aioredis.connection.AbstractConnection):
    """Replaces a connection that fails its test: with no command sent yet, trying again is safe."""

    async def check_health(self) -> None:
        try:
            await super().check_health()  # type: ignore[no-untyped-call]
        except (redis.ConnectionError, redis.TimeoutError):
            await self.connect_check_health(check_health=False)


class _AsyncTcp(_AsyncReconnecting, aioredis.Connection):
    pass


class _AsyncTls(_AsyncReconnecting, aioredis.SSLConnection):
    pass


class _AsyncUnix(_AsyncReconnecting, aioredis.UnixDomainSocketConnection):
    pass


class _Reconnecting(redis.connection.AbstractConnection):
    """As above, for threads."""

    def check_health(self) -> None:
        try:
            super().check_health()  # type: ignore[no-untyped-call]
        except (redis.ConnectionError, redis.TimeoutError):
            self.connect_check_health(check_health=False)


class _Tcp(_Reconnecting, redis.Connection):
    pass


class _Tls(_Reconnecting, redis.SSLConnection):
    pass


class _Unix(_Reconnecting, redis.UnixDomainSocketConnection):
    pass
