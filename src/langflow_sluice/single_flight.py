"""One computation for all who ask for the same at once, from any event loop and any thread, and its value for a while.

Whoever asks first computes, on its own loop or thread; the others wait, each on its own and for as long as its own
time allows. No loop and no thread owns the state, so none can take it along: where the one who computes is cancelled,
or its loop closes or stands still, one of those who wait takes over. (Libraries with a single flight keep it within one
loop or within threads, and fail the followers with their leader; so this one is our own.)

State is changed under a lock that is held for microseconds. What ends a call goes through an inbox, as in the guard's
admission queue: a coroutine that the garbage collector closes may end in the middle of a change on the same thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from langflow_sluice.cache import BoundedCache
from langflow_sluice.guard.clock import SYSTEM_CLOCK
from langflow_sluice.single_flight_caller import Caller, Flight, copied, promote

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Sequence

    from langflow_sluice.cache import Packing
    from langflow_sluice.guard.clock import Clock

V = TypeVar("V")
P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Ask:
    """How a caller asks.

    Attributes:
        namespace: What the keys belong to and are invalidated with, such as a model or a collection.
        ttl_s: Seconds for which a finished value is taken, and kept. 0 is off altogether: each call is made, and
            nothing is looked up, shared or kept.
        terms: Callers share a computation only under equal terms: they get its place in a queue, its patience and its
            errors. Finished values are shared by all.
        timeout_s: Seconds to wait for what others compute; 0 for any time.
        spare: Keeps values so that they push out no other ones; for bulk that may never be asked for again.
    """

    namespace: Hashable
    ttl_s: float
    terms: Hashable = None
    timeout_s: float = 0.0
    spare: bool = False


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """A snapshot; counts are of keys, since the start of the process.

    Attributes:
        hits: Found finished.
        shared: Waited for while somebody else computed.
        misses: Computed.
        evicted: Finished values that had to go for others.
        entries: Finished values kept now.
        size_bytes: Their bytes.
        in_flight: Being computed now.
    """

    hits: int
    shared: int
    misses: int
    evicted: int
    entries: int
    size_bytes: int
    in_flight: int


class SingleFlightCache(Generic[V, P]):
    """Values by namespace and key, each computed once however many ask; for any number of loops and threads at once.

    Guarantees:
    - an error goes to those who waited for it, each with a copy of its own, and is not kept;
    - a caller that is cancelled, or runs out of its own time, fails nobody else;
    - what was being computed when its namespace was invalidated is neither kept nor served to those who ask later;
    - a blocking caller on a thread that runs an event loop never waits there, since the computation may be a task of
      that very loop: it computes for itself, and for the others.

    A forked child starts with an empty cache.

    Args:
        packing: How values are kept.
        max_entries: Finished values kept at most.
        max_bytes: Their sizes added up, at most.
        clock: Source of time and wake-ups.
    """

    def __init__(
        self, packing: Packing[V, P], *, max_entries: int, max_bytes: int, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.packing = packing
        self.clock = clock
        self._bounds = (max_entries, max_bytes)
        self._flights: dict[tuple[Hashable, Hashable, Hashable], Flight] = {}
        self._start_afresh()
        _caches.add(self)

    def _start_afresh(self) -> None:
        for flight in self._flights.values():
            flight.followers.clear()  # those of a parent process are not ours to wake
        self._lock = threading.Lock()
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken: list[Caller] = []
        self._flights = {}
        self._kept: BoundedCache[P] = BoundedCache(*self._bounds)
        self._hits = self._shared = self._misses = 0

    async def get(self, ask: Ask, key: Hashable, compute: Callable[[], Awaitable[V]]) -> V:
        """``get_many`` for one key."""

        async def compute_one(_: list[Any]) -> list[V]:
            return [await compute()]

        [value] = await self.get_many(ask, [key], compute_one)
        return value

    def get_blocking(self, ask: Ask, key: Hashable, compute: Callable[[], V]) -> V:
        """``get`` for a caller that blocks its thread."""
        [value] = self.get_many_blocking(ask, [key], lambda _: [compute()])
        return value

    async def get_many(
        self, ask: Ask, keys: Sequence[Hashable], compute: Callable[[list[Any]], Awaitable[Sequence[V]]]
    ) -> list[V]:
        """The values of the keys, in their order; from any event loop.

        Args:
            ask: Namespace, time to live and the caller's own terms.
            keys: May hold one several times.
            compute: Called with keys that nobody has or computes; returns their values in that order. Called again
                where somebody who computed for this caller gave up.

        Raises:
            FlightTimeout: Others did not finish within ``timeout_s``.
            Exception: Whatever ``compute`` raised, here or at whoever computed.
        """
        if not ask.ttl_s:
            return list(await compute(list(keys)))
        with Caller(self, ask, asyncio.get_running_loop()) as caller:
            self._enter(caller, keys)
            while not caller.complete:
                if mine := caller.to_compute():
                    with caller.computing(mine):
                        caller.land(mine, await compute(mine))
                else:
                    await caller.wait()
            return caller.values(keys)

    def get_many_blocking(
        self, ask: Ask, keys: Sequence[Hashable], compute: Callable[[list[Any]], Sequence[V]]
    ) -> list[V]:
        """``get_many`` for a caller that blocks its thread."""
        if not ask.ttl_s:
            return list(compute(list(keys)))
        with Caller(self, ask, None) as caller:
            self._enter(caller, keys)
            while not caller.complete:
                if mine := caller.to_compute():
                    with caller.computing(mine):
                        caller.land(mine, compute(mine))
                else:
                    caller.wait_blocking()
            return caller.values(keys)

    def invalidate(self, namespace: Hashable) -> None:
        """Forgets a namespace: whoever asks from now on gets what is computed from now on."""
        with self._exclusive():
            self._kept.drop(namespace)
            for place in [each for each in self._flights if each[0] == namespace]:
                del self._flights[place]

    def clear(self) -> None:
        """Invalidates all namespaces, and counts afresh; for tests."""
        with self._exclusive():
            self._flights.clear()
            self._kept = BoundedCache(*self._bounds)
            self._hits = self._shared = self._misses = 0

    def statistics(self) -> CacheStatistics:
        """A snapshot; takes no lock."""
        kept = self._kept
        return CacheStatistics(
            hits=self._hits,
            shared=self._shared,
            misses=self._misses,
            evicted=kept.evicted,
            entries=len(kept),
            size_bytes=kept.size,
            in_flight=len(self._flights),
        )

    def _enter(self, caller: Caller, keys: Sequence[Hashable]) -> None:
        ask = caller.ask
        with self._exclusive():
            since = self.clock.now() - ask.ttl_s
            for key in dict.fromkeys(keys):
                packed = self._kept.find(ask.namespace, key, since=since)
                if packed is not None:
                    self._hits += 1
                    caller.found[key] = packed
                    continue
                place = (ask.namespace, ask.terms, key)
                flight = self._flights.get(place)
                if flight is not None and caller.may_wait:
                    self._shared += 1
                    flight.followers[caller] = None
                    caller.follows[key] = flight
                    continue
                self._misses += 1
                if flight is None:
                    flight = self._flights[place] = Flight(place, caller)
                # One that may not wait computes beside the leader; the first value is everybody's.
                caller.leads[key] = flight

    def take_over(self, caller: Caller, lost: Collection[Caller]) -> None:
        """Makes a caller compute what it follows of those that are lost."""
        with self._exclusive():
            for flight in list(caller.follows.values()):
                if flight.leader in lost:
                    promote(caller, flight)

    def land(self, caller: Caller, landed: list[tuple[Flight, Any, int]]) -> None:
        """Gives values to those who wait, and keeps them; also from one whose flight was taken over meanwhile."""
        self._submit(self._land, caller, landed)

    def fail(self, caller: Caller, flights: list[Flight], error: Exception) -> None:
        """Gives an error to those who wait."""
        # Without its traceback, whose frames hold what the caller held.
        self._submit(self._fail, caller, flights, copied(error))

    def leave(self, caller: Caller) -> None:
        """Ends a caller, however it ends: what it was to compute goes to another one."""
        if caller.leads or caller.follows:
            self._submit(self._leave, caller)

    def _land(self, caller: Caller, landed: list[tuple[Flight, Any, int]]) -> None:
        now = self.clock.now()
        for flight, packed, size in landed:
            if flight.settled:
                continue
            flight.settled = True
            namespace, _, key = flight.place
            if self._forget(flight):
                self._kept.keep(namespace, key, packed, size, now=now, spare=caller.ask.spare)
            for follower in flight.followers:
                follower.found[key] = packed
                self._release(follower, flight)
            flight.followers.clear()

    def _fail(self, caller: Caller, flights: list[Flight], error: Exception) -> None:
        for flight in flights:
            if flight.settled or flight.leader is not caller:
                continue
            flight.settled = True
            self._forget(flight)
            for follower in flight.followers:
                follower.error = error
                self._release(follower, flight)
            flight.followers.clear()

    def _release(self, follower: Caller, flight: Flight) -> None:
        follower.follows.pop(flight.key, None)
        if follower.ready:
            self._woken.append(follower)

    def _leave(self, caller: Caller) -> None:
        for flight in caller.follows.values():
            flight.followers.pop(caller, None)
        caller.follows.clear()
        for flight in list(caller.leads.values()):
            if flight.leader is caller and not flight.settled:
                self._hand_over(flight)
        caller.leads.clear()

    def _hand_over(self, flight: Flight) -> None:
        # Rather to one that waits than to one that still computes something else.
        heirs = sorted(flight.followers, key=lambda follower: not follower.waits)
        if not heirs:
            self._forget(flight)
            return
        promote(heirs[0], flight)
        self._woken.append(heirs[0])

    def _forget(self, flight: Flight) -> bool:
        """Lets nobody join any more; False where its namespace was invalidated, or somebody else computes now."""
        if self._flights.get(flight.place) is not flight:
            return False
        del self._flights[flight.place]
        return True

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock:
            self._run_inbox()
            yield
            woken, self._woken = self._woken, []
        self._wake(woken)
        self._work_off()

    def _submit(self, command: Callable[..., None], *arguments: Any) -> None:
        self._inbox.append((command, arguments))
        self._work_off()

    def _work_off(self) -> None:
        # Whoever holds the lock looks into the inbox again after letting go of it.
        while self._inbox and self._lock.acquire(blocking=False):
            try:
                self._run_inbox()
                woken, self._woken = self._woken, []
            finally:
                self._lock.release()
            self._wake(woken)

    def _run_inbox(self) -> None:
        while self._inbox:
            command, arguments = self._inbox.popleft()
            command(*arguments)

    def _wake(self, woken: list[Caller]) -> None:
        # Outside the lock: it is a write to another loop's self-pipe.
        for caller in woken:
            if not caller.wake():
                self._inbox.append((self._leave, (caller,)))


_caches: weakref.WeakSet[SingleFlightCache[Any, Any]] = weakref.WeakSet()


def clear_caches() -> None:
    """Empties all caches of the process; for tests."""
    for cache in list(_caches):
        cache.clear()


def _start_afresh() -> None:
    for cache in list(_caches):
        cache._start_afresh()  # noqa: SLF001 - the parent's lock may be held, and its callers are not ours


os.register_at_fork(after_in_child=_start_afresh)
