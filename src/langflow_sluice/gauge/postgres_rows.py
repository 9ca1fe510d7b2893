"""What the database told as a flat table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langflow_sluice.gauge.reading import NO_DATABASE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langflow_sluice.gauge.database import DatabaseFigures
    from langflow_sluice.gauge.reading import Reading
    from langflow_sluice.gauge.sessions import Session

COLUMNS = (
    "what",
    "name",
    "count",
    "pid",
    "application",
    "user",
    "database",
    "state",
    "seconds",
    "command",
    "query_id",
    "waits_for",
    "blocked_by",
)


def postgres_rows(reading: Reading) -> list[dict[str, Any]]:
    """Rows by ``what``: connections, state, application, long-running, blocked, idle in transaction, deadlocks, note.

    ``connections`` are in use, available (to ordinary roles), reserved, and free (to the role that looked). A session
    stands in several rows if it is several things. Of queries there is the command, never the text. What a row does
    not have is None. There is always a row: a note where no database was looked at, a problem where it did not answer.
    """
    return [{**dict.fromkeys(COLUMNS), **row} for row in _rows(reading.database)]


def _rows(database: DatabaseFigures | None) -> Iterator[dict[str, Any]]:
    if database is None:
        yield {"what": "note", "name": NO_DATABASE}
        return
    if database.problem:
        yield {"what": "problem", "name": f"{database.problem} {database.fix}".rstrip(), "database": database.where}
        return
    for name in ("used", "available", "reserved", "free"):
        shown = "in use" if name == "used" else name
        yield {"what": "connections", "name": shown, "count": getattr(database, name), "database": database.where}
    for state, count in database.by_state().items():
        yield {"what": "state", "name": state, "count": count, "state": state}
    for group in database.groups:
        yield {
            "what": "application",
            "name": group.application,
            "count": group.count,
            "application": group.application,
            "user": group.user,
            "database": group.database,
            "state": group.state,
            "seconds": round(group.longest_s, 3),
        }
    for what, sessions in (
        ("long-running", database.long_running),
        ("blocked", database.blocked),
        ("idle in transaction", database.idle_in_transaction),
    ):
        for session in sessions:
            yield {"what": what, "name": session.application, "count": 1, **_session(session)}
    yield {
        "what": "deadlocks",
        "name": f"since {database.deadlocks_since or 'the start of the server'}",
        "count": database.deadlocks,
        "database": database.database,
    }
    for note in database.notes():
        yield {"what": "note", "name": note}


def _session(session: Session) -> dict[str, Any]:
    return {
        "pid": session.pid,
        "application": session.application,
        "user": session.user,
        "database": session.database,
        "state": session.state,
        "seconds": round(session.seconds, 3),
        "command": session.command,
        "query_id": session.query_id,
        "waits_for": session.waits_for,
        "blocked_by": ", ".join(map(str, session.blocked_by)),
    }
