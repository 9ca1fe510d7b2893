"""All recognisers in the order in which they are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.explain import database, langflow, provider, redis, runtime, sluice

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence

    from langflow_sluice.explain.diagnosis import Diagnosis, Recogniser

# A line that names both a database's error and what became of it is about the former; what is said of the way (names,
# certificates) tells more than the client's own word that it did not get through.
_PROVIDER_FIRST = tuple(each for each in provider.RECOGNISERS if not each.vague)
_PROVIDER_LAST = tuple(each for each in provider.RECOGNISERS if each.vague)
_DATABASE_FIRST = tuple(each for each in database.RECOGNISERS if not each.vague)
_DATABASE_LAST = tuple(each for each in database.RECOGNISERS if each.vague)

RECOGNISERS: tuple[Recogniser, ...] = (
    *sluice.RECOGNISERS,
    *_DATABASE_FIRST,
    *redis.RECOGNISERS,
    *_PROVIDER_FIRST,
    *langflow.RECOGNISERS,
    *runtime.RECOGNISERS,
    *_DATABASE_LAST,
    *_PROVIDER_LAST,
)

# What one cause may come from, where the other was there before it: B in FOLLOWS[A] makes A the likelier root.
_POOLS = frozenset({"sqlalchemy_pool_timeout", "psycopg_pool_timeout", "pool_timeout"})
_SLOTS = frozenset({"too_many_clients", "connection_slots_reserved", "pooler_full", "query_wait_timeout"})
_SLOW = frozenset({"database_deadlock", "statement_timeout", "lock_timeout", "idle_in_transaction_timeout"})
_PROVIDER = frozenset(each.diagnosis.cause for each in provider.RECOGNISERS if each.diagnosis.is_load) | {
    "certificate_or_tls",
    "name_resolution",
    "connection_refused",
}
_BLOCKED = _POOLS | _SLOTS | {"out_of_memory", "worker_timeout", "worker_killed", "sqlite_locked"}
_UNREACHABLE = frozenset({"database_unreachable", "name_resolution", "certificate_or_tls", "connection_refused"})

FOLLOWS: dict[str, frozenset[str]] = {
    **dict.fromkeys(_POOLS, _SLOTS | _SLOW | _UNREACHABLE | {"database_credential"}),
    "query_wait_timeout": _SLOTS - {"query_wait_timeout", "pooler_full"} | _SLOW,
    "database_closed_connection": _SLOTS | {"idle_in_transaction_timeout", "out_of_memory"},
    "idle_in_transaction_timeout": frozenset({"worker_timeout"}),
    "server_busy": _BLOCKED | {"redis_max_clients", "redis_unreachable", "redis_pool_exhausted"},
    "worker_timeout": (_BLOCKED - {"worker_timeout", "worker_killed"}) | _PROVIDER,
    "worker_killed": frozenset({"worker_timeout", "out_of_memory"}),
    "gateway_timeout": _BLOCKED | _PROVIDER | {"workflow_timeout"},
    "bad_gateway": _BLOCKED,
    "canvas_lost_the_server": _BLOCKED | {"gateway_timeout", "bad_gateway"},
    "workflow_timeout": _POOLS | _PROVIDER,
    "circuit_open": _PROVIDER,
    "queue_timeout": _PROVIDER | {"circuit_open"},
    "bulkhead_full": _PROVIDER | {"queue_timeout"},
    "deadline_exceeded": _PROVIDER | {"queue_timeout"},
    "cluster_unavailable": frozenset({"redis_max_clients", "redis_unreachable", "redis_timeout"}),
    "asyncio_timeout": _POOLS | _SLOTS | _PROVIDER,
}


def active(lowered: str) -> tuple[Recogniser, ...]:
    """Those that could say something of a text in lower case; most lines of a log need none."""
    return tuple(each for each in RECOGNISERS if any(word in lowered for word in each.words))


def recognise(line: str, asked: Sequence[Recogniser] = RECOGNISERS) -> tuple[Recogniser, re.Match[str]] | None:
    """The cause that a line is about: the first of the table that fits.

    Args:
        line: The line.
        asked: The recognisers to ask, as :func:`active` has them for a text that the line is part of.
    """
    lowered = line.lower()
    for each in asked:
        found = each.search(line, lowered)
        if found is not None:
            return each, found
    return None


def diagnoses() -> tuple[Diagnosis, ...]:
    """Every diagnosis that there is, once each, in the order of the table."""
    return tuple({each.diagnosis.cause: each.diagnosis for each in RECOGNISERS}.values())
