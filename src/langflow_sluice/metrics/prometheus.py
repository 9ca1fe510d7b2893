"""The figures of all processes of a deployment, as Prometheus reads them.

Langflow's own endpoint belongs to whichever worker got the port, and shows that worker only; ours reads what every
worker has told, so it does not matter which of them is asked. Each series has the label ``worker``: sum over it.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from langflow_sluice.guard.histogram import BOUNDS_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from langflow_sluice.metrics.figures import ClientFigures, GuardFigures, PoolFigures, ProcessFigures, Times

LabelledT = TypeVar("LabelledT", "PoolFigures", "ClientFigures")

_BREAKER = {"closed": 0, "half_open": 1, "open": 2}
# Where one of several allows any number, all together do.
_LIMITS = frozenset({"limit", "max_concurrency"})


class SluiceCollector(Collector):
    """Collects the figures of all processes each time it is asked.

    Args:
        read: Gives the figures of each process.
    """

    def __init__(self, read: Callable[[], Iterable[ProcessFigures]]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        """Nothing: what there is depends on what was told."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        told = list(self._read())
        yield from _guard_metrics(told)
        yield from _pool_metrics(told)
        yield from _client_metrics(told)
        lag = GaugeMetricFamily(
            "sluice_event_loop_lag_seconds",
            "How long an event loop took to come round, the longest of the last seconds",
            labels=["worker"],
        )
        for process in told:
            if process.loop_lag_s:
                lag.add_metric([process.worker], max(process.loop_lag_s))
        yield lag


def _guard_metrics(told: list[ProcessFigures]) -> Iterator[Metric]:
    labels = ["worker", "guard"]
    gauges = {
        "in_flight": "Calls in flight",
        "peak_in_flight": "The most calls ever in flight at once",
        "limit": "Calls that may be in flight now; 0 for any number",
        "max_concurrency": "The cap as it was set; an adaptive guard that has backed off has a lower limit",
        "paused_s": "Seconds for which the service still wants to be left alone",
    }
    families = {
        name: GaugeMetricFamily(f"sluice_guard_{name.replace('_s', '_seconds')}", text, labels=labels)
        for name, text in gauges.items()
    }
    waiting = GaugeMetricFamily("sluice_guard_waiting", "Callers in the queue", labels=[*labels, "priority"])
    breaker = GaugeMetricFamily("sluice_guard_breaker", "Breaker: 0 closed, 1 half open, 2 open", labels=labels)
    alone = GaugeMetricFamily(
        "sluice_guard_without_redis", "1 while a guard of the cluster cannot ask Redis", labels=labels
    )
    outages = CounterMetricFamily("sluice_guard_redis_outages", "Times that Redis was away", labels=labels)
    lost = CounterMetricFamily("sluice_guard_leases_lost", "Times that the worker was taken for dead", labels=labels)
    admitted = CounterMetricFamily("sluice_guard_admitted", "Calls let through", labels=labels)
    away = CounterMetricFamily("sluice_guard_turned_away", "Callers who got no slot", labels=[*labels, "reason"])
    retries = CounterMetricFamily("sluice_guard_retries", "Attempts followed by another one", labels=labels)
    wait = HistogramMetricFamily("sluice_guard_wait_seconds", "Time in the queue", labels=labels)
    service = HistogramMetricFamily("sluice_guard_service_seconds", "Time a slot was held", labels=labels)
    for process in told:
        for name, guards in _by_name(process.guards).items():
            at = [process.worker, name]
            for field, family in families.items():
                values = [getattr(guard, field) for guard in guards]
                family.add_metric(at, max(values) if field == "paused_s" else _together(field, values))
            for priority in guards[0].waiting:
                waiting.add_metric([*at, priority], sum(guard.waiting[priority] for guard in guards))
            breaker.add_metric(at, max(_BREAKER.get(guard.breaker, 0) for guard in guards))
            alone.add_metric(at, any(guard.standing not in {"process", "cluster"} for guard in guards))
            outages.add_metric(at, sum(guard.outages for guard in guards))
            lost.add_metric(at, sum(guard.leases_lost for guard in guards))
            admitted.add_metric(at, sum(guard.admitted for guard in guards))
            for reason in guards[0].turned_away:
                away.add_metric([*at, reason], sum(guard.turned_away[reason] for guard in guards))
            retries.add_metric(at, sum(guard.retries for guard in guards))
            _add_times(wait, at, [guard.wait for guard in guards])
            _add_times(service, at, [guard.service for guard in guards])
    yield from (*families.values(), waiting, breaker, alone, outages, lost, admitted, away, retries, wait, service)


def _pool_metrics(told: list[ProcessFigures]) -> Iterator[Metric]:
    labels = ["worker", "database"]
    fields = {
        "capacity": "Connections that the pool may open",
        "checked_out": "Connections in use",
        "idle": "Connections open and not in use",
        "waiting": "Callers waiting for a connection",
        "writing": "Callers that write or build an index",
    }
    pools = [(process.worker, _by_label(process.pools)) for process in told]
    yield from _gauges("sluice_pool", fields, labels, pools)
    away = CounterMetricFamily("sluice_pool_turned_away", "Callers who got no connection", labels=labels)
    wait = HistogramMetricFamily(
        "sluice_pool_wait_seconds", "Time until a caller of a pool had its turn", labels=labels
    )
    for worker, by_label in pools:
        for label, mine in by_label.items():
            away.add_metric([worker, label], sum(pool.turned_away for pool in mine))
            _add_times(wait, [worker, label], [pool.wait for pool in mine])
    yield from (away, wait)


def _client_metrics(told: list[ProcessFigures]) -> Iterator[Metric]:
    fields = {
        "open": "HTTP connections open, in use or fit to be used again",
        "in_use": "HTTP connections in use",
        "waiting": "Requests whose connection is being opened",
        "limit": "HTTP connections allowed; 0 for any number",
    }
    clients = [(process.worker, _by_label(process.clients)) for process in told]
    yield from _gauges("sluice_client", fields, ["worker", "upstream"], clients)


def _gauges(
    prefix: str,
    fields: Mapping[str, str],
    labels: list[str],
    told: list[tuple[str, dict[str, list[Any]]]],
) -> Iterator[Metric]:
    """One gauge for each field, with the sums over what shares a label."""
    for field, text in fields.items():
        family = GaugeMetricFamily(f"{prefix}_{field}", text, labels=labels)
        for worker, by_label in told:
            for label, mine in by_label.items():
                family.add_metric([worker, label], _together(field, [getattr(each, field) for each in mine]))
        yield family


def _together(field: str, values: list[float]) -> float:
    return sum(values) if field not in _LIMITS or all(values) else 0


def _by_label(found: Iterable[LabelledT]) -> dict[str, list[LabelledT]]:
    by_label: dict[str, list[LabelledT]] = {}
    for each in found:
        by_label.setdefault(each.label, []).append(each)
    return by_label


def _by_name(guards: Iterable[GuardFigures]) -> dict[str, list[GuardFigures]]:
    """Guards that share a name belong to different users, whose names are nobody else's business."""
    found: dict[str, list[GuardFigures]] = {}
    for guard in guards:
        found.setdefault(guard.name, []).append(guard)
    return found


def _add_times(family: HistogramMetricFamily, labels: list[str], times: list[Times]) -> None:
    counts = [sum(each) for each in zip(*(time.counts for time in times), strict=True)]
    bounds = [*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"]
    buckets = list(zip(bounds, accumulate(counts), strict=True))
    family.add_metric(labels, buckets, sum(time.sum_s for time in times))
