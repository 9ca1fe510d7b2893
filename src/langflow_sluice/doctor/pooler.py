"""A pooler in front of a database: found by what it does, and asked for its settings where it lets us."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langflow_sluice.doctor.connecting import Lines

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg
    from sqlalchemy import URL

PoolMode = Literal["transaction", "session", "statement", ""]

# What Langflow says at connect (``DatabaseService._get_connect_args``).
LANGFLOW_OPTIONS = "-c timezone=utc"
_CONSOLE = "pgbouncer"
_MODES: dict[str, PoolMode] = {"transaction": "transaction", "session": "session", "statement": "statement"}
_TRIES = 5
# A second client that gets no session within this time waits for one that the first one holds.
_BLOCKED_S = 3.0


@dataclass(frozen=True, slots=True)
class PoolerFacts:
    """What was seen of a pooler.

    Attributes:
        mode: After what a server connection goes to the next client; empty where it could not be told.
        refuses_options: Whether it refuses what Langflow says at connect.
        version: Of PgBouncer; empty without its console.
        settings: Its configuration by name (``SHOW CONFIG``); empty without its console.
        server_connections: To the server, for this database and role; 0 without its console.
        problem: Why its settings were not seen; empty if they were.
    """

    mode: PoolMode = ""
    refuses_options: bool = False
    version: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    server_connections: int = 0
    problem: str = ""

    def number(self, name: str) -> float | None:
        """One number of its configuration; ``None`` where it is not known."""
        try:
            return float(self.settings[name])
        except (KeyError, ValueError):
            return None


async def is_relayed(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Whether a pooler has opened this connection.

    It makes up the process id that it hands out at connect; the server tells the one that really serves us.
    """
    return await _serving(connection) != connection.info.backend_pid


async def look_at_pooler(url: URL, *, timeout_s: float) -> PoolerFacts:
    """Looks at a pooler that ``is_relayed`` has found; never raises for it."""
    refuses = False
    async with Lines(url, timeout_s) as lines:
        with contextlib.suppress(Exception):
            refuses = await lines.within(timeout_s, _refuses_options(lines))
    try:
        async with Lines(url.set(database=_CONSOLE), timeout_s) as lines:
            version, settings, databases = await lines.within(timeout_s, _console(lines))
    except Exception as exc:  # noqa: BLE001 - a console that is closed to us is the usual case
        return PoolerFacts(await _mode_by_behaviour(url, timeout_s), refuses, problem=_why(exc))
    own = databases.get(url.database or "", databases.get("*", {}))
    mode = _MODES.get(str(own.get("pool_mode") or settings.get("pool_mode")), "")
    return PoolerFacts(mode, refuses, version, settings, _server_connections(own, settings))


def _server_connections(own: Mapping[str, Any], settings: Mapping[str, str]) -> int:
    pool = int(own.get("pool_size") or settings.get("default_pool_size") or 0)
    reserve = int(own.get("reserve_pool") or own.get("reserve_pool_size") or settings.get("reserve_pool_size") or 0)
    total = pool + reserve
    most = int(own.get("max_connections") or settings.get("max_db_connections") or 0)
    return min(total, most) if most else total


async def _mode_by_behaviour(url: URL, timeout_s: float) -> PoolMode:
    try:
        async with Lines(url, timeout_s) as lines:
            return await lines.within(timeout_s + _TRIES * _BLOCKED_S, _mode(lines, url, timeout_s))
    except Exception:  # noqa: BLE001 - it could not be told, and that is what is said
        return ""


async def _mode(lines: Lines, url: URL, timeout_s: float) -> PoolMode:
    """Two clients at once: only a pooler that hands sessions on between transactions gives both the same one.

    A busy one may give each of them another every time, which no session mode does either.
    """
    import psycopg

    first = await lines.open()
    promised = await _serving(first)
    for _ in range(_TRIES):
        # Its answer to a second client may be to let it wait, for as long as the first stays.
        async with Lines(url, timeout_s) as others:
            second = await others.open()
            try:
                if await others.within(_BLOCKED_S, _serving_a_transaction(second)) == promised:
                    return "transaction"
            except asyncio.TimeoutError:
                return "session"
            except psycopg.Error as exc:
                if "statement pooling mode" in str(exc):
                    return "statement"
                raise
        if await _serving(first) != promised:
            return "transaction"
    return "session"


async def _refuses_options(lines: Lines) -> bool:
    import psycopg

    try:
        await lines.open(options=LANGFLOW_OPTIONS)
    except psycopg.OperationalError as exc:
        return "startup parameter" in str(exc)
    return False


async def _console(lines: Lines) -> tuple[str, dict[str, str], dict[str, dict[str, Any]]]:
    console = await lines.open()
    version = await _show(console, "VERSION")
    config = await _show(console, "CONFIG")
    databases = await _show(console, "DATABASES")
    settings = {row["key"]: str(row["value"] or "") for row in config}
    words = str(next(iter(version[0].values()), "")) if version else ""
    return words.removeprefix("PgBouncer ").strip(), settings, {row["name"]: row for row in databases}


async def _show(console: psycopg.AsyncConnection[Any], what: str) -> list[dict[str, Any]]:
    cursor = await console.execute(f"SHOW {what}")
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


async def _serving_a_transaction(connection: psycopg.AsyncConnection[Any]) -> int:
    await connection.execute("BEGIN")
    return await _serving(connection)


async def _serving(connection: psycopg.AsyncConnection[Any]) -> int:
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    return int(row[0]) if row else 0


def _why(exc: BaseException) -> str:
    if isinstance(exc, asyncio.TimeoutError):
        return "its console did not answer"
    if "not allowed" in str(exc):
        return "this role is neither in its stats_users nor in its admin_users"
    return f"its console did not let us in ({type(exc).__name__})"
