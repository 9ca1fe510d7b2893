"""Errors of Redis and its Python client."""

from __future__ import annotations

from langflow_sluice.explain.diagnosis import Diagnosis, Recogniser, recogniser

REDIS = "Redis"
_URL = "LANGFLOW_REDIS_QUEUE_URL, LANGFLOW_REDIS_URL or LANGFLOW_REDIS_HOST and LANGFLOW_REDIS_PORT"

UNREACHABLE = recogniser(
    Diagnosis(
        "redis_unreachable",
        REDIS,
        "Redis cannot be connected to.",
        "Check that it runs and that host and port are right; with more than one worker Langflow needs it.",
        (_URL, "LANGFLOW_JOB_QUEUE_TYPE"),
        is_load=False,
    ),
    r"\bError -?\d{1,6} connecting to [^\s,]{1,80}[,:]\d{1,5}\.|\bECONNREFUSED\b.{0,80}:6379\b"
    r"|Connect call failed \('[^']{1,60}', 6379\)|Error connecting to \S{1,200}:6379",
    ("connecting to ", "econnrefused", "connect call failed"),
)
TIMEOUT = recogniser(
    Diagnosis(
        "redis_timeout",
        REDIS,
        "Redis did not answer within its client's socket timeout.",
        "Look for slow commands (SLOWLOG GET) and for a blocked event loop in Langflow, which makes answers late too.",
        (_URL, "the client's socket_timeout"),
    ),
    r"\bredis\.exceptions\.TimeoutError\b|Timeout reading from \S{1,200}:6379|Timeout connecting to server$",
    ("redis.exceptions.timeouterror", "timeout reading from", "timeout connecting to server"),
)

RECOGNISERS: tuple[Recogniser, ...] = (
    recogniser(
        Diagnosis(
            "redis_max_clients",
            REDIS,
            "Redis has as many clients as its maxclients allows, and takes no more.",
            "Find who holds them (CLIENT LIST) and give that client a bounded pool; raise maxclients only after that.",
            ("Redis: maxclients (and the server's limit of open files)", "LANGFLOW_WORKERS: each has its own pool"),
        ),
        r"max number of clients reached",
        ("max number of clients",),
    ),
    recogniser(
        Diagnosis(
            "redis_pool_exhausted",
            "redis-py's pool of connections",
            "All connections of the Redis client's pool were in use, and this pool raises instead of waiting.",
            "Use a BlockingConnectionPool, raise max_connections, or let fewer callers in at once.",
            ("the code or URL that makes the client: max_connections", "Concurrency Gate around what uses it"),
        ),
        r"\bredis\.(?:\w{1,30}\.){0,3}(?:Max)?Connection(?:s)?Error: Too many connections|\bMaxConnectionsError\b"
        r"|\bConnectionError: No connection available\.",
        ("too many connections", "maxconnectionserror", "no connection available"),
    ),
    recogniser(
        Diagnosis(
            "redis_out_of_memory",
            REDIS,
            "Redis has used up its maxmemory and refuses to write.",
            "Raise maxmemory, or let keys expire; jobs and results that nobody reads stay.",
            ("Redis: maxmemory, maxmemory-policy",),
        ),
        r"OOM command not allowed when used memory",
        ("oom command not allowed",),
    ),
    UNREACHABLE,
    TIMEOUT,
)
