"""What a guard tells about itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from langflow_sluice.cluster.standing import ClusterStatistics
    from langflow_sluice.guard.breaker import BreakerState
    from langflow_sluice.guard.settings import GuardSettings, Priority


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of the latest values, by nearest rank; all 0 where there are none.

    Attributes:
        p50: The median.
        p95: 95 of 100 values are at most this.
        p99: 99 of 100 values are at most this.
    """

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0


def percentiles(values: Collection[float]) -> Percentiles:
    """Sorts a snapshot of the values and picks three of them."""
    # Another thread may append meanwhile; a copy made in one step of the interpreter does not mind.
    ranked = list(values)
    ranked.sort()
    if not ranked:
        return Percentiles()
    return Percentiles(*(ranked[math.ceil(share * len(ranked)) - 1] for share in (0.5, 0.95, 0.99)))


@dataclass(frozen=True, slots=True)
class GuardStatistics:
    """A snapshot of one guard; holds no credential and no prompt.

    Attributes:
        name: The guard's name.
        settings: The limits in force.
        in_flight: Permits in use.
        peak_in_flight: The most permits ever in use at once.
        waiting: Callers in the queue, by priority.
        admitted: Permits granted so far.
        refused: Callers turned away because the queue was full.
        expired: Callers that left after their queue timeout.
        gone: Callers that were cancelled, or whose loop closed, before they could use a permit.
        broken: Callers turned away because the breaker was open.
        retries: Attempts that failed and were followed by another one.
        pause_left_s: Seconds for which the service has asked to be left alone.
        limit: Calls that may be in flight now: the cap, or what the adaptive limit makes of it; 0 for any number.
        breaker: State of the circuit breaker.
        waits_s: The latest waits in the queue, in seconds.
        services_s: How long the latest permits were held, in seconds.
        cut_off: Callers turned away because the cluster's Redis was away.
        cluster: How the guard stands with the other processes; None for a guard of this process alone.
    """

    name: str
    settings: GuardSettings
    in_flight: int
    peak_in_flight: int
    waiting: Mapping[Priority, int]
    admitted: int
    refused: int
    expired: int
    gone: int
    broken: int
    retries: int
    pause_left_s: float
    limit: int
    breaker: BreakerState
    waits_s: tuple[float, ...] = field(repr=False)
    services_s: tuple[float, ...] = field(repr=False)
    cut_off: int = 0
    cluster: ClusterStatistics | None = None

    # Sorted only for those who ask: a snapshot is taken often, of all guards.
    @property
    def wait_s(self) -> Percentiles:
        """Percentiles of the latest waits in the queue, in seconds."""
        return percentiles(self.waits_s)

    @property
    def service_s(self) -> Percentiles:
        """Percentiles of how long the latest permits were held, in seconds."""
        return percentiles(self.services_s)
