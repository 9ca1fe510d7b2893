"""What PostgreSQL tells of its sessions, and how it is asked.

No text of a query leaves the server: they hold users' questions and documents. What is shown of one is its command, out
of a list of known ones, and PostgreSQL's ``query_id``; whoever may read more finds it by the process id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HIDDEN = "hidden"
"""The state of a session whose role is another one's business."""
IDLE_IN_TRANSACTION = "idle in transaction"

# More than anybody reads; a server with that many blocked sessions is not asked about each of them.
MOST = 100
_COMMANDS = (
    "select|with|insert into|update|delete from|merge into|copy|fetch|declare|execute|call|do|begin|start transaction|"
    "commit|rollback|savepoint|release|set|show|explain|lock table|lock|truncate|vacuum|analyze|reindex|cluster|"
    "refresh materialized view|create unique index|create index|create table|create extension|drop index|drop table|"
    "alter table|discard|listen|notify|values"
).replace(" ", r"\s+")

# Of sessions of other roles an ordinary role sees that they are there, not what they do, and not even what kind they
# are; those with a role and a database are clients.
_IS_CLIENT = """
    (a.backend_type = 'client backend' OR a.backend_type IS NULL AND a.usesysid IS NOT NULL AND a.datid IS NOT NULL)
"""

FACTS = """
    SELECT current_setting('max_connections')::int,
           current_setting('superuser_reserved_connections')::int
               + coalesce(current_setting('reserved_connections', true), '0')::int,
           current_user,
           current_database(),
           pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
           (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
           (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
           deadlocks,
           coalesce(to_char(stats_reset, 'YYYY-MM-DD HH24:MI'), '')
    FROM pg_stat_database WHERE datname = current_database()
"""

GROUPS = f"""
    SELECT coalesce(a.application_name, ''), coalesce(a.usename::text, ''), coalesce(a.datname::text, ''),
           CASE WHEN a.query = '<insufficient privilege>' THEN '{HIDDEN}' ELSE coalesce(a.state, 'starting') END,
           count(*),
           coalesce(max(extract(epoch FROM clock_timestamp() - a.state_change)), 0)::float8
    FROM pg_stat_activity a WHERE {_IS_CLIENT}
    GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 1, 2, 3, 4
"""  # noqa: S608 - made of constants

# pg_blocking_pids stops the lock manager for a moment, so it is called for those that wait and no others.
NOTABLE = f"""
    WITH waiting AS MATERIALIZED (SELECT DISTINCT pid FROM pg_locks WHERE NOT granted LIMIT {MOST}),
         blocked AS MATERIALIZED (SELECT pid, pg_blocking_pids(pid) AS blockers FROM waiting)
    SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, ''), coalesce(a.datname::text, ''),
           CASE WHEN a.query = '<insufficient privilege>' THEN '{HIDDEN}' ELSE coalesce(a.state, 'starting') END,
           coalesce(extract(epoch FROM clock_timestamp() -
               CASE WHEN a.state = 'active' THEN a.query_start ELSE a.state_change END), 0)::float8,
           upper(regexp_replace(coalesce(substring(a.query FROM '(?i)^\\s*({_COMMANDS})\\M'), ''), '\\s+', ' ', 'g')),
           {{query_id}},
           coalesce(a.wait_event_type || ': ' || a.wait_event, ''),
           coalesce(b.blockers, '{{{{}}}}')
    FROM pg_stat_activity a LEFT JOIN blocked b USING (pid)
    WHERE {_IS_CLIENT} AND a.pid <> pg_backend_pid()
      AND (cardinality(b.blockers) > 0
           OR a.state IN ('{IDLE_IN_TRANSACTION}', '{IDLE_IN_TRANSACTION} (aborted)')
           OR a.state = 'active' AND a.query_start < clock_timestamp() - make_interval(secs => %s)
           OR a.pid IN (SELECT unnest(blockers) FROM blocked))
    ORDER BY 6 DESC LIMIT {2 * MOST}
"""  # noqa: S608 - made of constants
WITH_QUERY_ID = 140000  # the version of PostgreSQL


def notable(server_version: int) -> bytes:
    """The statement for the sessions that stand out; takes the seconds from which on a query is a long one."""
    query_id = "coalesce(a.query_id::text, '')" if server_version >= WITH_QUERY_ID else "''"
    return NOTABLE.format(query_id=query_id).encode()


@dataclass(frozen=True, slots=True)
class SessionGroup:
    """Sessions that have application, role, database and state in common.

    Attributes:
        application: ``application_name``; empty where the client gives none.
        user: Role.
        database: Its name.
        state: As PostgreSQL says, or ``hidden``.
        count: How many.
        longest_s: For how long the first of them has been in its state.
    """

    application: str
    user: str
    database: str
    state: str
    count: int
    longest_s: float


@dataclass(frozen=True, slots=True)
class Session:
    """One session that stands out.

    Attributes:
        pid: Process id on the server.
        application: As of ``SessionGroup``.
        user: Role.
        database: Its name.
        state: As of ``SessionGroup``.
        seconds: Since its query began where it is active, else for how long it has been in its state.
        command: First words of its query (``SELECT``, ``INSERT INTO``), nothing more; empty for unknown ones.
        query_id: PostgreSQL's number for queries of that form; empty where ``compute_query_id`` is off.
        waits_for: Kind and name of what the server says it waits for.
        blocked_by: Process ids of those whose locks it waits for; 0 is a prepared transaction.
    """

    pid: int
    application: str
    user: str
    database: str
    state: str
    seconds: float
    command: str
    query_id: str
    waits_for: str
    blocked_by: Sequence[int]

    @property
    def is_idle_in_transaction(self) -> bool:
        """Whether it holds a transaction open and does nothing."""
        return self.state.startswith(IDLE_IN_TRANSACTION)
