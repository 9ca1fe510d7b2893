"""The figures of all workers as a flat table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from langflow_sluice.gauge.joining import clients_by_label, guards_by_name, pools_by_label, quantile_s

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langflow_sluice.metrics.figures import ClientFigures, GuardFigures, PoolFigures, ProcessFigures

ALL = "all"
"""Stands for a worker in the rows that add up all of them."""

COLUMNS = (
    "worker",
    "kind",
    "name",
    "in_use",
    "waiting",
    "limit",
    "idle",
    "admitted",
    "turned_away_full",
    "turned_away_timeout",
    "turned_away_open",
    "turned_away_gone",
    "turned_away",
    "retries",
    "breaker",
    "paused_s",
    "wait_p50_s",
    "wait_p95_s",
    "service_p50_s",
    "service_p95_s",
    "max_concurrency",
    "requests_per_minute",
    "loop_lag_s",
    "told_s_ago",
)


def snapshot_rows(processes: Sequence[ProcessFigures], now: float | None = None) -> list[dict[str, Any]]:
    """A row for each process, guard, pool and HTTP client: first added up over all processes, then for each of them.

    ``worker`` is ``all`` in the sums, so take either those rows or the others, never both. ``kind`` is worker, guard,
    pool or client. ``in_use`` counts calls in flight or connections lent, ``limit`` what may be at most (0: any
    number). Counts and times are those since the processes' start, times the upper bounds of their ranges. What a kind
    does not have is None.

    Args:
        processes: What they tell.
        now: In seconds since the epoch; the machine's clock unless given.
    """
    now = time.time() if now is None else now
    scopes = [(ALL, list(processes)), *((process.worker, [process]) for process in processes)]
    return [{**dict.fromkeys(COLUMNS), "worker": name, **row} for name, those in scopes for row in _rows(those, now)]


def _rows(processes: Sequence[ProcessFigures], now: float) -> Iterator[dict[str, Any]]:
    yield _worker(processes, now)
    for guard in guards_by_name(processes).values():
        yield _guard(guard)
    for pool in pools_by_label(processes).values():
        yield _pool(pool)
    for client in clients_by_label(processes).values():
        yield _client(client)


def _worker(processes: Sequence[ProcessFigures], now: float) -> dict[str, Any]:
    lags = [lag for process in processes for lag in process.loop_lag_s]
    return {
        "kind": "worker",
        "name": processes[0].worker if len(processes) == 1 else f"{len(processes)} workers",
        "loop_lag_s": round(max(lags), 4) if lags else None,
        "told_s_ago": round(max((now - process.told_at for process in processes), default=0.0), 1),
    }


def _guard(guard: GuardFigures) -> dict[str, Any]:
    return {
        "kind": "guard",
        "name": guard.name,
        "in_use": guard.in_flight,
        "waiting": sum(guard.waiting.values()),
        "limit": guard.limit,
        "admitted": guard.admitted,
        **{f"turned_away_{reason}": guard.turned_away.get(reason, 0) for reason in ("full", "timeout", "open", "gone")},
        "turned_away": sum(guard.turned_away.values()),
        "retries": guard.retries,
        "breaker": guard.breaker,
        "paused_s": round(guard.paused_s, 1),
        "wait_p50_s": quantile_s(guard.wait, 0.5),
        "wait_p95_s": quantile_s(guard.wait, 0.95),
        "service_p50_s": quantile_s(guard.service, 0.5),
        "service_p95_s": quantile_s(guard.service, 0.95),
        "max_concurrency": guard.max_concurrency,
        "requests_per_minute": guard.requests_per_minute,
    }


def _pool(pool: PoolFigures) -> dict[str, Any]:
    return {
        "kind": "pool",
        "name": pool.label,
        "in_use": pool.checked_out,
        "waiting": pool.waiting,
        "limit": pool.capacity,
        "idle": pool.idle,
        "turned_away": pool.turned_away,
        "wait_p50_s": quantile_s(pool.wait, 0.5),
        "wait_p95_s": quantile_s(pool.wait, 0.95),
    }


def _client(client: ClientFigures) -> dict[str, Any]:
    return {
        "kind": "client",
        "name": client.label,
        "in_use": client.in_use,
        "waiting": client.waiting,
        "limit": client.limit,
        "idle": max(0, client.open - client.in_use),
    }
