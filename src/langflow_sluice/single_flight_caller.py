"""One caller of a single flight: what it has, what it computes, what it waits for, and how it is woken."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import threading
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import DeadlineExceeded, WouldBlockLoop
from langflow_sluice.guard.waiter import Sleeper, on_event_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from langflow_sluice.single_flight import Ask, SingleFlightCache

# How often those who wait look whether whoever computes for them is still there. A loop that has not come round for a
# whole such time is taken as lost, too: it may be blocked by the very caller that waits. A loop busy with Python code
# comes round later than one would think (1.5 s in the median were measured), and a false alarm costs one more request.
CHECK_S = 3.0

# Errors that tell of the caller's own time and thread, not of what was asked for: others need not share them.
_PRIVATE = (DeadlineExceeded, WouldBlockLoop)


class FlightTimeout(TimeoutError):
    """What others compute was not there in a caller's own time."""


class Flight:
    """One computation under way; those who ask may join it while it is in the cache's table."""

    __slots__ = ("followers", "leader", "place", "settled")

    def __init__(self, place: tuple[Hashable, Hashable, Hashable], leader: Caller) -> None:
        self.place = place
        self.leader = leader
        self.followers: dict[Caller, None] = {}
        self.settled = False

    @property
    def key(self) -> Hashable:
        """What is computed, within its namespace."""
        return self.place[2]


def promote(heir: Caller, flight: Flight) -> None:
    """Makes one of those who wait the one who computes."""
    flight.leader = heir
    flight.followers.pop(heir, None)
    heir.leads[flight.key] = flight
    heir.follows.pop(flight.key, None)


class Caller(Sleeper):
    """One call: what it has, what it is to compute, and what it waits for.

    Other threads give to a caller under the cache's lock: first what it gains, then it no longer follows. The caller
    looks the other way round and without the lock, so that it never seems complete in between.

    Attributes:
        loop: Where it runs; None for a thread that it may block.
        may_wait: Whether waiting cannot hold up what it would wait for.
        found: What is kept of the values that it has, by key.
        leads: What it is to compute, by key.
        follows: What others compute for it, by key.
        error: What somebody who computed for it has raised.
    """

    __slots__ = (
        "_cache",
        "_check_at",
        "_pings",
        "_until",
        "ask",
        "error",
        "follows",
        "found",
        "leads",
        "loop",
        "may_wait",
        "thread",
    )

    def __init__(self, cache: SingleFlightCache[Any, Any], ask: Ask, loop: asyncio.AbstractEventLoop | None) -> None:
        super().__init__()
        now = cache.clock.now()
        self._cache = cache
        self._until = now + ask.timeout_s if ask.timeout_s else math.inf
        self._check_at = now + CHECK_S
        self._pings: dict[Caller, _Ping] = {}
        self.ask = ask
        self.loop = loop
        self.thread = threading.current_thread()
        self.may_wait = loop is not None or not on_event_loop()
        self.found: dict[Hashable, Any] = {}
        self.leads: dict[Hashable, Flight] = {}
        self.follows: dict[Hashable, Flight] = {}
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cache.leave(self)

    @property
    def complete(self) -> bool:
        """Whether it has all its values."""
        return not self.follows and not self.leads and self.error is None

    @property
    def ready(self) -> bool:
        """Whether there is something else to do than to wait."""
        return not self.follows or bool(self.leads) or self.error is not None

    def to_compute(self) -> list[Hashable]:
        """The keys to compute now, if any."""
        if self.error is not None:
            raise copied(self.error) from None
        return list(self.leads)

    @contextlib.contextmanager
    def computing(self, mine: list[Hashable]) -> Iterator[None]:
        """Around the computation of these keys: its error is the followers', unless it tells of the caller alone."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, _PRIVATE):
                self._cache.fail(self, [self.leads[key] for key in mine], error)
            raise

    def land(self, mine: list[Hashable], values: Sequence[Any]) -> None:
        """Hands over the values of these keys."""
        packing = self._cache.packing
        packed = {key: packing.pack(value) for key, value in zip(mine, values, strict=True)}
        landed = [(self.leads[key], each, packing.size(each)) for key, each in packed.items()]
        self.found.update(packed)
        self._cache.land(self, landed)
        for key in mine:
            self.leads.pop(key, None)

    def values(self, keys: Sequence[Hashable]) -> list[Any]:
        """A new value for each key."""
        unpack = self._cache.packing.unpack
        return [unpack(self.found[key]) for key in keys]

    async def wait(self) -> None:
        """Waits until there is something to do or to look at."""
        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def resolve() -> None:
            if not woken.done():
                woken.set_result(None)

        with self._woken_by(functools.partial(loop.call_soon_threadsafe, resolve)):
            if not self.ready:
                await woken
        self._look_around()

    def wait_blocking(self) -> None:
        """``wait`` on a thread."""
        woken = threading.Event()
        with self._woken_by(woken.set):
            if not self.ready:
                woken.wait()
        self._look_around()

    @contextlib.contextmanager
    def _woken_by(self, wake: Callable[[], object]) -> Iterator[None]:
        def on_time() -> None:
            self.wake()

        timer = self._cache.clock.call_at(min(self._until, self._check_at), on_time)
        self._wake = wake
        try:
            yield
        finally:
            self._wake = None
            timer.cancel()

    def _look_around(self) -> None:
        if self.ready:
            return
        now = self._cache.clock.now()
        if now >= self._until:
            msg = f"what another caller computes was not there within {self.ask.timeout_s:g} s"
            raise FlightTimeout(msg)
        if now >= self._check_at:
            self._check_at = now + CHECK_S
            lost = {leader for leader in {each.leader for each in list(self.follows.values())} if self._lost(leader)}
            if lost:
                self._cache.take_over(self, lost)

    def _lost(self, leader: Caller) -> bool:
        loop = leader.loop
        if loop is None:
            return not leader.thread.is_alive()
        if loop is self.loop:
            return False
        known = self._pings.get(leader)
        if known is not None and not known.answered:
            return True
        ping = self._pings[leader] = _Ping()
        try:
            loop.call_soon_threadsafe(ping.answer)
        except RuntimeError:  # closed
            return True
        return False


class _Ping:
    """Whether a loop has come round since it was asked to."""

    __slots__ = ("answered",)

    def __init__(self) -> None:
        self.answered = False

    def answer(self) -> None:
        self.answered = True


def copied(error: Exception) -> Exception:
    """The same error without its traceback and context; for each who raises it, since raising adds to a traceback."""
    kind = type(error)
    try:
        # Not by calling the class: foreign errors take arguments that they do not keep.
        made: Exception = kind.__new__(kind, *error.args)
        made.__dict__.update(error.__dict__)
    except Exception:  # noqa: BLE001 - whatever a foreign class does: the error itself is better than none
        return error
    return made
