"""Requests and tokens per minute, metered by aiolimiter's leaky bucket.

aiolimiter keeps the arithmetic of the bucket; its queue is not used. That queue is bound to one event loop and serves
the smallest request first, so that a large one can wait for ever; the guard's own queue stands in its place, for all
loops and threads and in the order of arrival.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

if TYPE_CHECKING:
    from langflow_sluice.guard.clock import Clock

SECONDS_PER_MINUTE = 60.0
# A wake-up at exactly the time at which the bucket has room may come out a rounding error too early, find no room, and
# ask for a wake-up at the very same time again.
_ROUNDING_S = 1e-6


class _ClockTime:
    """What a bucket asks of "its loop" where nobody waits in it: the time."""

    __slots__ = ("time",)

    def __init__(self, clock: Clock) -> None:
        self.time = clock.now


class _Bucket(AsyncLimiter):
    """aiolimiter's bucket, reading the guard's clock in place of an event loop's."""

    __slots__ = ("_time",)

    def __init__(self, max_rate: float, time_period: float, clock: Clock) -> None:
        super().__init__(max_rate, time_period)
        self._time = _ClockTime(clock)

    @property
    def _loop(self) -> _ClockTime:  # type: ignore[override]
        return self._time


class RateMeter:
    """One budget per minute. Not thread-safe: the guard calls it from one thread at a time.

    Args:
        per_minute: The budget; above 0.
        burst: Units that may be taken at once after a pause; at least the largest single request.
        clock: Source of time.
    """

    __slots__ = ("_bucket", "_clock", "burst", "per_minute")

    def __init__(self, per_minute: float, burst: float, clock: Clock) -> None:
        self.per_minute = per_minute
        self.burst = burst
        self._clock = clock
        self._bucket = _Bucket(burst, burst / per_minute * SECONDS_PER_MINUTE, clock)

    @classmethod
    def of_requests(cls, per_minute: float, clock: Clock) -> RateMeter:
        """A meter for calls: its burst is one second's share of the budget, at least one call."""
        return cls(per_minute, max(1.0, per_minute / SECONDS_PER_MINUTE), clock)

    @classmethod
    def of_tokens(cls, per_minute: float, clock: Clock) -> RateMeter:
        """A meter for tokens: its burst is the whole minute's budget."""
        return cls(per_minute, per_minute, clock)

    def ready_at(self, amount: float) -> float:
        """The time from which ``amount`` can be taken; minus infinity if it can be at once."""
        if self._bucket.has_capacity(amount):
            return -math.inf
        missing = self._bucket._level + amount - self.burst  # noqa: SLF001 - has_capacity has just brought it up to date
        return self._clock.now() + missing * SECONDS_PER_MINUTE / self.per_minute + _ROUNDING_S

    def take(self, amount: float) -> None:
        """Takes ``amount``; only right after ``ready_at`` has said that it is there."""
        # What aiolimiter's acquire does once it has found room, without a coroutine and a second look for room.
        self._bucket._level += amount  # noqa: SLF001

    def empty(self) -> None:
        """Forgets what could be taken at once; from now on the budget comes as time goes by."""
        self._bucket.has_capacity(0)
        self._bucket._level = self.burst  # noqa: SLF001 - see correct

    def correct(self, amount: float) -> None:
        """Charges ``amount`` more (or refunds, if negative) after the fact; the bucket may go below empty."""
        self._bucket.has_capacity(0)
        self._bucket._level = max(0.0, self._bucket._level + amount)  # noqa: SLF001 - aiolimiter has no refund

    def carried_over(self, per_minute: float, burst: float) -> RateMeter:
        """A meter with another budget that remembers what this one has spent."""
        meter = RateMeter(per_minute, burst, self._clock)
        self._bucket.has_capacity(0)
        meter.correct(self._bucket._level)  # noqa: SLF001 - see correct
        return meter
