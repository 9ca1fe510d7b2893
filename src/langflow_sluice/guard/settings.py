"""What a guard is asked to hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from langflow_sluice.errors import InvalidInput

Priority = Literal["interactive", "normal", "batch"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)

Scope = Literal["process", "cluster"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
RedisLoss = Literal["fail_closed", "local_share"]
REDIS_LOSSES: tuple[RedisLoss, ...] = get_args(RedisLoss)

LIMITS = ("max_concurrency", "requests_per_minute", "tokens_per_minute", "max_queue", "queue_timeout_s")
_WHOLE = frozenset({"max_concurrency", "max_queue"})


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Limits of one guard; 0 turns a limit off.

    Attributes:
        max_concurrency: Calls in flight at once.
        requests_per_minute: Calls admitted a minute, spread evenly: the burst is one second's share, at least one.
        tokens_per_minute: Tokens admitted a minute; the burst is one minute's share, so that a single request may
            take nearly all of it.
        max_queue: Callers that may wait at once; the next is turned away with ``BulkheadFull``.
        queue_timeout_s: Seconds a caller waits before it leaves with ``QueueTimeout``.
        adaptive: Whether the guard finds out by itself how much of ``max_concurrency`` the service really takes.
        scope: Whether the limits are those of this process, or of all processes together that use the same Redis.
            ``max_queue`` and ``queue_timeout_s`` are each process's own in any case.
        redis_loss: What a guard of the cluster does while Redis is away: turn callers away, or hold its part of the
            limits, divided by the processes last seen.

    In an operator's ceiling the last two are empty where the operator leaves them to the nodes.
    """

    max_concurrency: int = 8
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    max_queue: int = 1000
    queue_timeout_s: float = 60.0
    adaptive: bool = False
    scope: Scope | Literal[""] = "process"
    redis_loss: RedisLoss | Literal[""] = "fail_closed"

    def __post_init__(self) -> None:
        for field in LIMITS:
            value = getattr(self, field)
            name = field.removesuffix("_s")  # as the nodes' inputs and the operator's variables are called
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise InvalidInput.of(
                    name, value, "a limit is a number of 0 or more", fix=f"Set {name} to 0 (no limit) or above."
                )
            if field in _WHOLE and value != int(value):
                raise InvalidInput.of(name, value, "it counts callers", fix=f"Set {name} to a whole number.")
        if self.scope not in {"", *SCOPES}:
            raise InvalidInput.of("scope", self.scope, "there is no such scope", fix=f"Use one of {SCOPES}.")
        if self.redis_loss not in {"", *REDIS_LOSSES}:
            fix = f"Use one of {REDIS_LOSSES}."
            raise InvalidInput.of("redis_loss", self.redis_loss, "there is no such way", fix=fix)

    def tighter(self, other: GuardSettings) -> GuardSettings:
        """The stricter of both, limit by limit; a limit that is off (0) never wins over one that is on."""
        changes: dict[str, Any] = {name: _tighter(getattr(self, name), getattr(other, name)) for name in LIMITS}
        return replace(
            self,
            **changes,
            adaptive=self.adaptive or other.adaptive,
            scope="cluster" if "cluster" in {self.scope, other.scope} else self.scope or other.scope,
            redis_loss=self._stricter_loss(other),
        )

    def under(self, ceiling: GuardSettings) -> GuardSettings:
        """What is left of these limits under an operator's: the tighter of both, and scope and loss as he says."""
        return replace(
            self.tighter(ceiling),
            scope=ceiling.scope or self.scope,
            redis_loss=ceiling.redis_loss or self.redis_loss,
        )

    def _stricter_loss(self, other: GuardSettings) -> RedisLoss | Literal[""]:
        # Whoever does not share a guard with the cluster has no say in what becomes of it there.
        asked = {each.redis_loss for each in (self, other) if each.scope == "cluster" and each.redis_loss}
        if not asked:
            return self.redis_loss or other.redis_loss
        return "local_share" if asked == {"local_share"} else "fail_closed"

    def differing(self, other: GuardSettings) -> tuple[str, ...]:
        """Names of the limits in which the two differ; what Redis's loss means does not matter without a cluster."""
        names = [field.name for field in fields(self)]
        if "cluster" not in {self.scope, other.scope}:
            names.remove("redis_loss")
        return tuple(name for name in names if getattr(self, name) != getattr(other, name))


def _tighter(one: float, other: float) -> float:
    if not one or not other:
        return one or other
    return min(one, other)
