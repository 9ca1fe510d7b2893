"""Whether those who wait, wait since something is full: decided where they stand, since no worker lends to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langflow_sluice.metrics.figures import GuardFigures, ProcessFigures

# With Redis deciding, a worker's limit is only its part of one that all share, and it may use more than that.
_SHARED = frozenset({"cluster", "unreached", "cut_off"})


@dataclass(frozen=True, slots=True)
class Queue:
    """Those who wait for one guard, pool or client.

    Attributes:
        workers: Those whose queue it is: one, or all that share the limit.
        waiting: Callers that wait.
        used: Calls in flight, or connections in use.
        limit: The most that may be used; 0 for any number.
        rated: Whether a rate may hold them too.
    """

    workers: frozenset[str]
    waiting: int
    used: int
    limit: int
    rated: bool = False

    @property
    def is_full(self) -> bool:
        """Whether nothing is free."""
        return bool(self.limit) and self.used >= self.limit


@dataclass(frozen=True, slots=True)
class Fullness:
    """Several queues for the same thing.

    Attributes:
        workers: How many workers have one.
        full_in: In how many of them one is full.
        holds: Whether most of those who wait do so where it is full.
        rated: Whether of the others some may wait for a rate.
    """

    workers: int
    full_in: int
    holds: bool
    rated: bool


def fullness(queues: Sequence[Queue]) -> Fullness:
    """How full these are.

    Args:
        queues: For the same guard, pool or client.
    """
    full = [queue for queue in queues if queue.is_full]
    behind_full = sum(queue.waiting for queue in full)
    return Fullness(
        workers=len(_workers(queues)),
        full_in=len(_workers(full)),
        holds=behind_full > 0 and 2 * behind_full >= sum(queue.waiting for queue in queues),
        rated=any(queue.rated and queue.waiting for queue in queues if not queue.is_full),
    )


def guard_queues(processes: Iterable[ProcessFigures]) -> dict[str, list[Queue]]:
    """By guard: a queue for each worker that has it, and one for those that hold its limits together."""
    own: dict[str, list[Queue]] = {}
    shared: dict[str, list[Queue]] = {}
    for process in processes:
        for guard in process.guards:
            those = shared if guard.standing in _SHARED else own
            those.setdefault(guard.name, []).append(_of_guard(process.worker, guard))
    for name, parts in shared.items():
        own.setdefault(name, []).append(
            Queue(
                _workers(parts),
                sum(part.waiting for part in parts),
                sum(part.used for part in parts),
                sum(part.limit for part in parts),
                any(part.rated for part in parts),
            )
        )
    return own


def pool_queues(processes: Iterable[ProcessFigures]) -> dict[str, list[Queue]]:
    """By database: a queue for each pool of each worker."""
    found: dict[str, list[Queue]] = {}
    for process in processes:
        for pool in process.pools:
            queue = Queue(frozenset({process.worker}), pool.waiting, pool.checked_out, pool.capacity)
            found.setdefault(pool.label, []).append(queue)
    return found


def client_queues(processes: Iterable[ProcessFigures]) -> dict[str, list[Queue]]:
    """By service: a queue for the connections of each worker."""
    found: dict[str, list[Queue]] = {}
    for process in processes:
        for client in process.clients:
            queue = Queue(frozenset({process.worker}), client.waiting, client.in_use, client.limit)
            found.setdefault(client.label, []).append(queue)
    return found


def _of_guard(worker: str, guard: GuardFigures) -> Queue:
    rated = bool(guard.requests_per_minute or guard.tokens_per_minute)
    return Queue(frozenset({worker}), sum(guard.waiting.values()), guard.in_flight, guard.limit, rated)


def _workers(queues: Iterable[Queue]) -> frozenset[str]:
    return frozenset[str]().union(*(queue.workers for queue in queues))
