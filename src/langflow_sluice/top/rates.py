"""The guards of all processes as one, and what happened to them between two looks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from langflow_sluice.guard.histogram import BOUNDS_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langflow_sluice.metrics.figures import GuardFigures, PoolFigures, ProcessFigures

# Twice as long as a busy process takes to tell again, and a little more.
_QUIET_AFTER_S = 2.5
_SEVERITY = {"closed": 0, "half_open": 1, "open": 2}


@dataclass(frozen=True, slots=True)
class GuardLine:
    """One guard over all processes.

    Attributes:
        name: The guard's name.
        workers: Processes that have it; each holds the limit for itself.
        in_flight: Calls in flight.
        limit: Calls that may be in flight, over all processes; 0 for any number.
        waiting: Callers in the queues.
        per_s: Calls let through a second since the look before.
        turned_away: Callers who got no slot, since the start.
        retries: Attempts followed by another one, since the start.
        breaker: The worst state of all processes' breakers.
        paused_s: Seconds for which the service still wants to be left alone.
        wait_p95_s: The bound that 95 of 100 waits since the look before did not exceed; 0 where there were none.
        service_p95_s: The same for how long slots were held.
    """

    name: str
    workers: int
    in_flight: int
    limit: int
    waiting: int
    per_s: float
    turned_away: int
    retries: int
    breaker: str
    paused_s: float
    wait_p95_s: float
    service_p95_s: float


@dataclass(frozen=True, slots=True)
class PoolLine:
    """One database over all processes; the fields are sums of ``PoolFigures``.

    Attributes:
        wait_p95_s: The bound that 95 of 100 waits since the look before did not exceed; 0 where there were none.
    """

    label: str
    workers: int
    capacity: int
    checked_out: int
    idle: int
    waiting: int
    turned_away: int
    wait_p95_s: float


@dataclass(frozen=True, slots=True)
class ClientLine:
    """One upstream over all processes; the fields are sums of ``ClientFigures``, and ``limit`` 0 for any number."""

    label: str
    workers: int
    open: int
    in_use: int
    waiting: int
    limit: int


@dataclass(frozen=True, slots=True)
class Look:
    """A deployment at one moment.

    Attributes:
        workers: Names of the processes.
        guards: The busiest first.
        pools: By label.
        clients: By label.
        loop_lag_s: The longest of all event loops.
    """

    workers: tuple[str, ...]
    guards: tuple[GuardLine, ...]
    pools: tuple[PoolLine, ...]
    clients: tuple[ClientLine, ...]
    loop_lag_s: float


def look(now: Sequence[ProcessFigures], before: Sequence[ProcessFigures] = ()) -> Look:
    """Adds up what the processes tell.

    Args:
        now: What they tell now.
        before: What they told at the look before; rates and percentiles are of the time in between, or since the start
            for a process that was not there.
    """
    earlier = {process.worker: process for process in before}
    names = dict.fromkeys(guard.name for process in now for guard in process.guards)
    guards = [_guard_line(name, now, earlier) for name in names]
    guards.sort(key=lambda line: (-line.waiting, -line.in_flight, -line.per_s, line.name))
    databases = sorted({pool.label for process in now for pool in process.pools})
    upstreams = sorted({client.label for process in now for client in process.clients})
    lags = [lag for process in now for lag in process.loop_lag_s]
    return Look(
        workers=tuple(process.worker for process in now),
        guards=tuple(guards),
        pools=tuple(_pool_line(label, now, earlier) for label in databases),
        clients=tuple(_client_line(label, now) for label in upstreams),
        loop_lag_s=max(lags, default=0.0),
    )


class History:
    """Looks at a deployment again and again.

    Processes tell about once a second while something happens, which is about as often as somebody looks: each is
    compared with what it told the time before, whenever that was, not with what was there at the look before.
    """

    def __init__(self) -> None:
        self._told: dict[str, tuple[ProcessFigures, ProcessFigures]] = {}

    def look(self, now: Sequence[ProcessFigures]) -> Look:
        """What the processes tell now, with rates since they told the time before."""
        told = {}
        for process in now:
            before, latest = self._told.get(process.worker, (process, process))
            if latest.started_at != process.started_at:
                before = latest = process
            told[process.worker] = (before, latest) if latest.told_at == process.told_at else (latest, process)
        self._told = told
        quiet = time.time() - _QUIET_AFTER_S
        # A process that has told nothing new for a while has nothing to tell.
        earlier = [before if latest.told_at > quiet else latest for before, latest in told.values()]
        return look(now, earlier)


def _guard_line(name: str, now: Sequence[ProcessFigures], earlier: dict[str, ProcessFigures]) -> GuardLine:
    current: list[GuardFigures] = []
    former: list[GuardFigures] = []
    workers, admitted, seconds = 0, 0, 0.0
    for process in now:
        mine = _named(process.guards, name)
        if not mine:
            continue
        known = _same(process, earlier)
        was = _named(known.guards, name) if known else []
        workers += 1
        current += mine
        former += was
        admitted += sum(guard.admitted for guard in mine) - sum(guard.admitted for guard in was)
        seconds = max(seconds, process.told_at - (known.told_at if known else process.started_at))
    limits = [guard.limit for guard in current]
    shared = all(guard.standing != "process" for guard in current)
    return GuardLine(
        name=name,
        workers=workers,
        in_flight=sum(guard.in_flight for guard in current),
        # Workers that share one limit may have no part of it.
        limit=sum(limits) if all(limits) or shared else 0,
        waiting=sum(sum(guard.waiting.values()) for guard in current),
        per_s=admitted / seconds if seconds > 0 else 0.0,
        turned_away=sum(sum(guard.turned_away.values()) for guard in current),
        retries=sum(guard.retries for guard in current),
        breaker=max((guard.breaker for guard in current), key=lambda state: _SEVERITY.get(state, 0)),
        paused_s=max(guard.paused_s for guard in current),
        wait_p95_s=p95(_difference([g.wait.counts for g in current], [g.wait.counts for g in former])),
        service_p95_s=p95(_difference([g.service.counts for g in current], [g.service.counts for g in former])),
    )


def _pool_line(label: str, now: Sequence[ProcessFigures], earlier: dict[str, ProcessFigures]) -> PoolLine:
    found: list[PoolFigures] = []
    former: list[PoolFigures] = []
    workers = 0
    for process in now:
        mine = [pool for pool in process.pools if pool.label == label]
        workers += bool(mine)
        found += mine
        known = _same(process, earlier)
        former += [pool for pool in known.pools if pool.label == label] if known and mine else []
    return PoolLine(
        label=label,
        workers=workers,
        capacity=sum(pool.capacity for pool in found),
        checked_out=sum(pool.checked_out for pool in found),
        idle=sum(pool.idle for pool in found),
        waiting=sum(pool.waiting for pool in found),
        turned_away=sum(pool.turned_away for pool in found),
        wait_p95_s=p95(_difference([pool.wait.counts for pool in found], [pool.wait.counts for pool in former])),
    )


def _client_line(label: str, now: Sequence[ProcessFigures]) -> ClientLine:
    found = [client for process in now for client in process.clients if client.label == label]
    limits = [client.limit for client in found]
    return ClientLine(
        label=label,
        workers=len(found),
        open=sum(client.open for client in found),
        in_use=sum(client.in_use for client in found),
        waiting=sum(client.waiting for client in found),
        limit=sum(limits) if all(limits) else 0,
    )


def _same(process: ProcessFigures, earlier: dict[str, ProcessFigures]) -> ProcessFigures | None:
    """What the process told before; one that was started anew under the same number counts from its start."""
    known = earlier.get(process.worker)
    return known if known is not None and known.started_at == process.started_at else None


def _named(guards: Iterable[GuardFigures], name: str) -> list[GuardFigures]:
    return [guard for guard in guards if guard.name == name]


def _difference(now: Sequence[Sequence[int]], before: Sequence[Sequence[int]]) -> list[int]:
    places = range(len(BOUNDS_S) + 1)
    return [max(0, sum(each[i] for each in now) - sum(each[i] for each in before)) for i in places]


def p95(counts: Sequence[int]) -> float:
    """The bound of the range in which the 95th of 100 times lies; the last bound for those above all."""
    total = sum(counts)
    if not total:
        return 0.0
    for place, so_far in enumerate(accumulate(counts)):
        if so_far >= 0.95 * total:
            return BOUNDS_S[min(place, len(BOUNDS_S) - 1)]
    return BOUNDS_S[-1]
