"""Errors of PostgreSQL, of poolers in front of it, of the pools of its clients, and of SQLite."""

from __future__ import annotations

import sqlalchemy.exc

from langflow_sluice.explain.diagnosis import Diagnosis, Recogniser, diagnosed, own_words, recogniser
from langflow_sluice.postgres.failures import translate

POSTGRES = "PostgreSQL"
_POOLER = "PgBouncer or another pooler"
_LANGFLOWS_POOL = (
    "LANGFLOW_DB_CONNECTION_SETTINGS: pool_size, max_overflow, pool_timeout (Langflow's own pool, per worker)"
)
_NODES_POOL = "Pooled PG Retriever and Pooled PG Writer: pool_size, max_overflow, pool_timeout"
_SHARE = (
    "LANGFLOW_DB_CONNECTION_SETTINGS: pool_size + max_overflow, times LANGFLOW_WORKERS",
    "Pooled PG Retriever and Pooled PG Writer: pool_size, max_overflow; SLUICE_MAX_DB_CONNECTIONS",
    "stock PGVector nodes: replace them, each search opens connections of its own",
)
_PREPARED = (
    "Pooled PG Retriever and Pooled PG Writer: pgbouncer = on",
    "Langflow's own database: LANGFLOW_DB_DRIVER_CONNECTION_SETTINGS prepare_threshold null",
    "PgBouncer: 1.22 or later with max_prepared_statements above 0, or pool_mode = session",
)
_ADDRESS = ("LANGFLOW_DATABASE_URL, or database_url of the node: host and port",)


class _Refusal(Exception):
    """What PostgreSQL says, as psycopg's errors carry it."""

    def __init__(self, sqlstate: str, words: str) -> None:
        super().__init__(words)
        self.sqlstate = sqlstate


def _recogniser(
    cause: str,
    error: Exception,
    where: tuple[str, ...],
    pattern: str,
    words: tuple[str, ...],
    *,
    dependency: str = POSTGRES,
    more: str = "",
    vague: bool = False,
    is_load: bool = True,
    with_own: bool = True,
) -> Recogniser:
    failure = translate(error, target=POSTGRES)
    own = own_words(failure, POSTGRES, str(error) or "\0") if with_own else ""
    diagnosis = diagnosed(cause, dependency, failure, where, more=more, is_load=is_load)
    return recogniser(diagnosis, pattern, words, own=own, vague=vague)


UNREACHABLE = _recogniser(
    "database_unreachable",
    _Refusal("08006", "it cannot be connected to"),
    _ADDRESS,
    r"connection to server (?:at|on) .{1,200} failed: (?:could not receive data from server: )?"
    r"(?:Connection refused|timeout)"
    r"|could not connect to server: Connection (?:refused|timed out)|\bECONNREFUSED\b.{0,80}:(?:5432|6432)\b"
    r"|could not translate host name .{1,200} to address|connection timeout expired"
    r"|(?:5432|6432)['\"]?\)?\W{0,3} ?\[Errno 111\]|Connect call failed \('[^']{1,60}', (?:5432|6432)\)",
    (
        "connection to server",
        "could not connect to server",
        "econnrefused",
        "could not translate host name",
        "connection timeout expired",
        "errno 111",
        "connect call failed",
    ),
    is_load=False,
)

RECOGNISERS: tuple[Recogniser, ...] = (
    _recogniser(
        "sqlalchemy_pool_timeout",
        sqlalchemy.exc.TimeoutError(),
        (_LANGFLOWS_POOL, _NODES_POOL),
        r"\bQueuePool limit of size \d{1,6} overflow -?\d{1,6} reached",
        ("queuepool limit",),
        dependency="SQLAlchemy's pool of database connections",
        more="Workers x (pool_size + max_overflow) must stay below the server's max_connections: sluice doctor does"
        " the sum.",
    ),
    recogniser(
        Diagnosis(
            "psycopg_pool_timeout",
            "psycopg_pool's pool of database connections",
            "No connection of psycopg_pool's pool came free within its timeout: all are in use, or none can be opened.",
            "Raise max_size or timeout of the pool, or let fewer callers in at once. Where the log has errors of"
            " connecting, mend those first.",
            ("the code that made the pool: max_size, timeout, max_waiting", _NODES_POOL),
            code="pool_timeout",
        ),
        r"couldn't get a connection after \d{1,9}(?:\.\d{1,9})? sec"
        r"|\bthe pool .{1,120} has already \d{1,9} requests waiting",
        ("couldn't get a connection after", "requests waiting"),
    ),
    _recogniser(
        "query_wait_timeout",
        _Refusal("08P01", "query_wait_timeout"),
        ("PgBouncer: default_pool_size, reserve_pool_size, query_wait_timeout", *_SHARE[:2]),
        r"(?:pooler error:|closing because:|ProtocolViolation[):]|FATAL:|ERROR:) {0,4}query_wait_timeout\b",
        ("query_wait_timeout",),
        dependency="PgBouncer",
    ),
    _recogniser(
        "pooler_full",
        _Refusal("53300", "no more connections allowed"),
        ("PgBouncer: max_client_conn; Supabase: the pool's size, or its transaction mode (port 6543)", *_SHARE[:2]),
        r"no more connections allowed(?: \(max_client_conn\))?|\bMaxClientsInSessionMode\b"
        r"|max client connections reached|too many (?:server )?connections for pool",
        (
            "no more connections allowed",
            "maxclientsinsessionmode",
            "max client connections reached",
            "connections for pool",
        ),
        dependency=_POOLER,
        with_own=False,
    ),
    _recogniser(
        "connection_slots_reserved",
        _Refusal("53300", "remaining connection slots are reserved"),
        (*_SHARE, "PostgreSQL: max_connections less superuser_reserved_connections"),
        r"remaining connection slots are reserved for",
        ("remaining connection slots",),
        with_own=False,
    ),
    _recogniser(
        "too_many_clients",
        _Refusal("53300", "too many clients already"),
        (*_SHARE, "PostgreSQL: max_connections"),
        r"sorry, too many clients already|\bTooManyConnectionsError\b|too many connections for (?:role|database) ",
        ("too many clients already", "toomanyconnectionserror", "too many connections for"),
    ),
    _recogniser(
        "prepared_statement_exists",
        _Refusal("42P05", "prepared statement exists"),
        _PREPARED,
        r"prepared statement .{1,100} already exists|prepared statement name is already in use",
        ("prepared statement",),
        dependency=_POOLER,
        with_own=False,
    ),
    _recogniser(
        "prepared_statement_missing",
        _Refusal("26000", "prepared statement is missing"),
        _PREPARED,
        r"(?:unnamed )?prepared statement (?:.{1,100} )?does not exist|\bInvalidSqlStatementName\b",
        ("prepared statement", "invalidsqlstatementname"),
        dependency=_POOLER,
    ),
    _recogniser(
        "statement_timeout",
        _Refusal("57014", "statement timeout"),
        (
            "Pooled PG Retriever and Pooled PG Writer: statement_timeout; exact = off with an index",
            "PostgreSQL: statement_timeout of the role or the database",
        ),
        r"canceling statement due to statement timeout",
        ("due to statement timeout",),
    ),
    _recogniser(
        "lock_timeout",
        _Refusal("55P03", "a lock was not to be had"),
        ("Pressure Gauge: it lists blocked queries, and who blocks them", "PostgreSQL: lock_timeout"),
        r"canceling statement due to lock timeout|could not obtain lock on (?:row in )?relation"
        r"|\bLockNotAvailable(?:Error)?\b",
        ("due to lock timeout", "could not obtain lock", "locknotavailable"),
    ),
    _recogniser(
        "database_deadlock",
        _Refusal("40P01", "deadlock detected"),
        (
            "LANGFLOW_MAX_TRANSACTIONS_TO_KEEP, LANGFLOW_MAX_VERTEX_BUILDS_TO_KEEP",
            "Pooled PG Writer: max_concurrency",
            "Concurrency Gate around what writes",
        ),
        # Python's import system has the same words for its own locks.
        r"\bdeadlock detected\b(?! by _ModuleLock)|\bDeadlockDetected(?:Error)?\b",
        ("deadlock detected", "deadlockdetected"),
        more="If Langflow's own tables are named (transaction, vertex_build), its bookkeeping collides in a burst.",
    ),
    _recogniser(
        "idle_in_transaction_timeout",
        _Refusal("25P03", "idle-in-transaction timeout"),
        (
            "the node that talks to the database and calls a model in between: split it in two",
            "PostgreSQL: idle_in_transaction_session_timeout",
        ),
        r"terminating connection due to idle-in-transaction timeout|\bIdleInTransactionSessionTimeout(?:Error)?\b",
        ("idle-in-transaction", "idleintransactionsessiontimeout"),
        more="A blocked event loop (synchronous code in a node) holds transactions open, too.",
    ),
    _recogniser(
        "database_credential",
        _Refusal("28P01", "password authentication failed"),
        ("LANGFLOW_DATABASE_URL, or database_url of the node: user and password",),
        r"password authentication failed for user|no password supplied|no pg_hba\.conf entry for",
        ("password authentication failed", "no password supplied", "pg_hba.conf"),
        is_load=False,
    ),
    _recogniser(
        "vector_dimensions",
        _Refusal("22000", "different vector dimensions"),
        ("Pooled PG Retriever and Pooled PG Writer: embedding, collection_name",),
        r"different vector dimensions \d{1,6} and \d{1,6}|expected \d{1,6} dimensions, not \d{1,6}",
        ("vector dimensions", "dimensions, not"),
        is_load=False,
    ),
    _recogniser(
        "missing_pgvector",
        _Refusal("42704", 'type "vector" does not exist'),
        ("PostgreSQL: CREATE EXTENSION vector",),
        r"type \"vector\" does not exist|extension \"vector\" is not available",
        ('"vector"',),
        is_load=False,
    ),
    UNREACHABLE,
    _recogniser(
        "database_closed_connection",
        _Refusal("57P01", "the connection was closed"),
        (
            "LANGFLOW_DB_CONNECTION_SETTINGS and the Pooled PG nodes: pool_pre_ping, pool_recycle",
            "PostgreSQL's and the pooler's own log: why they closed it",
        ),
        r"server closed the connection unexpectedly|terminating connection due to administrator command"
        r"|the database system is (?:starting up|shutting down|in recovery mode)"
        r"|SSL connection has been closed unexpectedly"
        r"|connection was closed in the middle of operation|the connection is (?:closed|lost)$",
        (
            "server closed the connection",
            "administrator command",
            "the database system is",
            "closed unexpectedly",
            "closed in the middle of operation",
            "the connection is ",
        ),
        vague=True,
        with_own=False,
        more="Now and then only: a connection that was idle was closed on the way.",
    ),
    recogniser(
        Diagnosis(
            "sqlite_locked",
            "SQLite",
            "Several writers met on Langflow's SQLite file, which takes one at a time.",
            "Use PostgreSQL for Langflow's own database; SQLite is for one user.",
            ("LANGFLOW_DATABASE_URL: postgresql://...", "LANGFLOW_WORKERS: 1 for as long as it is SQLite"),
        ),
        r"OperationalError\W{1,4}database (?:table |schema )?is locked|\bSQLITE_BUSY\b",
        ("is locked", "sqlite_busy"),
    ),
)
