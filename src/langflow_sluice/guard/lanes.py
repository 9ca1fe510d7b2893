"""The order of those who wait: three lanes, first come first served in each."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from langflow_sluice.guard.settings import PRIORITIES
from langflow_sluice.guard.waiter import WaiterState

if TYPE_CHECKING:
    from langflow_sluice.guard.settings import Priority
    from langflow_sluice.guard.waiter import Waiter

# A lane that has been passed over this often in a row gets the next turn: `interactive` goes before `normal` goes
# before `batch`, yet a lane below always gets at least one turn in seventeen.
PATIENCE = 16


class Lanes:
    """Waiters by priority. Not thread-safe: the admission queue calls it from one thread at a time.

    The waiter in front of the lane whose turn it is blocks everyone behind it, in all lanes, until it can be admitted:
    a request for many tokens is then never overtaken by light ones that drain the budget before it fills.
    """

    __slots__ = ("_count", "_lanes", "_passed_over", "_waiting")

    def __init__(self) -> None:
        self._count = 0
        self._lanes: dict[Priority, deque[Waiter]] = {priority: deque() for priority in PRIORITIES}
        self._passed_over: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)
        self._waiting: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)

    def __len__(self) -> int:
        return self._count

    def waiting(self) -> dict[Priority, int]:
        """How many wait, by priority."""
        return dict(self._waiting)

    def append(self, waiter: Waiter) -> None:
        """Lets a waiter queue up."""
        self._lanes[waiter.priority].append(waiter)
        self._waiting[waiter.priority] += 1
        self._count += 1

    def leave(self, waiter: Waiter) -> None:
        """Counts a waiter out whose state has just moved on from WAITING; its place is dropped when it comes up."""
        self._waiting[waiter.priority] -= 1
        self._count -= 1
        lane = self._lanes[waiter.priority]
        # Places of those who left do not pile up behind a waiter in front that cannot be admitted for long.
        if len(lane) > 2 * self._waiting[waiter.priority] + PATIENCE:
            self._lanes[waiter.priority] = deque(each for each in lane if each.state is WaiterState.WAITING)

    def front(self) -> Waiter | None:
        """The waiter whose turn it is, or None where nobody waits."""
        chosen: Priority | None = None
        for priority in PRIORITIES:
            if not self._waiting[priority]:
                continue
            if chosen is None or self._passed_over[priority] >= PATIENCE:
                chosen = priority
        if chosen is None:
            return None
        lane = self._lanes[chosen]
        while lane[0].state is not WaiterState.WAITING:
            lane.popleft()
        return lane[0]

    def pop(self, waiter: Waiter) -> None:
        """Takes the waiter that ``front`` named out of its lane and notes whom it went before."""
        self._lanes[waiter.priority].popleft()
        self._waiting[waiter.priority] -= 1
        self._count -= 1
        self._passed_over[waiter.priority] = 0
        below = PRIORITIES[PRIORITIES.index(waiter.priority) + 1 :]
        for priority in below:
            if self._waiting[priority]:
                self._passed_over[priority] += 1
