"""How a process stands with the cluster: what others may see of it, and what it knows of the shared breaker."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langflow_sluice.cluster.exchange import BREAKER_STATES
from langflow_sluice.guard.breaker import MAX_OPEN_S, BreakerState

if TYPE_CHECKING:
    from langflow_sluice.cluster.exchange import Answer


class Mode(enum.Enum):
    """How a share stands with Redis.

    CLUSTER: Redis decides. UNREACHED: Redis has not answered for a moment, callers wait. CUT_OFF: it is away, callers
    are turned away. LOCAL: it is away, and the process uses its share of the limits without asking.
    """

    CLUSTER = "cluster"
    UNREACHED = "unreached"
    CUT_OFF = "cut_off"
    LOCAL = "local_share"


@dataclass(frozen=True, slots=True)
class ClusterStatistics:
    """A guard's standing in its cluster.

    Attributes:
        mode: See ``Mode``.
        in_flight: Permits in use in all processes, as last told.
        members: Processes that use the guard, as last told.
        outages: How often Redis was away.
        leases_lost: How often this process was taken for dead while it lived: it was stopped, or cut off, for longer
            than the lease, and calls of others may have run beside its own.
        restarts: How often Redis has come back without its data.
        rank: This process's place among them, from 0.
    """

    mode: str
    in_flight: int
    members: int
    outages: int
    leases_lost: int
    restarts: int
    rank: int

    def part_of(self, limit: int) -> int:
        """This process's part of a limit that all hold together; those of all processes add up to it.

        Args:
            limit: Of calls; 0 for any number.
        """
        if not self.members:
            return limit
        return limit // self.members + (self.rank < limit % self.members)


class SharedBreaker:
    """What this process knows of the breaker that all processes share; the state itself is in Redis.

    Attributes:
        state: As last told.
        opened: How often it has opened.
        longest_s: Seconds from opening to a probe at most, as this process wants it.
    """

    __slots__ = ("_probe_at", "longest_s", "opened", "state")

    def __init__(self) -> None:
        self._probe_at = -math.inf
        self.state = BreakerState.CLOSED
        self.opened = 0
        self.longest_s = MAX_OPEN_S

    def opens_at(self) -> float | None:
        """As ``CircuitBreaker.opens_at``."""
        if self.state is BreakerState.CLOSED:
            return None
        return math.inf if self.state is BreakerState.HALF_OPEN else self._probe_at

    def tell(self, answer: Answer, now: float) -> None:
        """Takes over what Redis says."""
        self.state = BreakerState[BREAKER_STATES[answer.breaker]]
        self.opened = answer.opened
        self._probe_at = now + answer.probe_s
