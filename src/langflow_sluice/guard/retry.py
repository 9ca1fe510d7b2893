"""Calls through a guard: every attempt takes a slot of its own, and the whole has a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from langflow_sluice.errors import (
    CircuitOpen,
    DeadlineExceeded,
    InvalidInput,
    QueueTimeout,
    SluiceError,
    checked_amount,
)
from langflow_sluice.guard.waiter import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

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
        wait_for_probe: Whether a call that finds the guard open may wait until the service is tried again.
    """

    max_retries: int = 2
    total_timeout_s: float = 300.0
    priority: Priority = "normal"
    wait_for_probe: bool = True

    def __post_init__(self) -> None:
        for name, field in (("max_retries", "max_retries"), ("total_timeout_s", "total_timeout")):
            value = getattr(self, name)
            checked_amount(field, value, "it is a number of 0 or more", fix=f"Set {field} to 0 or above.")
        if self.max_retries != int(self.max_retries):
            raise InvalidInput.of("max_retries", self.max_retries, "it counts attempts", fix="Enter a whole number.")


@dataclass(slots=True)
class Tally:
    """What the calls of one node came to in one run; for its status.

    Attributes:
        calls: Calls that were made, whatever came of them.
        retries: Attempts after the first.
        waited_s: Seconds spent in the guard's queue, summed over the calls.
        fallbacks: Calls that went to another model instead.
    """

    calls: int = 0
    retries: int = 0
    waited_s: float = 0.0
    fallbacks: int = 0


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
        self._limit_s = policy.total_timeout_s
        self.made = 0

    def time_left(self) -> float | None:
        """Seconds until the deadline, or None without one."""
        return self._limit_s - self.elapsed() if self._limit_s else None

    def elapsed(self) -> float:
        """Seconds since the call began."""
        return self._guard.clock.now() - self._started

    def change_limit(self, total_timeout_s: float) -> None:
        """Sets another deadline, counted from the call's beginning; 0 for none."""
        self._limit_s = total_timeout_s

    def slot(self, tokens: float) -> Slot:
        """The slot for the next attempt, to be entered at once."""
        self.check_deadline()
        return self._guard.slot(tokens=tokens, priority=self._policy.priority, patience_s=self.time_left())

    @contextlib.contextmanager
    def within(self, slot: Slot) -> Iterator[None]:
        """Around an attempt, inside its slot: counts the waiting, and tells the guard what the service said.

        Once the slot is given back it is too late for that: it admits the next in the queue at once.
        """
        self.tally.waited_s += slot.waited_s
        try:
            yield
        except Exception as error:
            failure = self._diagnose(error)
            if failure is not None:
                slot.report(failure.outcome, pause_s=failure.retry_after_s or 0.0)
                if not failure.reached:
                    slot.settle_tokens(0)
            raise
        slot.report(Outcome.OK)

    def check_deadline(self) -> None:
        """Raises ``DeadlineExceeded`` if the deadline has passed."""
        left = self.time_left()
        if left is not None and left <= 0:
            raise self.too_late()

    def wait_after(self, error: Exception, *, final: bool = False) -> float:
        """Decides after a failed attempt, whose slot has been given back.

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
        if isinstance(error, CircuitOpen):
            return self._wait_for_probe(error, left)
        if isinstance(error, SluiceError):
            raise error
        self.made += 1
        failure = self._diagnose(error)
        if failure is None:
            raise error
        if final or not failure.retryable or self.made > self._policy.max_retries:
            raise failure.error from None
        wait_s = 0.0  # the guard pauses for all, see within
        if not failure.retry_after_s:
            longest_s = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** (self.made - 1))
            wait_s = random.uniform(0, longest_s)  # noqa: S311 - no secret
        if left is not None and wait_s >= left:
            # No attempt fits in any more, so what the last one failed of is all there is to say.
            raise failure.error from None
        self._guard.count_retry()
        self.tally.retries += 1
        return wait_s

    def _wait_for_probe(self, error: CircuitOpen, left: float | None) -> float:
        """Waits as an attempt that failed does, until the service is tried again; nothing has been sent."""
        self.made += 1
        # A little later than the probe, which then tells those who come after it.
        wait_s = error.retry_in_s + random.uniform(0, BACKOFF_BASE_S)  # noqa: S311 - no secret
        patient = self._policy.wait_for_probe and self.made <= self._policy.max_retries
        if not patient or (left is not None and wait_s >= left):
            raise error
        self._guard.count_retry()
        self.tally.retries += 1
        return wait_s

    def too_late(self) -> DeadlineExceeded:
        """The error for a call that ran out of time."""
        msg = (
            f"A call through guard {self._guard.name!r} did not finish within {self._limit_s:g} s "
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
                with attempts.within(slot):
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
            with attempts.slot(tokens) as slot, attempts.within(slot):
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
        # The loop may close at any time; an error here would end the clock's thread, and every guard's timers with it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(resolve)

    timer = clock.call_at(clock.now() + seconds, wake)
    try:
        await passed
    finally:
        timer.cancel()
