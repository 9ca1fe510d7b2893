"""Langflow's own pool of connections: its size, and what it does with callers and with stale connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langflow_sluice.doctor.connections import LEAST_POOL
from langflow_sluice.doctor.deployment import DATABASE_URL, DB_SETTINGS
from langflow_sluice.doctor.findings import Finding, Fix

if TYPE_CHECKING:
    from langflow_sluice.doctor.deployment import Deployment

SHORTEST_WAIT_S = 5.0
LONGEST_WAIT_S = 60.0
CALLS_OF_A_WORKER = 50
"""Calls at once of one worker that Langflow still serves well; at 100 waits come close to its pool's timeout."""

_DEFAULT = {"pool_size": 20, "max_overflow": 30, "pool_timeout": 30, "pool_recycle": 1800, "pool_pre_ping": True}


def pool_findings(deployment: Deployment) -> list[Finding]:
    """What is wrong with the pool's settings, for a database that is not SQLite."""
    if deployment.database is None:
        return []
    refused = _refused(deployment.pool.settings)
    if refused:
        observed = f"SQLAlchemy refuses {DB_SETTINGS} ({deployment.pool.source}): {refused}."
        advice = "Take out or mend what it names; Langflow does not start with it."
        return [Finding("pool_settings_refused", "error", observed, advice)]
    found = [_size(deployment), _wait(deployment), _ping(deployment), _recycle(deployment), _calls(deployment)]
    return [finding for finding in found if finding is not None]


def connect_timeout_finding(deployment: Deployment) -> list[Finding]:
    """Whether Langflow gives up on a database that does not answer; LANGFLOW_DB_CONNECT_TIMEOUT is SQLite's only."""
    url = deployment.database
    told = deployment.driver_settings.value or {}
    if (
        url is None
        or "connect_timeout" in url.query
        or "connect_timeout" in told
        or deployment.pg_connect_timeout.value
    ):
        return []
    observed = (
        f"{DATABASE_URL} has no connect_timeout, so a database that does not answer holds each caller for the driver's "
        "130 s. LANGFLOW_DB_CONNECT_TIMEOUT is for SQLite only."
    )
    advice = "Add ?connect_timeout=10 to the address, or set PGCONNECT_TIMEOUT=10."
    why = "A database that does not answer is given up after 10 s, not after the driver's 130 s"
    return [Finding("connect_timeout_missing", "warning", observed, advice, (Fix("PGCONNECT_TIMEOUT", 10, why),))]


def _refused(settings: Any) -> str:
    """What SQLAlchemy says of the settings; making an engine opens no connection."""
    import sqlalchemy
    from sqlalchemy.ext.asyncio import create_async_engine

    arguments = dict(settings)
    name = arguments.pop("poolclass", None)
    kind = getattr(sqlalchemy.pool, str(name), None) if name else None
    if kind is not None:
        arguments["poolclass"] = kind
    try:
        create_async_engine("postgresql+psycopg://", **arguments)
    except TypeError as exc:
        return str(exc).split(". ", 1)[0].split(", using", 1)[0]
    except Exception as exc:  # noqa: BLE001 - any refusal is one
        return type(exc).__name__
    return ""


def _left_out(deployment: Deployment, key: str) -> str:
    is_left_out = deployment.pool.is_set and key not in deployment.pool.settings
    return f" (left out of {DB_SETTINGS}, so SQLAlchemy's default counts, not Langflow's)" if is_left_out else ""


def _size(deployment: Deployment) -> Finding | None:
    capacity = deployment.pool.capacity
    if capacity is None:
        observed = f"Langflow's pool has no bound: pool_size 0, a negative max_overflow or NullPool in {DB_SETTINGS}."
        advice = "Give pool_size and max_overflow so that all workers together fit the server."
        why = "Without a bound every call opens a connection"
        keys = () if "poolclass" in deployment.pool.settings else ("pool_size", "max_overflow")
        fixes = tuple(Fix(DB_SETTINGS, _DEFAULT[key], why, key) for key in keys)
        return Finding("pool_unbounded", "error", observed, advice, fixes)
    if capacity < LEAST_POOL:
        observed = f"Langflow's pool has {capacity} connections a worker ({deployment.pool.source})."
        advice = f"Give each worker at least {LEAST_POOL}: a run uses some of them side by side."
        why = f"A run uses some connections side by side; {capacity} are too few"
        return Finding("pool_small", "warning", observed, advice, (Fix(DB_SETTINGS, LEAST_POOL, why, "pool_size"),))
    return None


def _wait(deployment: Deployment) -> Finding | None:
    wait = float(deployment.pool.in_force["pool_timeout"])
    longest = min(filter(None, (LONGEST_WAIT_S, deployment.expected.proxy_timeout_s)))
    if SHORTEST_WAIT_S <= wait <= longest:
        return None
    if wait < SHORTEST_WAIT_S:
        observed = f"pool_timeout is {wait:g} s: a short burst already fails with a timeout of the pool."
    else:
        observed = f"pool_timeout is {wait:g} s: callers wait longer for a connection than most of them stay."
    advice = f"Set pool_timeout between {SHORTEST_WAIT_S:g} and {longest:g} s."
    value = min(_DEFAULT["pool_timeout"], longest)
    why = f"Was {wait:g} s: a burst should wait, but not longer than callers stay"
    return Finding("pool_timeout", "warning", observed, advice, (Fix(DB_SETTINGS, value, why, "pool_timeout"),))


def _ping(deployment: Deployment) -> Finding | None:
    if deployment.pool.in_force["pool_pre_ping"]:
        return None
    observed = (
        f"pool_pre_ping is off{_left_out(deployment, 'pool_pre_ping')}: after a restart of the database, or when "
    )
    observed += "something between cuts idle connections, the next calls fail."
    why = "A connection that was cut while idle is replaced, not handed to a call"
    fix = Fix(DB_SETTINGS, value=True, why=why, key="pool_pre_ping")
    return Finding("pool_pre_ping_off", "warning", observed, "Set pool_pre_ping to true.", (fix,))


def _recycle(deployment: Deployment) -> Finding | None:
    recycle = float(deployment.pool.in_force["pool_recycle"])
    if recycle > 0:
        return None
    observed = f"pool_recycle is off{_left_out(deployment, 'pool_recycle')}: connections live for ever, with all that "
    observed += "the server keeps for them, and firewalls cut them."
    fix = Fix(DB_SETTINGS, _DEFAULT["pool_recycle"], "Connections are replaced after half an hour", "pool_recycle")
    return Finding("pool_recycle_off", "warning", observed, "Set pool_recycle to 1800.", (fix,))


def _calls(deployment: Deployment) -> Finding | None:
    capacity, processes, calls = deployment.pool.capacity, deployment.processes, deployment.expected.calls
    if capacity is None:
        return None
    served = processes * min(capacity, CALLS_OF_A_WORKER)
    how = f"{processes} workers x {min(capacity, CALLS_OF_A_WORKER)}"
    if not calls:
        observed = f"Up to {served} calls at once find a connection of Langflow's own pool at once ({how})."
        return Finding("calls_not_told", "info", observed, "Say with --calls how many there will be.")
    if calls <= served:
        return None
    observed = f"{calls} calls at once, but {served} find a connection of Langflow's own pool at once ({how}); the "
    observed += f"others wait, and fail after {float(deployment.pool.in_force['pool_timeout']):g} s."
    advice = "Add workers or machines, or enlarge the pool if the database has connections to spare."
    wanted = -(-calls // processes)
    if wanted > CALLS_OF_A_WORKER:
        return Finding("calls_over_pool", "warning", observed, advice)
    why = f"{calls} calls at once over {processes} workers"
    kept = -(-wanted * 2 // 3)
    fixes = (Fix(DB_SETTINGS, kept, why, "pool_size"), Fix(DB_SETTINGS, wanted - kept, why, "max_overflow"))
    return Finding("calls_over_pool", "warning", observed, advice, fixes)
