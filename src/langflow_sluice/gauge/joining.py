"""Figures of several guards, pools or clients as one."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from langflow_sluice.guard.histogram import BOUNDS_S
from langflow_sluice.metrics.figures import Times

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langflow_sluice.metrics.figures import ClientFigures, GuardFigures, PoolFigures, ProcessFigures

N = TypeVar("N", int, float)

_SEVERITY = {"closed": 0, "half_open": 1, "open": 2}


def guards_by_name(processes: Iterable[ProcessFigures]) -> dict[str, GuardFigures]:
    """The guards of these processes, those of one name as one: each process holds a limit for itself, so they add up.

    Guards of one process that share a name belong to different users, whose names are nobody else's business.
    """
    found: dict[str, list[GuardFigures]] = {}
    for process in processes:
        for guard in process.guards:
            found.setdefault(guard.name, []).append(guard)
    return {name: guards[0] if len(guards) == 1 else _guard(guards) for name, guards in found.items()}


def pools_by_label(processes: Iterable[ProcessFigures]) -> dict[str, PoolFigures]:
    """The database pools of these processes, those of one database as one."""
    found: dict[str, list[PoolFigures]] = {}
    for process in processes:
        for pool in process.pools:
            found.setdefault(pool.label, []).append(pool)
    return {label: pools[0] if len(pools) == 1 else _pool(pools) for label, pools in found.items()}


def clients_by_label(processes: Iterable[ProcessFigures]) -> dict[str, ClientFigures]:
    """The HTTP connections of these processes, those to one service as one."""
    found: dict[str, list[ClientFigures]] = {}
    for process in processes:
        for client in process.clients:
            found.setdefault(client.label, []).append(client)
    return {label: clients[0] if len(clients) == 1 else _client(clients) for label, clients in found.items()}


def quantile_s(times: Times, share: float) -> float | None:
    """The bound of the range in which a share of all times has been reached; the last bound for those above all.

    Args:
        times: By range.
        share: 0.5 for the median, 0.95 for what 95 of 100 do not exceed.

    Returns:
        Seconds, or None where there are no times.
    """
    total = times.count
    if not total:
        return None
    for place, so_far in enumerate(accumulate(times.counts)):
        if so_far >= share * total:
            return BOUNDS_S[min(place, len(BOUNDS_S) - 1)]
    return BOUNDS_S[-1]


# A guard of one worker's own, or of a cluster whose Redis answers.
_CALM = frozenset({"process", "cluster"})


def _guard(guards: Sequence[GuardFigures]) -> GuardFigures:
    return replace(
        guards[0],
        in_flight=sum(guard.in_flight for guard in guards),
        peak_in_flight=sum(guard.peak_in_flight for guard in guards),
        waiting=_added([guard.waiting for guard in guards]),
        limit=_calls(guards, [guard.limit for guard in guards]),
        max_concurrency=_calls(guards, [guard.max_concurrency for guard in guards]),
        requests_per_minute=_limit([guard.requests_per_minute for guard in guards]),
        admitted=sum(guard.admitted for guard in guards),
        turned_away=_added([guard.turned_away for guard in guards]),
        retries=sum(guard.retries for guard in guards),
        breaker=max((guard.breaker for guard in guards), key=lambda state: _SEVERITY.get(state, 0)),
        paused_s=max(guard.paused_s for guard in guards),
        wait=_times([guard.wait for guard in guards]),
        service=_times([guard.service for guard in guards]),
        standing=max((guard.standing for guard in guards), key=lambda each: each not in _CALM),
        outages=sum(guard.outages for guard in guards),
        leases_lost=sum(guard.leases_lost for guard in guards),
        tokens_per_minute=_limit([guard.tokens_per_minute for guard in guards]),
    )


def _pool(pools: Sequence[PoolFigures]) -> PoolFigures:
    return replace(
        pools[0],
        capacity=sum(pool.capacity for pool in pools),
        checked_out=sum(pool.checked_out for pool in pools),
        idle=sum(pool.idle for pool in pools),
        waiting=sum(pool.waiting for pool in pools),
        writing=sum(pool.writing for pool in pools),
        turned_away=sum(pool.turned_away for pool in pools),
        wait=_times([pool.wait for pool in pools]),
    )


def _client(clients: Sequence[ClientFigures]) -> ClientFigures:
    return replace(
        clients[0],
        open=sum(client.open for client in clients),
        in_use=sum(client.in_use for client in clients),
        waiting=sum(client.waiting for client in clients),
        limit=_limit([client.limit for client in clients]),
    )


def _added(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {
        name: sum(each.get(name, 0) for each in counts) for name in dict.fromkeys(n for each in counts for n in each)
    }


def _calls(guards: Sequence[GuardFigures], limits: Sequence[int]) -> int:
    # Of a limit that more workers share than it has slots, some hold a part of 0, which does not turn it off.
    return _limit(limits) if any(guard.standing == "process" for guard in guards) else sum(limits)


def _limit(limits: Sequence[N]) -> N:
    """One that is off (0) turns off the sum."""
    return sum(limits[1:], limits[0]) if all(limits) else type(limits[0])(0)


def _times(times: Sequence[Times]) -> Times:
    counts = tuple(sum(each) for each in zip(*(one.counts for one in times), strict=True))
    return Times(counts, sum(one.sum_s for one in times))
