"""Calls through a guard: every attempt takes a slot of its own, and the whole has a deadline."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from langflow_sluice.errors import DeadlineExceeded, InvalidInput, QueueTimeout, SluiceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from langflow_sluice.failures import Failure
    from langflow_sluice.guard.clock import Clock
    from langflow_sluice.guard.guard import Guard, Slot
    from langflow_sluice.guard.settings import Priority

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

T = TypeVar("T")

deadline = timeout
"""``asyncio.timeout``, from its backport where Python does not have it yet."""

BACKOFF_BASE_S = 0.5
BACKOFF_CAP_S = 20.0


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """How a guarded call is made.

    Attributes:
        max_retries: Attempts after the first, for failures that may pass.
        total_timeout_s: Seconds for all of it: queue, attempts and the waits between; 0 turns it off.
        priority: The lane in the guard's queue.
    """

    max_retries: int = 2
    total_timeout_s: float = 300.0
    priority: Priority = "normal"

    def __post_init__(self) -> None:
        for name in ("max_retries", "total_timeout_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
                raise InvalidInput.of(name, value, "it cannot be negative", fix=f"Set {name} to 0 or above.")


@dataclass(slots=True)
class Tally:
    """What the calls of one node came to in one run; for its status.

    Attributes:
        calls: Calls that were made, whatever came of them.
        retries: Attempts after the first.
        waited_s: Seconds spent in the guard's queue, summed over the calls.
    """

    calls: int = 0
    retries: int = 0
    waited_s: float = 0.0


class Attempts:
    """The attempts of one call: counts them, decides on another one and on the wait before it.

    The wait is exponential backoff with full jitter, uniform between 0 and base x 2^n under a cap (M. Brooker,
    Exponential Backoff And Jitter, AWS Architecture Blog, 2015). Where the service said how long to wait, the whole
    guard waits that long instead.

    Args:
        guard: Paused where the service asks for it.
        policy: Number of attempts and deadline.
        diagnose: Tells what a foreign error means, or None if it did not come from the service.
        tally: Counts the call, its attempts and its waiting.
    """

    def __init__(
        self,
        guard: Guard,
        policy: CallPolicy,
        diagnose: Callable[[Exception], Failure | None],
        tally: Tally | None = None,
    ) -> None:
        self.tally = tally or Tally()
        self.tally.calls += 1
        self._guard = guard
        self._policy = policy
        self._diagnose = diagnose
        self._started = guard.clock.now()
        self.made = 0

    def time_left(self) -> float | None:
        """Seconds until the deadline, or None without one."""
        if not self._policy.total_timeout_s:
            return None
        return self._policy.total_timeout_s - (self._guard.clock.now() - self._started)

    def slot(self, tokens: float) -> Slot:
        """The slot for the next attempt, to be entered at once."""
        self.check_deadline()
        return self._guard.slot(tokens=tokens, priority=self._policy.priority, patience_s=self.time_left())

    def check_deadline(self) -> None:
        """Raises ``DeadlineExceeded`` if the deadline has passed."""
        left = self.time_left()
        if left is not None and left <= 0:
            raise self.too_late()

    def wait_after(self, error: Exception, *, final: bool = False) -> float:
        """Decides after a failed attempt.

        Args:
            error: What the attempt raised.
            final: Whether part of the answer has been passed on already, so that there can be no other attempt.

        Returns:
            Seconds to wait before the next attempt.

        Raises:
            SluiceError: There is no next attempt; without the foreign error, which may carry a prompt or a key.
            Exception: ``error`` itself, where it did not come from the service.
        """
        left = self.time_left()
        if isinstance(error, (QueueTimeout, TimeoutError, asyncio.TimeoutError)) and left is not None and left <= 0:
            raise self.too_late() from None
        if isinstance(error, SluiceError):
            raise error
        self.made += 1
        failure = self._diagnose(error)
        if failure is None:
            raise error
        if failure.retry_after_s is not None:
            self._guard.pause(failure.retry_after_s)
        if final or not failure.retryable or self.made > self._policy.max_retries:
            raise failure.error from None
        self._guard.count_retry()
        self.tally.retries += 1
        if failure.retry_after_s is not None:
            return 0.0
        return random.uniform(0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** (self.made - 1)))  # noqa: S311 - no secret

    def too_late(self) -> DeadlineExceeded:
        """The error for a call that ran out of time."""
        msg = (
            f"A call through guard {self._guard.name!r} did not finish within {self._policy.total_timeout_s:g} s "
            f"(total_timeout), waiting and {self.made} failed attempts included."
        )
        return DeadlineExceeded(msg, hint="Raise total_timeout, or lower the load on the service behind the guard.")


async def call(
    guard: Guard,
    policy: CallPolicy,
    attempt: Callable[[Slot], Awaitable[T]],
    diagnose: Callable[[Exception], Failure | None],
    *,
    tokens: float = 0.0,
    tally: Tally | None = None,
) -> T:
    """Makes one guarded call, with retries, from any event loop.

    Args:
        guard: The gate.
        policy: Retries, deadline and priority.
        attempt: Makes one request while the slot is held.
        diagnose: Tells what a foreign error means, or None if it did not come from the service.
        tokens: Estimate to reserve for each attempt.
        tally: Counts the call, its attempts and its waiting.

    Raises:
        SluiceError: Turned away, too late, or what ``diagnose`` made of the last attempt's error.
    """
    attempts = Attempts(guard, policy, diagnose, tally)
    while True:
        try:
            async with attempts.slot(tokens) as slot, deadline(attempts.time_left()):
                attempts.tally.waited_s += slot.waited_s
                return await attempt(slot)
        except Exception as error:  # noqa: BLE001 - wait_after raises what is not retried
            wait_s = attempts.wait_after(error)
        await sleep(guard.clock, wait_s)


def call_blocking(
    guard: Guard,
    policy: CallPolicy,
    attempt: Callable[[Slot], T],
    diagnose: Callable[[Exception], Failure | None],
    *,
    tokens: float = 0.0,
    tally: Tally | None = None,
) -> T:
    """``call`` for a thread without a running event loop; a running attempt ends by its own timeouts only."""
    attempts = Attempts(guard, policy, diagnose, tally)
    while True:
        try:
            with attempts.slot(tokens) as slot:
                attempts.tally.waited_s += slot.waited_s
                return attempt(slot)
        except Exception as error:  # noqa: BLE001 - wait_after raises what is not retried
            wait_s = attempts.wait_after(error)
        sleep_blocking(wait_s)


def sleep_blocking(seconds: float) -> None:
    """Waits on the calling thread."""
    time.sleep(seconds)


async def sleep(clock: Clock, seconds: float) -> None:
    """Waits on the guard's clock, so that a test need not wait."""
    if seconds <= 0:
        return
    loop = asyncio.get_running_loop()
    passed = loop.create_future()

    def resolve() -> None:
        if not passed.done():
            passed.set_result(None)

    def wake() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(resolve)

    timer = clock.call_at(clock.now() + seconds, wake)
    try:
        await passed
    finally:
        timer.cancel()
