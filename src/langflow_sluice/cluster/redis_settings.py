"""Where the Redis is that all workers share, read from the environment, and what of its address may be shown.

The first of these that is set is used:

1. ``SLUICE_REDIS_URL``.
2. Langflow's job queue, where ``LANGFLOW_JOB_QUEUE_TYPE=redis``: ``LANGFLOW_REDIS_QUEUE_URL``, else
   ``LANGFLOW_REDIS_QUEUE_HOST``, ``_PORT`` and ``_DB`` (1 unless set), the first two falling back to
   ``LANGFLOW_REDIS_HOST`` and ``LANGFLOW_REDIS_PORT``, as in ``langflow.services.job_queue.factory``.
3. Langflow's cache, where ``LANGFLOW_CACHE_TYPE=redis``: ``LANGFLOW_REDIS_URL``, else ``LANGFLOW_REDIS_HOST``,
   ``_PORT`` and ``_DB``, as in ``langflow.services.cache.factory``.

The queue comes before the cache: every worker must reach it, and it may not lose keys, whereas a Redis for a cache is
often told to evict what was not used for long. Langflow's addresses without the type that puts them in force are not
used, as Langflow does not use them either.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

URL_VARIABLE: Final = "SLUICE_REDIS_URL"
PREFIX_VARIABLE: Final = "SLUICE_REDIS_PREFIX"
TIMEOUT_VARIABLE: Final = "SLUICE_REDIS_TIMEOUT"
DEFAULT_PREFIX: Final = "sluice"
DEFAULT_TIMEOUT_S: Final = 1.0
MOST_TIMEOUT_S: Final = 60.0
DEFAULT_PORT: Final = 6379
LONGEST_PREFIX: Final = 64

_QUEUE: Final = "LANGFLOW_REDIS_QUEUE"
_CACHE: Final = "LANGFLOW_REDIS"
_SCHEMES: Final = ("redis", "rediss", "unix")
_TLS: Final = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_keyfile",
        "ssl_password",
    }
)
_LOGIN: Final = frozenset({"db", "password", "username"})
# Langflow's addresses may hold them, for redis-py; our clients have their own, and must not try twice.
NOT_OURS: Final = frozenset(
    {
        "client_name",
        "decode_responses",
        "encoding",
        "encoding_errors",
        "health_check_interval",
        "max_connections",
        "protocol",
        "retry_on_error",
        "retry_on_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_timeout",
        "timeout",
    }
)
_CERT_REQUIREMENTS: Final = ("none", "optional", "required")
# What may be shown after the login: a host and what follows. Not a port in words, which is a password's second half.
_SHOWN: Final = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.%]+\])?(?::[0-9]{0,5})?(?:/[0-9]{0,5})?")
_EXAMPLE: Final = "Enter it as redis://user:password@host:6379/0, or rediss:// for TLS, or unix:///path?db=0."
_ESCAPE: Final = "Percent-encode '@', '/', '?', '#' and '%' in the password, as in redis://:a%2Fb@host:6379/0."


@dataclass(frozen=True, repr=False)
class RedisSettings:
    """The Redis of the cluster; hashable, so that clients can be kept by it. ``repr`` shows no login.

    Attributes:
        url: Its address, with the password; not to be shown. Of its options those for TLS, the login and the database
            count, timeouts, retries and the like do not.
        prefix: What the names of all keys start with; printable, without braces, which mark the part of a key's name
            that decides on its place in a Redis Cluster.
        timeout_s: Seconds for connecting, and again for each answer; above 0, at most 60.
        variable: Where the address is from, for errors.

    Raises:
        InvalidInput: A value is wrong; names the variable, and of an address what may be shown.
    """

    url: str
    prefix: str = DEFAULT_PREFIX
    timeout_s: float = DEFAULT_TIMEOUT_S
    variable: str = URL_VARIABLE

    def __post_init__(self) -> None:
        _check_address(self.url, self.variable)
        if not 0 < len(self.prefix) <= LONGEST_PREFIX or not self.prefix.isprintable() or set(self.prefix) & set(" {}"):
            problem = f"a prefix of keys has 1 to {LONGEST_PREFIX} printable characters, without spaces and braces"
            raise InvalidInput.of(PREFIX_VARIABLE, self.prefix, problem, fix=f"Enter a word like {DEFAULT_PREFIX!r}.")
        if not 0 < self.timeout_s <= MOST_TIMEOUT_S:
            _refuse_timeout(self.timeout_s)

    def __repr__(self) -> str:
        return (
            f"RedisSettings({self.label!r}, prefix={self.prefix!r}, timeout_s={self.timeout_s:g},"
            f" variable={self.variable!r})"
        )

    @property
    def label(self) -> str:
        """``host:port/database``, or ``path/database`` of a Unix socket: all that messages and metrics may show."""
        parts = urlsplit(self.url)
        database = _database(parts)
        if parts.scheme == "unix":
            return f"{unquote(parts.path)}/{database}"
        host = parts.hostname or "localhost"
        shown = f"[{host}]" if ":" in host else host
        return f"{shown}:{parts.port or DEFAULT_PORT}/{database}"


def redis_settings(environment: Mapping[str, str] | None = None) -> RedisSettings | None:
    """The Redis that all workers share, by the rules of this module; ``None`` where none is configured.

    Args:
        environment: The variables to read; those of this process unless given. What ``langflow run --env-file`` reads
            is among these.

    Raises:
        InvalidInput: A variable is wrong; names it, its value without login, and the fix.
    """
    environment = os.environ if environment is None else environment
    url, variable = _address(environment)
    if not url:
        return None
    prefix = environment.get(PREFIX_VARIABLE, "") or DEFAULT_PREFIX
    text = environment.get(TIMEOUT_VARIABLE, "").strip()
    try:
        timeout_s = float(text) if text else DEFAULT_TIMEOUT_S
    except ValueError:
        timeout_s = math.nan
    if not 0 < timeout_s <= MOST_TIMEOUT_S:
        _refuse_timeout(text)
    return RedisSettings(url, prefix=prefix, timeout_s=timeout_s, variable=variable)


def _address(environment: Mapping[str, str]) -> tuple[str, str]:
    def value(name: str) -> str:
        return environment.get(name, "").strip()

    if value(URL_VARIABLE):
        return value(URL_VARIABLE), URL_VARIABLE
    for kind, group, usual in (("LANGFLOW_JOB_QUEUE_TYPE", _QUEUE, "1"), ("LANGFLOW_CACHE_TYPE", _CACHE, "0")):
        if value(kind).lower() != "redis":
            continue
        if value(f"{group}_URL"):
            return value(f"{group}_URL"), f"{group}_URL"
        host = value(f"{group}_HOST") or value(f"{_CACHE}_HOST") or "localhost"
        port = value(f"{group}_PORT") or value(f"{_CACHE}_PORT") or str(DEFAULT_PORT)
        database = value(f"{group}_DB") or usual
        for name, text in (
            (f"{group}_PORT" if value(f"{group}_PORT") else f"{_CACHE}_PORT", port),
            (f"{group}_DB", database),
        ):
            if not text.isdecimal():
                raise InvalidInput.of(name, text, "it is no number", fix=f"Enter one, or set {group}_URL instead.")
        shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"redis://{shown}:{port}/{database}", f"{group}_HOST"
    return "", ""


def _check_address(url: str, variable: str) -> None:
    scheme, found, _ = url.partition("://")
    if not found or scheme not in _SCHEMES:
        _refuse(url, variable, "it does not start with redis://, rediss:// or unix://", _EXAMPLE)
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises where it is none
    except ValueError:
        # Its text is dropped: it quotes what stands in the place of the port, which may be half a password.
        parts = None
    if parts is None or parts.fragment or "#" in url or "@" in parts.path + parts.query:
        _refuse(url, variable, "it cannot be taken apart into login, host, port and database", _ESCAPE)
    if not url.isprintable() or " " in url:
        _refuse(url, variable, "it holds spaces or control characters", _EXAMPLE)
    if scheme == "unix" and not parts.path.strip("/"):
        _refuse(url, variable, "it names no socket", _EXAMPLE)
    if not _database(parts).isdecimal():
        _refuse(url, variable, "its database is not a number", _EXAMPLE)
    _check_options(url, variable, parts)


def _check_options(url: str, variable: str, parts: SplitResult) -> None:
    options = parse_qs(parts.query)
    for name in options:
        if name in _TLS and parts.scheme != "rediss":
            _refuse(url, variable, f"its option {name} is for TLS", "Let it start with rediss://, or drop the option.")
        if name not in _TLS | _LOGIN | NOT_OURS:
            known = ", ".join(sorted(_TLS | {"db"}))
            shown = repr(name) if re.fullmatch(r"[a-z_]{1,40}", name) else "of that name"
            _refuse(url, variable, f"no option {shown} is known", f"Known are {known}.")
    requirement = options.get("ssl_cert_reqs", ["required"])[0]
    if requirement not in _CERT_REQUIREMENTS:
        fix = f"Enter one of {', '.join(_CERT_REQUIREMENTS)}."
        _refuse(url, variable, "its option ssl_cert_reqs is none of those there are", fix)


def _database(parts: SplitResult) -> str:
    given = parse_qs(parts.query).get("db")
    if given:
        return given[0]
    return (parts.path.strip("/") if parts.scheme != "unix" else "") or "0"


def _refuse(url: str, variable: str, problem: str, fix: str) -> NoReturn:
    raise InvalidInput.of(variable, _shown(url), problem, fix=fix) from None


def _refuse_timeout(value: object) -> NoReturn:
    problem = f"a timeout is a number of seconds above 0 and at most {MOST_TIMEOUT_S:g}"
    raise InvalidInput.of(TIMEOUT_VARIABLE, value, problem, fix=f"Enter one like {DEFAULT_TIMEOUT_S:g}.") from None


def _shown(url: str) -> str:
    """As much of a wrong address as cannot be a part of a password."""
    scheme, found, rest = url.partition("://")
    if not found or not re.fullmatch(r"[A-Za-z0-9+.-]{1,20}", scheme):
        return "***"
    # The last "@" ends the login, unless it stands in an option, which may be a password as well.
    login, at, place = rest.rpartition("@")
    place = place.split("?", 1)[0]
    if "?" in login or (not at and place.startswith(":")) or not _SHOWN.fullmatch(place):
        return f"{scheme}://***"
    return f"{scheme}://{'***@' if at else ''}{place}"
