"""What is under pressure in a deployment, worst first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.gauge.database_diagnosis import database_pressure
from langflow_sluice.gauge.guard_diagnosis import guard_pressure
from langflow_sluice.gauge.joining import clients_by_label, guards_by_name, pools_by_label, quantile_s
from langflow_sluice.gauge.pressure import Pressure, Severity
from langflow_sluice.gauge.queues import client_queues, fullness, guard_queues, pool_queues
from langflow_sluice.gauge.words import amount, duration, name, verb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langflow_sluice.gauge.database import DatabaseFigures
    from langflow_sluice.gauge.queues import Fullness, Queue
    from langflow_sluice.gauge.reading import Reading
    from langflow_sluice.metrics.figures import ClientFigures, PoolFigures, ProcessFigures

# Code that lets a loop come round ten times a second is fine; callers of a chat notice what is longer.
LAG_S = 0.2
BAD_LAG_S = 1.0


def diagnose(reading: Reading) -> list[Pressure]:
    """What is under pressure, the worst first; empty where nothing is.

    Args:
        reading: Workers and database at one moment.
    """
    found = [*_of_loops(reading.processes), *_of_guards(reading.processes)]
    found += _of_pools(reading.processes, reading.database)
    queues = client_queues(reading.processes)
    for label, client in clients_by_label(reading.processes).items():
        found += _of_client(client, queues[label])
    if reading.database is not None:
        found += database_pressure(reading.database)
    return sorted(found, key=lambda each: (-each.severity, -each.affected, each.where))


def _of_guards(processes: Sequence[ProcessFigures]) -> Iterator[Pressure]:
    databases = {pool.label for process in processes for pool in process.pools}
    queues = guard_queues(processes)
    for guard in guards_by_name(processes).values():
        # The guards of databases are named by address and credential unless a node names them itself.
        is_database = guard.name.rpartition(" (")[0] in databases
        yield from guard_pressure(guard, fullness(queues[guard.name]), is_database=is_database)


def _of_loops(processes: Sequence[ProcessFigures]) -> Iterator[Pressure]:
    for process in processes:
        lag_s = max(process.loop_lag_s, default=0.0)
        if lag_s >= LAG_S:
            yield Pressure(
                Severity.FAILING if lag_s >= BAD_LAG_S else Severity.PRESSURE,
                f"Event loop of worker {name(process.worker)}",
                f"took {duration(lag_s)} to come round: synchronous code runs inside async code, and every run of this"
                " worker stands still meanwhile",
                "Find the node whose async method computes or calls something blocking and make that method a plain"
                " def (Langflow then runs it in a thread); set LANGFLOW_PRETTY_LOGS=false, since a failed call costs"
                " seconds of rendering otherwise; or add workers (LANGFLOW_WORKERS)",
                affected=lag_s,
            )


def _of_pools(processes: Sequence[ProcessFigures], database: DatabaseFigures | None) -> Iterator[Pressure]:
    queues = pool_queues(processes)
    for pool in pools_by_label(processes).values():
        known = database if database is not None and database.where == pool.label and not database.problem else None
        yield from _of_pool(pool, fullness(queues[pool.label]), known)


def _of_pool(pool: PoolFigures, full: Fullness, database: DatabaseFigures | None) -> Iterator[Pressure]:
    where = f"Connection pool of {name(pool.label)}"
    if pool.waiting:
        waited_s = quantile_s(pool.wait, 0.95)
        p95 = f", p95 wait {duration(waited_s)} so far" if waited_s else ""
        observed = f"{_lent(pool, full)} and {pool.waiting} waiting{p95}"
        yield Pressure(
            Severity.FAILING if pool.turned_away else Severity.PRESSURE,
            where,
            observed + _spare(database, is_full=full.holds),
            _for_pool(full.workers, database, is_full=full.holds),
            affected=pool.waiting,
        )
    elif pool.turned_away:
        yield Pressure(
            Severity.NOTE,
            where,
            f"{amount(pool.turned_away, 'caller')} got no connection since the start; none waits now",
            "Raise pool_size or max_overflow if the server has connections to spare, or pool_timeout; or let fewer"
            " callers in (max_concurrency)",
            affected=pool.turned_away,
        )


def _lent(pool: PoolFigures, full: Fullness) -> str:
    lent = f"{pool.checked_out} of {pool.capacity} lent"
    if not full.holds:
        return lent
    if pool.checked_out >= pool.capacity:
        return f"all {pool.capacity} lent"
    where = f"in {full.full_in} of {full.workers} workers" if full.workers > 1 else "where they wait"
    return f"all lent {where}, {lent} in all,"


def _spare(database: DatabaseFigures | None, *, is_full: bool) -> str:
    if database is None or not is_full or database.through_pooler:
        return ""
    return f"; the server has {amount(database.free, 'free connection')} of {database.available}"


def _for_pool(workers: int, database: DatabaseFigures | None, *, is_full: bool) -> str:
    each = f" (they count for each of {workers} workers)" if workers > 1 else ""
    if not is_full:
        return (
            "The pool has room and yet somebody waits: raise SLUICE_MAX_DB_CONNECTIONS if the operator's limit holds"
            " it, or look why the server takes long to open a connection"
        )
    if database is None:
        return (
            f"Raise pool_size or max_overflow{each} if the server has connections to spare (give this node"
            " database_url, and it tells), else lower max_concurrency so that callers wait in the guard's queue"
        )
    if database.through_pooler:
        return f"Raise pool_size or max_overflow{each}; the pooler's default_pool_size decides what reaches the server"
    if database.free:
        return f"Raise pool_size or max_overflow{each}"
    return (
        "Do not raise the pool: the server has nothing left. Raise its max_connections, put PgBouncer in front, or"
        " lower max_concurrency so that callers wait in the guard's queue"
    )


def _of_client(client: ClientFigures, queues: Sequence[Queue]) -> Iterator[Pressure]:
    # Some request always waits for a connection that is just being opened; many do where that takes long.
    pressed = [each for each in queues if each.waiting and (each.is_full or each.waiting > max(1, each.used))]
    if pressed:
        is_full = fullness(pressed).holds
        calls = f"{amount(client.waiting, 'request')} {verb(client.waiting, 'waits', 'wait')} for a connection"
        limit = f" of {client.limit}" if client.limit else ""
        yield Pressure(
            Severity.PRESSURE,
            f"HTTP connections to {name(client.label)}",
            f"{calls}, {client.in_use}{limit} are in use",
            "Lower max_concurrency of the guard in front, so that calls wait in its queue and not here"
            if is_full
            else "Opening connections takes long: look at the network, the proxy and the provider; connect_timeout says"
            " when to give up",
            affected=client.waiting,
        )
