"""Makes the calls of one stage: in a closed loop each follows the end of another, in an open loop each has its time."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from langflow_sluice.load.call import CUT_OFF, Failure
from langflow_sluice.load.results import Latency

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from langflow_sluice.load.plan import StagePlan

    Send = Callable[[], Awaitable[Failure | None]]


@dataclass(frozen=True, slots=True)
class Call:
    """One call that was sent.

    Attributes:
        seconds: Until it ended: in an open loop from when it was due, else from when it was sent.
        own_s: Until it ended, from when it was sent.
        failure: Why it brought no result; None if it brought one.
    """

    seconds: float
    own_s: float
    failure: Failure | None


@dataclass(slots=True)
class Driven:
    """What became of a stage's calls.

    Attributes:
        calls: Those that were sent, in the order of their ends.
        unsent: How many were not.
        seconds: From the first call to the last answer.
        peak: The most in flight at once.
    """

    calls: list[Call] = field(default_factory=list)
    unsent: int = 0
    seconds: float = 0.0
    peak: int = 0


class Drive:
    """One stage under way; bound to the loop that runs it, its counts may be read from any thread.

    Args:
        plan: What to do.
        send: Makes one call.
        max_seconds: After which no call is sent and those in flight are given up.
        stop: Set, it ends the stage as the time does.

    Attributes:
        in_flight: Calls in flight.
        done: Calls that have ended.
        failed: Of them, those without a result.
    """

    def __init__(self, plan: StagePlan, send: Send, *, max_seconds: float, stop: asyncio.Event) -> None:
        self._plan = plan
        self._send = send
        self._max_seconds = max_seconds
        self._stop = stop
        self._due_s = plan.due_s()
        self._numbers = iter(range(plan.requests))
        self._started = 0.0
        self._first = math.inf
        self._last = 0.0
        self._driven = Driven()
        self.in_flight = 0
        self.done = 0
        self.failed = 0

    async def run(self) -> Driven:
        """Makes the calls; cancelled, it gives up those in flight first."""
        self._started = perf_counter()
        workers = [asyncio.ensure_future(self._work()) for _ in range(min(self._plan.concurrency, self._plan.requests))]
        everything: asyncio.Future[Any] = asyncio.gather(*workers)
        stopping: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({everything, stopping}, timeout=self._max_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopping, *workers):
                task.cancel()
            ended = await asyncio.gather(stopping, *workers, return_exceptions=True)
            # Cancelled with its workers, if it was not done.
            await asyncio.gather(everything, return_exceptions=True)
        for each in ended:
            if isinstance(each, Exception):
                raise each
        driven = self._driven
        driven.unsent = self._plan.requests - len(driven.calls)
        driven.seconds = max(0.0, self._last - self._first) if driven.calls else 0.0
        return driven

    async def _work(self) -> None:
        # In an open loop there are as many workers as calls may be in flight; each waits for the time of its call.
        for number in self._numbers:
            due = None if self._due_s is None else self._started + self._due_s[number]
            if due is not None:
                await asyncio.sleep(max(0.0, due - perf_counter()))
            await self._call(due)

    async def _call(self, due: float | None) -> None:
        driven = self._driven
        self.in_flight += 1
        driven.peak = max(driven.peak, self.in_flight)
        began = perf_counter()
        self._first = min(self._first, began)
        failure: Failure | None = CUT_OFF
        try:
            failure = await self._send()
        except Exception as error:  # noqa: BLE001 - one call is not worth all those that were measured before it
            failure = Failure("error", f"sluice load itself failed at the call: {type(error).__name__}: {error}")
        finally:
            self._last = perf_counter()
            self.in_flight -= 1
            self.done += 1
            self.failed += failure is not None
            since = began if due is None else min(due, began)
            driven.calls.append(Call(self._last - since, self._last - began, failure))


def latency_of(seconds: Collection[float]) -> Latency:
    """Percentiles by nearest rank, of every single time."""
    if not seconds:
        return Latency()
    ranked = sorted(seconds)
    p50, p90, p95, p99 = (ranked[math.ceil(share * len(ranked) / 100) - 1] for share in (50, 90, 95, 99))
    return Latency(math.fsum(ranked) / len(ranked), p50, p90, p95, p99, ranked[-1])
