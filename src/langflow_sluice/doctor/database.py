"""What a PostgreSQL says of itself: its limits, who is connected, idle transactions, pgvector."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from langflow_sluice.doctor.connecting import Lines
from langflow_sluice.doctor.pooler import PoolerFacts, is_relayed, look_at_pooler
from langflow_sluice.postgres.url import redacted

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from sqlalchemy import URL

T = TypeVar("T")

_FACTS = """
    SELECT pg_postmaster_start_time()::text || ' ' || coalesce(inet_server_port(), 0),
           current_setting('server_version'),
           current_setting('max_connections')::int,
           current_setting('superuser_reserved_connections')::int
               + coalesce(current_setting('reserved_connections', true), '0')::int,
           (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
           (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
           (SELECT setting::bigint FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'),
           (SELECT default_version FROM pg_available_extensions WHERE name = 'vector'),
           (SELECT extversion FROM pg_extension WHERE extname = 'vector')
"""
# Of sessions of other roles an ordinary role sees that they are there, not what they do.
_SESSIONS = """
    SELECT count(*),
           count(*) FILTER (WHERE state LIKE 'idle in transaction%'),
           coalesce(max(extract(epoch FROM clock_timestamp() - state_change))
               FILTER (WHERE state LIKE 'idle in transaction%'), 0)
    FROM pg_stat_activity
    -- Who may not see everything is told nothing of other roles' sessions but that they have a user and a database.
    WHERE (backend_type = 'client backend' OR backend_type IS NULL AND usesysid IS NOT NULL AND datid IS NOT NULL)
      AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What was seen of one database.

    Attributes:
        where: Its address, as far as it may be shown.
        key: Tells pools of a pooler apart: host, port, user and database.
        problem: Why nothing was seen; empty if all was.
        hint: What to do about that.
        server: Tells its server from others, also through a pooler.
        version: Of the server.
        max_connections: What the server takes.
        reserved: Of these, kept for superusers and such.
        role_limit: Of the role; -1 for none.
        database_limit: Of the database; -1 for none.
        connected: Sessions of other clients now.
        idle_in_transaction: Of these, idle within a transaction.
        longest_idle_s: Since when the longest of them has been.
        idle_timeout_ms: After which the server ends such a session; 0 never.
        vector_available: Version of pgvector that the server could offer; empty for none.
        vector_installed: Version of pgvector in this database; empty for none.
        pooler: What stands in front; ``None`` for nothing.
    """

    where: str
    key: tuple[object, ...]
    problem: str = ""
    hint: str = ""
    server: str = ""
    version: str = ""
    max_connections: int = 0
    reserved: int = 0
    role_limit: int = -1
    database_limit: int = -1
    connected: int = 0
    idle_in_transaction: int = 0
    longest_idle_s: float = 0.0
    idle_timeout_ms: int = 0
    vector_available: str = ""
    vector_installed: str = ""
    pooler: PoolerFacts | None = None

    @property
    def reached(self) -> bool:
        """Whether the database answered."""
        return not self.problem


def look_at_database(url: URL, *, timeout_s: float) -> DatabaseFacts:
    """Asks a database about itself, and what stands in front of it; changes nothing and never raises for it.

    Call it from a thread without a running loop.

    Args:
        url: The database.
        timeout_s: Seconds for all that is asked of the server, and again for the pooler.
    """
    found, relayed = _run(_database(url, timeout_s))
    return replace(found, pooler=_run(look_at_pooler(url, timeout_s=timeout_s))) if relayed else found


def _run(work: Coroutine[Any, Any, T]) -> T:
    # psycopg does without the loop that Windows has by default.
    loop = asyncio.SelectorEventLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


async def _database(url: URL, timeout_s: float) -> tuple[DatabaseFacts, bool]:
    from langflow_sluice.postgres.failures import translate

    nothing = DatabaseFacts(where=redacted(url), key=(url.host, url.port, url.username, url.database))
    try:
        async with Lines(url, timeout_s) as lines:
            facts, sessions, relayed = await lines.within(timeout_s, _ask(lines))
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is what the doctor has to say
        if isinstance(exc, asyncio.TimeoutError):
            problem = f"{nothing.where} did not answer within {timeout_s:g} s."
            return replace(nothing, problem=problem, hint="Look whether it is overloaded, or raise --timeout."), False
        told = translate(exc, target=nothing.where)
        return replace(nothing, problem=told.message, hint=told.hint), False
    server, version, most, reserved, role_limit, database_limit, idle_timeout, available, installed = facts
    seen = replace(
        nothing,
        server=server,
        version=version,
        max_connections=most,
        reserved=reserved,
        role_limit=-1 if role_limit is None else role_limit,
        database_limit=-1 if database_limit is None else database_limit,
        idle_timeout_ms=idle_timeout,
        vector_available=available or "",
        vector_installed=installed or "",
        connected=sessions[0],
        idle_in_transaction=sessions[1],
        longest_idle_s=float(sessions[2]),
    )
    return seen, relayed


async def _ask(lines: Lines) -> tuple[Sequence[Any], Sequence[Any], bool]:
    connection = await lines.open()
    facts = await (await connection.execute(_FACTS)).fetchone()
    sessions = await (await connection.execute(_SESSIONS)).fetchone()
    return facts or (), sessions or (), await is_relayed(connection)
