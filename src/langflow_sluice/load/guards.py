"""What the server's guards tell, over all of its workers: now, and between two moments."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langflow_sluice.metrics.figures import ProcessFigures
    from langflow_sluice.metrics.state_folder import StateFolder

Stands = Literal["provider", "database", "section", "unknown"]

# Processes tell once a second, if anything has changed.
_FRESH_S = 2.0
_LOOK_EVERY_S = 0.1
# Guards that their nodes leave unnamed are named for what they stand in front of: see models.services,
# nodes.database_inputs and sections.
_PROVIDER = re.compile(r"\(key [0-9a-f]{12}\)$|^[\w.\-\[\]:]{1,255}:\d{1,5}$")
_DATABASE = re.compile(r":\d{1,5}/\S{0,255} \([0-9a-f]{12}\)$")
_SECTION = re.compile(r"^(?:Concurrency Gate|Fan-Out) ")


def stands_before(name: str) -> Stands:
    """What a guard of that name stands in front of: a section holds other guards; a name of its user's tells nothing.

    Args:
        name: As the guard tells it.
    """
    if _DATABASE.search(name):
        return "database"
    if _PROVIDER.search(name):
        return "provider"
    return "section" if _SECTION.search(name) else "unknown"


@dataclass(frozen=True, slots=True)
class GuardsNow:
    """All guards and pools at one moment.

    Attributes:
        in_flight: Permits of guards in use.
        waiting: Callers in the queues of guards and pools.
        loop_lag_s: The longest of all event loops.
    """

    in_flight: int
    waiting: int
    loop_lag_s: float


@dataclass(frozen=True, slots=True)
class _Sums:
    waited_s: float = 0.0
    held_s: float = 0.0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class GuardTotals:
    """Since the start of each process; two of them make a difference.

    Attributes:
        guards: By process and name.
        pools: The same of database pools; only the waits.
        told: Whether any process told something.
    """

    guards: dict[tuple[str, float, str], _Sums] = field(default_factory=dict)
    pools: dict[tuple[str, float, str], _Sums] = field(default_factory=dict)
    told: bool = False

    def since(self, before: GuardTotals) -> GuardTimes:
        """What came to pass since ``before``; of what was not there yet, since its start."""
        waited = provider = 0.0
        provided = unknown = 0
        for key, now in self.guards.items():
            was = before.guards.get(key, _Sums())
            waited += max(0.0, now.waited_s - was.waited_s)
            stands = stands_before(key[-1])
            calls = max(0, now.calls - was.calls)
            if stands == "provider":
                provided += calls
                provider += max(0.0, now.held_s - was.held_s)
            unknown += calls if stands == "unknown" else 0
        for key, now in self.pools.items():
            waited += max(0.0, now.waited_s - before.pools.get(key, _Sums()).waited_s)
        is_known = bool(provided) and not unknown
        return GuardTimes(waited if self.told else None, provider if is_known else None)


@dataclass(frozen=True, slots=True)
class GuardTimes:
    """Time between two moments, of all calls together, in seconds.

    Attributes:
        waited_s: In the queues of guards and pools; None where nobody tells.
        provider_s: At model providers, behind their guards; None where no such guard let anything through, or where
            one did that does not tell what it stands in front of.
    """

    waited_s: float | None
    provider_s: float | None


class GuardsLook:
    """Reads what the workers of a server on this machine tell; any thread.

    Args:
        folder: Where they leave it.
    """

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder

    def now(self) -> GuardsNow | None:
        """All guards as last told; None where no process tells anything."""
        told = self._folder.read()
        if not told:
            return None
        guards = [guard for process in told for guard in process.guards]
        pools = sum(pool.waiting for process in told for pool in process.pools)
        return GuardsNow(
            in_flight=sum(guard.in_flight for guard in guards),
            waiting=sum(sum(guard.waiting.values()) for guard in guards) + pools,
            loop_lag_s=max((lag for process in told for lag in process.loop_lag_s), default=0.0),
        )

    async def totals(self) -> GuardTotals:
        """All that has come to pass until now; waits for processes to tell it, for 2 s at most."""
        asked_at = time.time()
        while True:
            told = self._folder.read()
            # A process for which nothing has changed tells nothing new.
            if all(process.told_at >= asked_at for process in told) or time.time() - asked_at > _FRESH_S:
                return _totals(told)
            await asyncio.sleep(_LOOK_EVERY_S)


def _totals(told: Iterable[ProcessFigures]) -> GuardTotals:
    guards: dict[tuple[str, float, str], _Sums] = {}
    pools: dict[tuple[str, float, str], _Sums] = {}
    is_told = False
    for process in told:
        is_told = True
        # Names may stand for several: those of users are private to them, and a database has a pool for each loop.
        for guard in process.guards:
            held = _Sums(guard.wait.sum_s, guard.service.sum_s, guard.service.count)
            _add(guards, (process.worker, process.started_at, guard.name), held)
        for pool in process.pools:
            _add(pools, (process.worker, process.started_at, pool.label), _Sums(pool.wait.sum_s))
    return GuardTotals(guards, pools, is_told)


def _add(sums: dict[tuple[str, float, str], _Sums], key: tuple[str, float, str], more: _Sums) -> None:
    was = sums.get(key, _Sums())
    sums[key] = _Sums(was.waited_s + more.waited_s, was.held_s + more.held_s, was.calls + more.calls)
