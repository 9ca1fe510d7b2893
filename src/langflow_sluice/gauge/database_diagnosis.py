"""What the connections of a PostgreSQL say about who holds it up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.gauge.pressure import Pressure, Severity
from langflow_sluice.gauge.words import amount, duration, name, verb
from langflow_sluice.postgres.opening import APPLICATION_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langflow_sluice.gauge.database import DatabaseFigures
    from langflow_sluice.gauge.sessions import Session, SessionGroup

# A share of the connections from which on a burst may find none.
NEARLY_ALL = 0.8
# A transaction that is open and idle for longer than any node needs between two statements.
IDLE_IN_TRANSACTION_S = 60.0


def database_pressure(database: DatabaseFigures) -> Iterator[Pressure]:
    """What is the matter with a database."""
    where = f"PostgreSQL {name(database.where)}"
    if database.problem:
        fix = database.fix.rstrip(".") or "See the server's log"
        yield Pressure(Severity.FAILING, where, database.problem.rstrip("."), fix, affected=float("inf"))
        return
    yield from _connections(database, where)
    yield from _blocked(database, where)
    yield from _idle_in_transaction(database, where)
    yield from _long_running(database, where)
    if database.deadlocks:
        since = f" since {database.deadlocks_since}" if database.deadlocks_since else ""
        yield Pressure(
            Severity.NOTE,
            where,
            f"{amount(database.deadlocks, 'deadlock')}{since}",
            "Let all that write the same rows take them in one order, or write them in one place; the server's log"
            " tells the statements",
            affected=database.deadlocks,
        )


def _connections(database: DatabaseFigures, where: str) -> Iterator[Pressure]:
    used, available, free = database.used, database.available, database.free
    if free > (1 - NEARLY_ALL) * available:
        return
    limits = [f"{used} of {available} connections used"]
    if database.reserved:
        limits.append(f"{database.reserved} more are reserved for superusers")
    if free < available - used:
        limits.append(f"the limit of the role or the database leaves {free}")
    idle = _most(group for group in database.groups if group.state == "idle")
    change = "Make pools smaller, put PgBouncer in front, or raise max_connections"
    if idle is not None:
        limits.append(f"{idle.count} idle from {_application(idle.application, idle.user)}")
        change = _for_idle(idle)
    yield Pressure(
        Severity.FAILING if not free else Severity.PRESSURE,
        where,
        ", ".join(limits),
        change,
        affected=used,
    )


def _for_idle(idle: SessionGroup) -> str:
    if idle.application == APPLICATION_NAME:
        return (
            "Lower pool_size of the nodes (idle connections up to it are kept), or SLUICE_MAX_DB_CONNECTIONS for each"
            " worker; or raise max_connections"
        )
    return (
        "Make that application's pool smaller or let it close idle connections (Langflow's own:"
        " LANGFLOW_DB_CONNECTION_SETTINGS, for each worker), put PgBouncer in front, or raise max_connections"
    )


def _blocked(database: DatabaseFigures, where: str) -> Iterator[Pressure]:
    known = {session.pid: session for session in database.notable}
    for blocker, held in _by_root(database.blocked).items():
        longest_s = max(session.seconds for session in held)
        waiting = f"{amount(len(held), 'session')} {verb(len(held), 'waits', 'wait')} for locks"
        root = known.get(blocker)
        told = f"{waiting} (the longest for {duration(longest_s)}), held by {_named(blocker, root)}"
        if root is not None and root.is_idle_in_transaction:
            change = (
                "Let that client commit before it does anything else; set idle_in_transaction_session_timeout, so that"
                f" the server ends such a session; at once: SELECT pg_terminate_backend({blocker})"
            )
        elif not blocker:
            change = "Finish it with COMMIT PREPARED or ROLLBACK PREPARED (see pg_prepared_xacts)"
        else:
            change = (
                "Write in smaller transactions, at other times, or without the lock (CREATE INDEX CONCURRENTLY);"
                f" lock_timeout bounds the wait; at once: SELECT pg_cancel_backend({blocker})"
            )
        yield Pressure(Severity.FAILING, where, told, change, affected=len(held))


def _by_root(blocked: Sequence[Session]) -> dict[int, list[Session]]:
    """Those that wait, by who is at the end of their queue: who waits for one that waits itself is held by another."""
    blockers = {session.pid: session.blocked_by for session in blocked}
    found: dict[int, list[Session]] = {}
    for session in blocked:
        pid, seen = session.blocked_by[0], {session.pid}
        while pid in blockers and pid not in seen:
            seen.add(pid)
            pid = blockers[pid][0]
        found.setdefault(pid, []).append(session)
    return found


def _idle_in_transaction(database: DatabaseFigures, where: str) -> Iterator[Pressure]:
    old = [session for session in database.idle_in_transaction if session.seconds >= IDLE_IN_TRANSACTION_S]
    if not old:
        return
    first = old[0]
    holding = {pid for session in database.blocked for pid in session.blocked_by} & {session.pid for session in old}
    held = sum(bool(holding.intersection(session.blocked_by)) for session in database.blocked)
    yield Pressure(
        Severity.FAILING if held else Severity.PRESSURE,
        where,
        f"{len(old)} idle in transaction for more than {duration(IDLE_IN_TRANSACTION_S)}"
        + (f" {verb(len(old), 'blocks', 'block')} {amount(held, 'session')}" if held else "")
        + f", the longest for {duration(first.seconds)}: {_named(first.pid, first)}",
        "Let those clients commit or roll back before they wait for anything else, such as a model; set"
        " idle_in_transaction_session_timeout on the server",
        affected=len(old),
    )


def _long_running(database: DatabaseFigures, where: str) -> Iterator[Pressure]:
    working = [session for session in database.long_running if not session.blocked_by]
    if not working:
        return
    first = working[0]
    number = f", query_id {first.query_id}" if first.query_id else ""
    yield Pressure(
        Severity.PRESSURE,
        where,
        f"{amount(len(working), 'query', 'queries')} running for more than {duration(database.long_running_s)}, the"
        f" longest for {duration(first.seconds)}: {_named(first.pid, first)}{number}",
        "Look up its text by that process id in pg_stat_activity and whether it lacks an index, or end such queries"
        " sooner with statement_timeout",
        affected=len(working),
    )


def _named(pid: int, session: Session | None) -> str:
    if not pid:
        return "a prepared transaction"
    if session is None:
        return f"process {pid}"
    doing = " ".join(filter(None, (session.state, session.command and f"({session.command})")))
    return f"process {pid}, {doing}, from {_application(session.application, session.user)}"


def _application(application: str, user: str) -> str:
    known = f"application {name(application)}" if application else "an application without a name"
    return f"{known}, user {name(user)}" if user else known


def _most(groups: Iterator[SessionGroup]) -> SessionGroup | None:
    return max(groups, key=lambda group: group.count, default=None)
