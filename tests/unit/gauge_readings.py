"""Figures of processes and databases, as the tests of the gauge want them."""

from __future__ import annotations

from typing import Any

from langflow_sluice.gauge.database import DatabaseFigures
from langflow_sluice.gauge.reading import Reading
from langflow_sluice.gauge.sessions import Session, SessionGroup
from langflow_sluice.guard.histogram import BOUNDS_S, Histogram
from langflow_sluice.metrics.figures import ClientFigures, GuardFigures, PoolFigures, ProcessFigures, Times

LABEL = "127.0.0.1:5432/docs"
NOW = 1000.0


def times(*seconds: float) -> Times:
    histogram = Histogram()
    for each in seconds:
        histogram.add(each)
    assert len(histogram.counts) == len(BOUNDS_S) + 1
    return Times(tuple(histogram.counts), histogram.sum_s)


def guard(name: str = "crm", *, waiting: int = 0, away: dict[str, int] | None = None, **more: Any) -> GuardFigures:
    values: dict[str, Any] = {
        "in_flight": 0,
        "peak_in_flight": 8,
        "limit": 8,
        "max_concurrency": 8,
        "requests_per_minute": 0.0,
        "admitted": 100,
        "retries": 0,
        "breaker": "closed",
        "paused_s": 0.0,
        "wait": times(),
        "service": times(),
    }
    turned_away = {"full": 0, "timeout": 0, "open": 0, "gone": 0, **(away or {})}
    lanes = {"interactive": 0, "normal": waiting, "batch": 0}
    return GuardFigures(name, waiting=lanes, turned_away=turned_away, **{**values, **more})


def pool(label: str = LABEL, **more: Any) -> PoolFigures:
    values = {"capacity": 10, "checked_out": 0, "idle": 2, "waiting": 0, "writing": 0, "turned_away": 0}
    return PoolFigures(label, **{**values, "wait": times(), **more})


def client(label: str = "https://api.example.com:443", **more: Any) -> ClientFigures:
    return ClientFigures(label, **{"open": 4, "in_use": 3, "waiting": 0, "limit": 0, **more})


def process(
    *parts: GuardFigures | PoolFigures | ClientFigures,
    worker: str = "host:1",
    lag_s: float = 0.01,
    told_at: float = NOW,
) -> ProcessFigures:
    return ProcessFigures(
        worker=worker,
        started_at=NOW - 100,
        told_at=told_at,
        guards=tuple(part for part in parts if isinstance(part, GuardFigures)),
        pools=tuple(part for part in parts if isinstance(part, PoolFigures)),
        clients=tuple(part for part in parts if isinstance(part, ClientFigures)),
        loop_lag_s=(lag_s,),
    )


def database(*parts: SessionGroup | Session, **more: Any) -> DatabaseFigures:
    values: dict[str, Any] = {"where": LABEL, "max_connections": 100, "reserved": 3, "user": "anna", "database": "docs"}
    return DatabaseFigures(
        **{**values, "long_running_s": 10.0, **more},
        groups=tuple(part for part in parts if isinstance(part, SessionGroup)),
        notable=tuple(part for part in parts if isinstance(part, Session)),
    )


def group(count: int, state: str = "active", application: str = "app", **more: Any) -> SessionGroup:
    values = {"user": "anna", "database": "docs", "longest_s": 1.0, **more}
    return SessionGroup(application=application, state=state, count=count, **values)


def session(pid: int, state: str = "active", seconds: float = 1.0, *blocked_by: int, **more: Any) -> Session:
    values = {"application": "app", "user": "anna", "database": "docs", "command": "UPDATE", "query_id": ""}
    return Session(pid=pid, state=state, seconds=seconds, blocked_by=blocked_by, **{**values, "waits_for": "", **more})


def reading(*processes: ProcessFigures, database: DatabaseFigures | None = None) -> Reading:
    return Reading(processes, database)
