"""How a process stands with the cluster: what others may see of it, and what it knows of the shared breaker."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from langflow_sluice.cluster.exchange import BREAKER_STATES
from langflow_sluice.guard.breaker import MAX_OPEN_S, BreakerState, CircuitBreaker

if TYPE_CHECKING:
    from langflow_sluice.cluster.exchange import Answer
    from langflow_sluice.guard.settings import GuardSettings


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
        cap: Calls that may be in flight in all processes at most, the tightest that one of them asks for, as last told;
            0 for any number. An adaptive limit may be lower.
        idle: Whether nobody has used the guard here for so long that the process has left it; its next caller joins.
    """

    mode: str
    in_flight: int
    members: int
    outages: int
    leases_lost: int
    restarts: int
    rank: int
    cap: int = 0
    idle: bool = False

    def part_of(self, limit: int) -> int:
        """This process's part of a limit that all hold together; those of all processes add up to it.

        Args:
            limit: Of calls; 0 for any number.
        """
        if self.idle:
            return 0
        return _part(limit, self.members, self.rank) if self.members else limit


@dataclass(frozen=True, slots=True)
class LocalPart:
    """What a process may use of a guard's limits while Redis is away.

    Attributes:
        settings: The guard's.
        members: Processes that shared it when Redis was last there; 0 where this one was not long enough among them.
        rank: This process's among them.
        ceiling: Calls in flight that all of them may have: what the adaptive limit had come to, where there is one.
        tokens_per_minute: For all of them.
    """

    settings: GuardSettings
    members: int
    rank: int
    ceiling: int
    tokens_per_minute: float

    @property
    def calls(self) -> int:
        """Calls in flight for this process; 0 for none, or for any number where there is no ceiling."""
        return _part(self.ceiling, self.members, self.rank) if self.members else 0

    @property
    def is_none(self) -> bool:
        """Whether nothing is left for this process."""
        return not self.members or bool(self.ceiling and not self.calls)

    @property
    def limits(self) -> GuardSettings:
        """The guard's settings with this process's part of each limit."""
        members = max(1, self.members)
        return replace(
            self.settings,
            max_concurrency=self.calls,
            requests_per_minute=self.settings.requests_per_minute / members,
            tokens_per_minute=self.tokens_per_minute / members,
        )


def _part(limit: int, members: int, rank: int) -> int:
    return limit // members + (rank < limit % members)


def tighter(one: float, other: float) -> float:
    """The stricter of two limits; 0 is none."""
    return min(one, other) if one and other else one or other


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

    def own(self) -> CircuitBreaker:
        """A breaker of this process's alone that begins where this one stands."""
        breaker = CircuitBreaker()
        breaker.longest_s = self.longest_s
        breaker.opened = self.opened
        if self.state is not BreakerState.CLOSED:
            # Whether another process's probe succeeds is not heard of: this one sends its own.
            breaker.begin_open(self._probe_at, self.opened)
        return breaker

    def tell(self, answer: Answer, now: float) -> None:
        """Takes over what Redis says."""
        self.state = BreakerState[BREAKER_STATES[answer.breaker]]
        self.opened = answer.opened
        self._probe_at = now + answer.probe_s
