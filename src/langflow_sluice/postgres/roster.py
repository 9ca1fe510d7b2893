"""All pools of the process: how many may have connections, and how many connections they may have in sum."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING

from langflow_sluice.errors import PoolTimeout
from langflow_sluice.guard.clock import SYSTEM_CLOCK
from langflow_sluice.guard.operator_limits import max_db_connections
from langflow_sluice.guard.waiter import Waiter, WaiterState
from langflow_sluice.postgres.permits import Budget, Holding, Permits

if TYPE_CHECKING:
    from langflow_sluice.postgres.pool import BoundedPool

# Stands for "as many as the pools ask for".
_NO_LIMIT = 1_000_000
_MAX_WAITING = 10_000
# A connection changes hands within microseconds, so a look at all pools misses one now and then.
_LOOKS = 3


class Roster:
    """The pools of one process; any thread, any loop.

    A pool takes a seat before its first connection. When all seats are taken, the one that was not asked for for the
    longest time gives its own up, if nobody uses it, and closes its idle connections; if all are in use, whoever asks
    waits.

    Args:
        max_pools: Number of seats.

    Attributes:
        budget: The permits that all pools share, under the operator's limit.
        is_limited: Whether the operator has set one.
        leaving: The places of connections that are closed, until the server has let go of them.
    """

    def __init__(self, max_pools: int) -> None:
        self.budget = Budget(_NO_LIMIT, _MAX_WAITING)
        self.is_limited = False
        self.leaving: set[Holding] = set()
        self._seats = Permits(max_pools, _MAX_WAITING)
        # Never taken to give back, which a finaliser may do in the middle of what happens under it.
        self._lock = threading.Lock()
        self._seated: OrderedDict[BoundedPool, Waiter] = OrderedDict()
        self._asking: dict[BoundedPool, list[Waiter]] = {}
        # By id; a weak set cannot be looked through while another thread adds to it.
        self._all: dict[int, weakref.ref[BoundedPool]] = {}

    def add(self, pool: BoundedPool) -> None:
        """Makes a pool known, without a seat yet."""
        identity = id(pool)
        self._all[identity] = weakref.ref(pool, lambda _: self._all.pop(identity, None))

    def heed_operator(self) -> None:
        """Puts the operator's limit in force as it is now.

        Raises:
            InvalidInput: The operator's limits cannot be read.
        """
        limit = max_db_connections()
        self.is_limited = bool(limit)
        if (limit or _NO_LIMIT) != self.budget.uses.limit:
            self.budget.change(limit or _NO_LIMIT)
            for _ in range(self.budget.places.out - self.budget.places.limit):
                self.close_an_idle_one()

    @property
    def needs_places(self) -> bool:
        """Whether connections have to be closed: others wait to open one, or the operator has lowered the limit."""
        if not self.is_limited:
            return False
        places, leaving = self.budget.places, len(self.leaving)
        return places.waiting > leaving or places.out - leaving > places.limit

    def touch(self, pool: BoundedPool) -> None:
        """Notes that somebody asks for a pool."""
        with self._lock:
            if pool in self._seated:
                self._seated.move_to_end(pool)

    def pools(self) -> list[BoundedPool]:
        """Those with a seat, the one asked for last at the end."""
        with self._lock:
            return list(self._seated)

    def sweep(self) -> None:
        """Takes back what callers hold whose loop is closed; any thread, the garbage collector's included."""
        for pool in self._every_pool():
            pool.sweep()

    async def seat(self, pool: BoundedPool, patience_s: float) -> None:
        """Gives a pool a seat, for which the caller may have to wait.

        Raises:
            PoolTimeout: All seats were taken, by pools in use, for as long as the caller could wait.
        """
        with self._lock:
            if pool.seated:
                return
            waiter = self._seats.ask(patience_s)
            if not waiter.settled:
                self._evict()
            if self._sit(pool, waiter):
                return
            self._asking.setdefault(pool, []).append(waiter)
        try:
            await self._seats.wait(waiter)
        finally:
            with self._lock:
                asking = self._asking.get(pool, [])
                if waiter in asking:
                    asking.remove(waiter)
                if not asking:
                    self._asking.pop(pool, None)
        with self._lock:
            if self._sit(pool, waiter):
                return
        msg = (
            f"No pool for {pool.label} could be had within pool_timeout ({pool.settings.pool_timeout_s:g} s): all"
            f" {self._seats.limit} pools of this process (one for each database, credential and pool settings) are in"
            " use."
        )
        raise PoolTimeout(msg, hint="Use the same credential and pool settings in more nodes, or let fewer callers in.")

    def returned(self, pool: BoundedPool) -> None:
        """A pool got a connection back: if nobody uses it now, it may have to make room."""
        if self._seats.waiting and pool.is_idle:
            SYSTEM_CLOCK.call_at(SYSTEM_CLOCK.now(), self._make_room)

    def close_an_idle_one(self) -> None:
        """Closes one idle connection, of the pool that was not asked for for the longest time."""
        for _ in range(_LOOKS):
            if any(pool.close_longest_idle() for pool in list(self._seated)):
                return

    def clear(self) -> None:
        """Takes all seats back: idle connections are closed now, those in use when they come back."""
        with self._lock:
            for pool in list(self._seated):
                self._unseat(pool)
        for pool in self._every_pool():
            pool.drop_idle()

    def _every_pool(self) -> list[BoundedPool]:
        return [pool for reference in list(self._all.values()) if (pool := reference()) is not None]

    def _sit(self, pool: BoundedPool, waiter: Waiter) -> bool:
        """Whether the pool has a seat now, by this permit or by that of another caller, who was first."""
        if waiter.state is not WaiterState.GRANTED:
            return pool.seated
        if pool.seated:
            self._seats.give_back(waiter)
            return True
        self._seated[pool] = waiter
        pool.seated = True
        for other in self._asking.pop(pool, []):
            if other is not waiter:
                self._seats.withdraw(other)
        return True

    def _make_room(self) -> None:
        with self._lock:
            for _ in range(self._seats.waiting):
                if not self._evict():
                    return

    def _evict(self) -> bool:
        for pool in list(self._seated):
            # In this order: whoever comes in between takes a permit first and then looks for the seat.
            pool.seated = False
            if pool.is_idle:
                self._unseat(pool)
                pool.drop_idle()
                return True
            pool.seated = True
        return False

    def _unseat(self, pool: BoundedPool) -> None:
        pool.seated = False
        self._seats.give_back(self._seated.pop(pool))
