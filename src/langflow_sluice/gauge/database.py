"""What a PostgreSQL tells of its connections, read over the pools that nodes use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from langflow_sluice.gauge.sessions import FACTS, GROUPS, HIDDEN, Session, SessionGroup, notable
from langflow_sluice.postgres.engines import connection, engine_at_hand, engine_for, pool_of
from langflow_sluice.postgres.failures import translate
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import is_pooled, redacted

if TYPE_CHECKING:
    from sqlalchemy import URL

STATEMENT_TIMEOUT_S = 5.0
"""For each of the gauge's own statements; a server that takes longer for them needs no more work."""
# One connection for all gauges of a process, where none of its pools has one to spare.
_OWN_POOL = PoolSettings(
    pool_size=1, max_overflow=0, pool_timeout_s=10.0, statement_timeout_s=STATEMENT_TIMEOUT_S, connect_timeout_s=5
)


@dataclass(frozen=True, slots=True)
class DatabaseFigures:
    """A PostgreSQL at one moment.

    Attributes:
        where: ``host:port/database``.
        problem: Why nothing was seen; empty if something was.
        fix: What to do about that.
        max_connections: What the server takes.
        reserved: Of these, kept for superusers and such.
        user: The role that looked.
        database: The database that it looked from.
        sees_all: Whether the role may see what sessions of other roles do.
        user_limit: Connections that the role may have; -1 for any number.
        database_limit: Connections to that database; -1 for any number.
        deadlocks: In that database, since ``deadlocks_since``.
        deadlocks_since: When the server's statistics began; empty for its start.
        groups: All client sessions, the one that looked among them; the largest groups first.
        notable: Long-running, blocked, blocking and idle in transaction, the longest first.
        through_pooler: Whether a pooler is in between, whose waiting clients the server does not know.
        long_running_s: From when on a query is a long one.
    """

    where: str
    problem: str = ""
    fix: str = ""
    max_connections: int = 0
    reserved: int = 0
    user: str = ""
    database: str = ""
    sees_all: bool = True
    user_limit: int = -1
    database_limit: int = -1
    deadlocks: int = 0
    deadlocks_since: str = ""
    groups: tuple[SessionGroup, ...] = ()
    notable: tuple[Session, ...] = ()
    through_pooler: bool = False
    long_running_s: float = 0.0

    @property
    def available(self) -> int:
        """Connections for ordinary roles."""
        return self.max_connections - self.reserved

    @property
    def used(self) -> int:
        """Connections of clients, that of the gauge among them."""
        return sum(group.count for group in self.groups)

    @property
    def free(self) -> int:
        """Connections that the role could still open: what the server, the role and the database leave."""
        left = [self.available - self.used]
        if self.user_limit >= 0:
            left.append(self.user_limit - sum(group.count for group in self.groups if group.user == self.user))
        if self.database_limit >= 0:
            here = sum(group.count for group in self.groups if group.database == self.database)
            left.append(self.database_limit - here)
        return max(0, min(left))

    @property
    def blocked(self) -> tuple[Session, ...]:
        """Those that wait for others' locks."""
        return tuple(session for session in self.notable if session.blocked_by)

    @property
    def idle_in_transaction(self) -> tuple[Session, ...]:
        """Those that hold a transaction open and do nothing."""
        return tuple(session for session in self.notable if session.is_idle_in_transaction)

    @property
    def long_running(self) -> tuple[Session, ...]:
        """Those at work on one query for long; those that wait for a lock meanwhile too."""
        return tuple(
            session for session in self.notable if session.state == "active" and session.seconds >= self.long_running_s
        )

    def by_state(self) -> dict[str, int]:
        """Connections by state, the most first."""
        found: dict[str, int] = {}
        for group in self.groups:
            found[group.state] = found.get(group.state, 0) + group.count
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def notes(self) -> list[str]:
        """What it could not see, in sentences."""
        hidden = self.by_state().get(HIDDEN, 0)
        told = []
        if hidden:
            told.append(
                f"The role {self.user} may not see what {hidden} of {self.used} connections do, which are other"
                f" roles'; let a superuser run GRANT pg_monitor TO {self.user} to show them."
            )
        if self.through_pooler:
            told.append(
                f"A pooler stands in front of {self.where}: the connections are those that it has opened, and who"
                " waits for one of them waits in the pooler, unseen from here (SHOW POOLS on its admin console)."
            )
        return told


async def look_at_database(url: URL, *, long_running_s: float) -> DatabaseFigures:
    """Asks a database who is connected and what holds them up; changes nothing.

    It borrows a connection that a pool of this process has open and nobody uses; only where there is none it opens
    one, in a pool of one connection, within the operator's limit. One transaction for all, so that it works through
    poolers too and tells of one moment. Cancelled, it gives the connection back. Any loop.

    Args:
        url: From ``parse_database_url``.
        long_running_s: From when on a query is a long one.

    Returns:
        What was seen, or why nothing was; it raises for neither.
    """
    nothing = DatabaseFigures(where=redacted(url), long_running_s=long_running_s)
    try:
        return await _look(url, nothing)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is what the gauge has to say
        told = translate(exc, target=nothing.where)
        return replace(nothing, problem=told.message, fix=told.hint)


async def _look(url: URL, nothing: DatabaseFigures) -> DatabaseFigures:
    engine = engine_at_hand(url) or engine_for(url, replace(_OWN_POOL, pgbouncer=is_pooled(url)))
    async with connection(engine) as driver:
        # Settings for this transaction only: the connection may be any node's, and may change behind a pooler.
        await driver.execute(
            f"BEGIN READ ONLY; SET LOCAL statement_timeout = {round(STATEMENT_TIMEOUT_S * 1000)}".encode(),
            prepare=False,
        )
        facts = await (await driver.execute(FACTS, prepare=False)).fetchone()
        groups = await (await driver.execute(GROUPS.encode(), prepare=False)).fetchall()
        statement = notable(driver.info.server_version)
        sessions = await (await driver.execute(statement, (nothing.long_running_s,), prepare=False)).fetchall()
        await driver.execute("COMMIT", prepare=False)
    if facts is None:
        return nothing
    most, reserved, user, database, sees_all, user_limit, database_limit, deadlocks, since = facts
    return replace(
        nothing,
        max_connections=most,
        reserved=reserved,
        user=user,
        database=database,
        sees_all=sees_all,
        user_limit=user_limit if user_limit is not None else -1,
        database_limit=database_limit if database_limit is not None else -1,
        deadlocks=deadlocks,
        deadlocks_since=since,
        groups=tuple(SessionGroup(*row) for row in groups),
        notable=tuple(Session(*row) for row in sessions),
        through_pooler=pool_of(engine).settings.pgbouncer,
    )
