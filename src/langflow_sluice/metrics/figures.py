"""The figures of one process: its guards, its database pools, its HTTP clients and its event loops."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langflow_sluice.guard.registry import guard_registry
from langflow_sluice.metrics.loop_lag import loop_lags

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langflow_sluice.guard import Guard

# Changes when a reader of an older process could no longer understand what is written.
FORMAT = 3


@dataclass(frozen=True, slots=True)
class Times:
    """Times by range; see ``guard.histogram``.

    Attributes:
        counts: For each of ``BOUNDS_S`` how many fell below it and not below the one before; the rest at the end.
        sum_s: All of them together.
    """

    counts: tuple[int, ...]
    sum_s: float

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class GuardFigures:
    """One guard of one process; holds no credential and no prompt.

    Attributes:
        name: Shown to people; several guards of one process may share it, since names are private to their users.
        in_flight: Permits in use.
        peak_in_flight: The most ever in use at once.
        waiting: Callers in the queue, by priority.
        limit: Calls that may be in flight now; 0 for any number. Of a limit that all workers hold together (scope
            cluster) this and the next two are this worker's part, so that sums over the workers are right.
        max_concurrency: The cap as it was set; ``limit`` lies below it where an adaptive guard has backed off.
        requests_per_minute: As set; 0 for any number.
        admitted: Permits granted so far.
        turned_away: Callers who got none, by reason: full, timeout, open, gone, redis.
        retries: Attempts that failed and were followed by another one.
        breaker: closed, open or half_open.
        paused_s: Seconds for which the service still wants to be left alone.
        wait: Times in the queue.
        service: Times for which permits were held.
        standing: ``process``, or how the guard stands with the cluster: cluster, unreached, cut_off, local_share.
        outages: How often the cluster's Redis was away.
        leases_lost: How often this worker was taken for dead by the others.
        tokens_per_minute: As set, and this worker's part of what all share; 0 for any number.
    """

    name: str
    in_flight: int
    peak_in_flight: int
    waiting: dict[str, int]
    limit: int
    max_concurrency: int
    requests_per_minute: float
    admitted: int
    turned_away: dict[str, int]
    retries: int
    breaker: str
    paused_s: float
    wait: Times
    service: Times
    standing: str = "process"
    outages: int = 0
    leases_lost: int = 0
    tokens_per_minute: float = 0.0


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """One database pool of one process; the label is ``host:port/database``.

    Attributes:
        label: Never a credential.
        capacity: Connections that it may open.
        checked_out: Connections in use, or being opened or tested for a caller.
        idle: Connections open and not in use.
        waiting: Callers that wait for a connection.
        writing: Callers that write or build an index.
        turned_away: Callers who got none, because it was full or their time was up.
        wait: Times until callers had their turn; what it took to open or test a connection then is the database's.
    """

    label: str
    capacity: int
    checked_out: int
    idle: int
    waiting: int
    writing: int
    turned_away: int
    wait: Times


@dataclass(frozen=True, slots=True)
class ClientFigures:
    """The HTTP connections of one process to one upstream.

    Attributes:
        label: ``scheme://host:port``; never a credential or a path.
        open: Connections open, in use or fit to be used again.
        in_use: Connections that a request, or the stream of its answer, uses.
        waiting: Requests without a connection so far, which is being opened.
        limit: The most connections allowed; 0 for any number.
    """

    label: str
    open: int
    in_use: int
    waiting: int
    limit: int


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """Everything one process tells.

    Attributes:
        worker: Host and process id; tells the processes of a deployment apart.
        started_at: When the process began to tell, in seconds since the epoch.
        told_at: When this was told, in seconds since the epoch.
        guards: Those that were ever asked for a permit.
        pools: Those with connections.
        clients: Those that nodes share, by upstream.
        loop_lag_s: How long each event loop that runs flows takes to come round; the longest of the last seconds.
    """

    worker: str
    started_at: float
    told_at: float
    guards: tuple[GuardFigures, ...]
    pools: tuple[PoolFigures, ...]
    clients: tuple[ClientFigures, ...]
    loop_lag_s: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> ProcessFigures:
        """Back from ``to_dict``.

        Raises:
            ValueError: Another version of Sluice has told it.
        """
        if told.get("format") != FORMAT:
            msg = f"format {told.get('format')!r} instead of {FORMAT}"
            raise ValueError(msg)
        values = {name: value for name, value in told.items() if name != "format"}
        try:
            values["guards"] = tuple(_guard_from(each) for each in values["guards"])
            values["pools"] = tuple(_pool_from(each) for each in values["pools"])
            values["clients"] = tuple(ClientFigures(**each) for each in values["clients"])
            values["loop_lag_s"] = tuple(values["loop_lag_s"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(str(error)) from None


def worker_name() -> str:
    """Host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


_STARTED_AT = time.time()


def figures() -> ProcessFigures:
    """This process as it is now; takes no lock that a caller of a guard could wait for."""
    return ProcessFigures(
        worker=worker_name(),
        started_at=_STARTED_AT,
        told_at=time.time(),
        guards=tuple(_figures_of(guard) for guard in guard_registry().guards()),
        pools=_pools(),
        clients=_clients(),
        loop_lag_s=loop_lags.read(),
    )


def _figures_of(guard: Guard) -> GuardFigures:
    statistics, queue = guard.statistics(), guard.admission
    settings, cluster = statistics.settings, statistics.cluster
    limit, cap, per_minute = statistics.limit, settings.max_concurrency, settings.requests_per_minute
    tokens = settings.tokens_per_minute
    if cluster is not None:
        # Alone, a worker holds its part anyway.
        limit = limit if cluster.mode == "local_share" else cluster.part_of(limit)
        cap, per_minute = cluster.part_of(cap), 0.0 if cluster.idle else per_minute / max(1, cluster.members)
        tokens /= max(1, cluster.members)
    return GuardFigures(
        name=guard.name,
        in_flight=statistics.in_flight,
        peak_in_flight=statistics.peak_in_flight,
        waiting={str(lane): count for lane, count in statistics.waiting.items()},
        limit=limit,
        max_concurrency=cap,
        requests_per_minute=per_minute,
        admitted=statistics.admitted,
        turned_away={
            "full": statistics.refused,
            "timeout": statistics.expired,
            "open": statistics.broken,
            "gone": statistics.gone,
            "redis": statistics.cut_off,
        },
        retries=statistics.retries,
        breaker=statistics.breaker.name.lower(),
        paused_s=statistics.pause_left_s,
        wait=Times(tuple(queue.wait_times.counts), queue.wait_times.sum_s),
        service=Times(tuple(queue.service_times.counts), queue.service_times.sum_s),
        standing="process" if cluster is None else cluster.mode,
        outages=0 if cluster is None else cluster.outages,
        leases_lost=0 if cluster is None else cluster.leases_lost,
        tokens_per_minute=tokens,
    )


def _pools() -> tuple[PoolFigures, ...]:
    # A process that has used no database need not load what talks to one.
    engines = sys.modules.get("langflow_sluice.postgres.engines")
    if engines is None:
        return ()
    return tuple(
        PoolFigures(
            label=each.label,
            capacity=each.pool_size + each.max_overflow,
            checked_out=each.checked_out,
            idle=each.idle,
            waiting=each.waiting,
            writing=each.writing,
            turned_away=each.turned_away,
            wait=Times(each.wait_counts, each.wait_sum_s),
        )
        for each in engines.pool_statistics()
    )


def _clients() -> tuple[ClientFigures, ...]:
    http_clients = sys.modules.get("langflow_sluice.http_clients")
    if http_clients is None:
        return ()
    return tuple(ClientFigures(**dataclasses.asdict(each)) for each in http_clients.client_statistics())


def _guard_from(told: Mapping[str, Any]) -> GuardFigures:
    times = {name: Times(tuple(told[name]["counts"]), told[name]["sum_s"]) for name in ("wait", "service")}
    return GuardFigures(**{**told, **times})


def _pool_from(told: Mapping[str, Any]) -> PoolFigures:
    wait = Times(tuple(told["wait"]["counts"]), told["wait"]["sum_s"])
    return PoolFigures(**{**told, "wait": wait})
