"""Addresses of databases, in any form users paste, and what of them may be shown."""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Final, NoReturn
from urllib.parse import parse_qsl, unquote

from sqlalchemy import URL

from langflow_sluice.errors import InvalidInput

DRIVER: Final = "postgresql+psycopg"
DEFAULT_PORT: Final = 5432

_SCHEME = re.compile(r"(?:postgres|postgresql)(?:\+(?:psycopg|psycopg2|psycopg_async|asyncpg))?://", re.IGNORECASE)
# What stands around an address where users copy it from: a command, a variable, quotes, the prefix of JDBC.
_WRAPPING = re.compile(
    r"(?:psql\s+|(?:export\s+)?[A-Z_][A-Z0-9_]*=)?(?P<quote>[\"'`]?)(?:jdbc:)?(?P<address>.*?)(?P=quote)", re.DOTALL
)
# Poolers by their names (Supabase, Neon and those that follow them), and by the ports that they listen on.
_POOLER = re.compile(r"-pooler\.|\.pooler\.|^pgbouncer\b", re.IGNORECASE)
_POOLER_PORTS = frozenset({6432, 6543})
# An address can be cut in several places when its password holds "@", "/" or "?" as they are. The first of these wins
# that leaves a host and known parameters: each part for itself ("@" may then stand in a query value); the last "@" ends
# the password, as in Langflow's transform_connection_string; no user at all.
_CUTS = (
    re.compile(r"(?P<user>[^:/?#@]*)(?::(?P<password>[^/?#@]*))?@(?P<rest>[^@?]*(?:\?.*)?)", re.DOTALL),
    re.compile(r"(?P<user>[^:/?#@]*)(?::(?P<password>.*))?@(?P<rest>[^@]*)", re.DOTALL),
    re.compile(r"(?P<user>)(?P<password>)(?P<rest>.*)", re.DOTALL),
)
_REST = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:/?#\[\],\s]*)(?::(?P<port>[0-9]*))?(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?",
    re.DOTALL,
)

# What libpq takes in an address (PostgreSQL 18, "Parameter Key Words"), without what the address itself says.
_PARAMETERS = frozenset(
    """
    application_name channel_binding client_encoding connect_timeout fallback_application_name gssdelegation
    gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname
    load_balance_hosts max_protocol_version min_protocol_version options passfile port replication require_auth
    requirepeer requiressl scram_client_key scram_server_key service ssl_max_protocol_version
    ssl_min_protocol_version sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode
    sslnegotiation sslpassword sslrootcert sslsni target_session_attrs tcp_user_timeout
    """.split()  # noqa: SIM905 - a list this long reads better as text
)
_SSL_MODES = {"true": "require", "1": "require", "on": "require", "false": "disable", "0": "disable", "off": "disable"}
_KNOWN = _PARAMETERS | {"user", "password", "dbname"}
_EXAMPLE = "Enter it as postgresql://user:password@host:5432/database."


def parse_database_url(text: str) -> URL:
    """Reads an address of a PostgreSQL database and holds it against Langflow's own rules for them.

    Takes ``postgres://``, ``postgresql://``, those of SQLAlchemy's drivers and JDBC's, also as they stand in a ``psql``
    command or an environment file; percent escapes in user, password and
    database are decoded, while a password with raw ``@``, ``:``, ``/``, ``?`` or ``#`` is understood as Langflow's
    stock nodes understand it. Query parameters are libpq's (``sslmode`` and so on); asyncpg's ``ssl`` is translated.

    Looks the host's name up where Langflow's protection against server-side request forgery is on, so call it from a
    thread where a slow name server must not stop a loop.

    Returns:
        The address for the driver psycopg 3, whatever driver was asked for.

    Raises:
        InvalidInput: It is no such address, or Langflow refuses it. The message never shows the password.
    """
    url = read_database_url(text)
    _hold_against_langflow(url)
    return url


def is_pooled(url: URL) -> bool:
    """Whether an address looks like that of a pooler; where it does not, there may be one all the same."""
    return url.port in _POOLER_PORTS or bool(_POOLER.search(url.host or ""))


def redacted(url: URL) -> str:
    """``host:port/database``: all of an address that messages, logs and labels may show."""
    host = url.host or url.query.get("host") or "local socket"
    shown = f"[{host}]" if isinstance(host, str) and ":" in host else host
    return f"{shown}:{url.port or DEFAULT_PORT}/{url.database or url.username or ''}"


def fingerprint(url: URL) -> str:
    """A name for address and credential that tells neither: equal for equal addresses, also in other processes."""
    parts = (url.username, str(url.password or ""), url.host, url.port, url.database)
    query = sorted((name, tuple(values)) for name, values in url.normalized_query.items()) if url.query else ()
    return _digest(parts, tuple(query))


# Asked for several times a search, and a process knows few addresses.
@functools.lru_cache(maxsize=128)
def _digest(parts: tuple[object, ...], query: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    return hashlib.sha256(repr((parts, list(query))).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def read_database_url(text: str) -> URL:
    """``parse_database_url`` without Langflow's rules, for who runs the server and may go anywhere.

    Raises:
        InvalidInput: It is no such address. The message never shows the password.
    """
    if not isinstance(text, str) or not text.strip():
        _refuse("is empty", _EXAMPLE)
    wrapped = _WRAPPING.fullmatch(text.strip())
    text = wrapped["address"].strip() if wrapped else text.strip()
    scheme = _SCHEME.match(text)
    if scheme is None:
        name = text.split("://", 1)[0] if "://" in text else ""
        shown = f"starts with {name!r}" if re.fullmatch(r"[A-Za-z0-9+._-]{1,30}", name) else "has no known scheme"
        _refuse(f"{shown}; it is not an address of PostgreSQL", _EXAMPLE)
    if "\0" in unquote(text):
        _refuse("holds a NUL character", _EXAMPLE)
    body = text[scheme.end() :]
    cuts = [(outer, _REST.fullmatch(outer["rest"])) for cut in _CUTS if (outer := cut.fullmatch(body))]
    fitting = [(outer, rest, _query(rest["query"] or "")) for outer, rest in cuts if rest]
    if not fitting:
        _refuse("cannot be split into user, password, host, port and database", _EXAMPLE)
    outer, rest, query = next((each for each in fitting if _KNOWN.issuperset(each[2])), fitting[0])
    user, password = outer["user"], outer["password"]
    # The address itself says more than its query, as in libpq.
    said = {name: query.pop(name, "") for name in ("user", "password", "dbname")}
    user = unquote(user) if user else said["user"]
    password = unquote(password) if password else said["password"]
    database = unquote(rest["database"] or "") or said["dbname"]
    unknown = sorted(set(query) - _KNOWN)
    if unknown:
        # With more than one "@" it may be a part of the password that was cut in the wrong place.
        which = f" {unknown[0][:40]!r}" if body.count("@") <= 1 else ""
        _refuse(
            f"has a parameter{which} that PostgreSQL does not know",
            "Remove it. Limits of the pool and PgBouncer mode are inputs of the node.",
        )
    host = unquote(rest["host"].strip("[]"))
    if host.startswith("/"):  # the folder of a socket
        query.setdefault("host", host)
        host = ""
    return URL.create(
        DRIVER,
        username=user or None,
        password=password or None,
        host=host or None,
        port=_port(rest["port"]),
        database=database or None,
        query=query,
    )


def _query(text: str) -> dict[str, str]:
    query = dict(parse_qsl(text, keep_blank_values=True))
    query.pop("pgbouncer", None)  # Prisma's; we find out by ourselves, and libpq does not know it
    ssl = query.pop("ssl", None)
    if ssl is not None:
        query.setdefault("sslmode", _SSL_MODES.get(ssl.lower(), ssl))
    return query


def _port(text: str | None) -> int | None:
    if not text:
        return None
    # A longer one may be a part of a password that was cut at the wrong place, so it is not shown.
    port = int(text) if len(text) <= len("65535") else 0
    if not 1 <= port <= 65535:  # noqa: PLR2004 - the range of TCP's ports
        _refuse("has a port outside of 1 to 65535", _EXAMPLE)
    return port


def _hold_against_langflow(url: URL) -> None:
    from lfx.utils.ssrf_protection import SSRFProtectionError, validate_connector_database_url_for_ssrf

    # The check has no use for the password; what it never sees it cannot tell.
    shown = url.set(password="hidden") if url.password else url  # noqa: S106 - a stand-in
    problem = ""
    try:
        validate_connector_database_url_for_ssrf(shown.render_as_string(hide_password=False))
    except SSRFProtectionError as exc:
        problem = f"is refused by Langflow: {str(exc).rstrip('.')}"
    except ValueError:
        problem = "is refused by Langflow as malformed"
    except AttributeError:  # its settings could not be loaded; an address that nobody checked is not let through
        problem = "cannot be checked, since Langflow's settings are not there (see its log)"
    if problem:
        _refuse(problem, "Use the address of a database that Langflow may reach.")


def _refuse(problem: str, fix: str) -> NoReturn:
    msg = f"database_url {problem}."
    raise InvalidInput(msg, hint=fix)
