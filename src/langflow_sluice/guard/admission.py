"""Who may go now: concurrency, rates and order decided in one place, from any thread or loop.

All state of a guard is changed by one thread at a time, but no thread ever waits for another to do so. A caller puts
what it wants into an inbox and tries the lock: whoever holds the lock works off the inbox, and looks into it once more
after letting go. This keeps four promises that a plain lock, or a home event loop, cannot keep together:

* a release is safe anywhere, also in a finaliser that the garbage collector runs in the middle of an admission on the
  same thread (a plain lock would deadlock there);
* a permit costs no hop to another thread or loop (measured: 1.5 s in the median while a home loop is busy);
* no loop owns the state, so a loop that closes takes nothing with it but its own waiters;
* decisions are made in the order in which the callers came.

The technique is known as flat combining (Hendler, Incze, Shavit, Tzafrir: Flat Combining and the
Synchronization-Parallelism Tradeoff, SPAA 2010).
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from langflow_sluice.guard.adaptive import AdaptiveLimit
from langflow_sluice.guard.breaker import BreakerState, CircuitBreaker
from langflow_sluice.guard.histogram import Histogram
from langflow_sluice.guard.lanes import Lanes
from langflow_sluice.guard.meter import RateMeter
from langflow_sluice.guard.waiter import Outcome, Waiter, WaiterState

if TYPE_CHECKING:
    from collections.abc import Callable

    from langflow_sluice.cluster.share import ClusterShare
    from langflow_sluice.cluster.standing import SharedBreaker
    from langflow_sluice.guard.clock import Clock, Timer
    from langflow_sluice.guard.settings import GuardSettings, Priority

# Deadlines of callers that have long been served stay in the heap until there are this many more than waiters.
_STALE_DEADLINES = 64
# The cap under which an adaptive guard without one of its own looks for the service's capacity.
MAX_ADAPTIVE = 256
# The latest waits and services over which percentiles are taken.
RECENT = 1000


class AdmissionQueue:
    """Permits under a concurrency cap, two rates and a bounded queue.

    Every public method may be called from any thread, with or without a running event loop, and returns at once.

    Args:
        settings: The limits in force; change them with ``change``.
        clock: Source of time and wake-ups.
        join: Makes the share of a guard that all processes of a cluster share.

    Attributes:
        share: Where Redis says who may go; None where this process alone does.
    """

    def __init__(
        self,
        settings: GuardSettings,
        clock: Clock,
        join: Callable[[AdmissionQueue, GuardSettings], ClusterShare] | None = None,
    ) -> None:
        self._clock = clock
        self._join = join
        self._lock = threading.Lock()
        self._inbox: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._woken: list[Waiter] = []
        self._lanes = Lanes()
        self._deadlines: list[tuple[float, int, Waiter]] = []
        self._arrivals = 0
        self._timer: Timer | None = None
        self._requests: RateMeter | None = None
        self._tokens: RateMeter | None = None
        self.adaptive: AdaptiveLimit | None = None
        self.breaker: CircuitBreaker | SharedBreaker = CircuitBreaker()
        self.share: ClusterShare | None = None
        self._alone = settings
        self.waits_s: deque[float] = deque(maxlen=RECENT)
        self.services_s: deque[float] = deque(maxlen=RECENT)
        self.wait_times = Histogram()
        self.service_times = Histogram()
        self.in_flight = 0
        self.peak_in_flight = 0
        self.admitted = 0
        self.refused = 0
        self.expired = 0
        self.gone = 0
        self.broken = 0
        self.cut_off = 0
        self.paused_until = -math.inf
        self.settings = settings
        # As any other change: a share's answers may come from now on.
        self._submit(self._apply, settings)

    def enter(self, waiter: Waiter) -> None:
        """Asks for a permit; afterwards the waiter is settled or in the queue."""
        self._submit(self._enter, waiter)

    def release(self, waiter: Waiter) -> None:
        """Gives a waiter's permit back."""
        self._submit(self._release, waiter)

    def report(self, waiter: Waiter, outcome: Outcome, pause_s: float = 0.0) -> None:
        """Notes what a call told about the service; before its permit is given back, since that admits the next.

        Args:
            waiter: Whose permit the call holds.
            outcome: What it told.
            pause_s: Seconds for which the service asked to be left alone. Those that a burst of refusals asks for one
                after the other count as one pause, from the first.
        """
        self._submit(self._report, (waiter, outcome, pause_s))

    def leave(self, waiter: Waiter) -> None:
        """Withdraws a waiter whose caller gave up; a permit granted meanwhile goes to the next."""
        self._submit(self._leave, waiter)

    def change(self, settings: GuardSettings) -> None:
        """Puts other limits in force; those who wait keep their places, those in flight finish."""
        self._submit(self._apply, settings)

    def correct_tokens(self, amount: float) -> None:
        """Charges tokens (or refunds, if negative) after the fact."""
        self._submit(self._correct_tokens, amount)

    def outlived(self, waiter: Waiter) -> bool:
        """Whether a permit is this process's no more: it was stopped between the grant and the caller's next step."""
        share = self.share
        return share is not None and waiter.state is WaiterState.GRANTED and share.outlived(waiter)

    def waiting(self) -> dict[Priority, int]:
        """How many wait, by priority; a snapshot."""
        return self._lanes.waiting()

    def submit(self, command: Callable[[Any], None], argument: object) -> None:
        """Runs a command of the share's, at once or on the thread that changes the queue now."""
        self._submit(command, argument)

    def _submit(self, command: Callable[[Any], None], argument: object) -> None:
        self._inbox.append((command, argument))
        self._work_off()

    def _work_off(self) -> None:
        while self._inbox:
            if not self._lock.acquire(blocking=False):
                # Whoever holds the lock looks into the inbox again after letting go of it.
                return
            try:
                while self._inbox:
                    command, argument = self._inbox.popleft()
                    command(argument)
                self._admit()
                woken, self._woken = self._woken, []
            finally:
                self._lock.release()
            # Waking is I/O (a write to another loop's self-pipe): done outside the lock.
            for waiter in woken:
                if not waiter.wake():
                    self._inbox.append((self._leave, waiter))

    def _enter(self, waiter: Waiter) -> None:
        now = self._clock.now()
        waiter.enqueued_at = now
        if self._is_open(now):
            self._settle(waiter, WaiterState.BROKEN)
            self.broken += 1
            return
        if self.share is not None and self.share.cut_off:
            self._settle(waiter, WaiterState.CUT_OFF)
            self.cut_off += 1
            return
        self._arrivals += 1
        if not len(self._lanes):
            if self._free_at(waiter, now) <= now and self._grant(waiter, now):
                return
        else:
            self._expire(now)
        limit = self.settings.max_queue
        if limit and len(self._lanes) >= limit:
            waiter.position = len(self._lanes)
            self._settle(waiter, WaiterState.REFUSED)
            self.refused += 1
            return
        waiter.state = WaiterState.WAITING
        waiter.position = len(self._lanes) + 1
        self._lanes.append(waiter)
        patience_s = min(waiter.patience_s or math.inf, self.settings.queue_timeout_s or math.inf)
        if patience_s < math.inf:
            heapq.heappush(self._deadlines, (now + patience_s, self._arrivals, waiter))

    def _release(self, waiter: Waiter) -> None:
        self.in_flight -= 1
        service_s = self._clock.now() - waiter.granted_at
        self.services_s.append(service_s)
        self.service_times.add(service_s)
        self._end_probe(waiter)
        if self.share is not None:
            self.share.gave_back()

    def _end_probe(self, waiter: Waiter) -> None:
        if waiter.probe:
            waiter.probe = False
            if isinstance(self.breaker, CircuitBreaker):
                self.breaker.unknown(probe=True)
            elif self.share is not None:
                self.share.probe_told_nothing()

    def _report(self, report: tuple[Waiter, Outcome, float]) -> None:
        waiter, outcome, pause_s = report
        if self.share is not None and not self.share.alone:
            self.share.report(waiter, outcome, pause_s)
            waiter.probe = False
            return
        now = self._clock.now()
        first = True
        if self.adaptive is not None:
            if outcome is Outcome.OK:
                self.adaptive.succeeded(now, self.in_flight, waiter.epoch)
            elif outcome is not Outcome.FAULT:
                first = self.adaptive.overloaded(now, waiter.epoch)
        if pause_s and first:
            self._pause(now + pause_s)
        breaker = self._own_breaker()
        if outcome in {Outcome.FAULT, Outcome.TIMEOUT}:
            breaker.failed(now, probe=waiter.probe)
        else:
            breaker.succeeded(probe=waiter.probe)
        waiter.probe = False

    def _leave(self, waiter: Waiter) -> None:
        if waiter.state is WaiterState.WAITING:
            waiter.state = WaiterState.GONE
            self._lanes.leave(waiter)
            self.gone += 1
        elif waiter.state is WaiterState.GRANTED:
            waiter.state = WaiterState.GONE
            self.gone += 1
            self.in_flight -= 1
            self._end_probe(waiter)
            if self.share is not None:
                self.share.gave_back()

    def _apply(self, settings: GuardSettings) -> None:
        if settings.scope == "cluster" and self._join is not None:
            if self.share is None:
                self.share = self._join(self, settings)
            else:
                self.share.change(settings)
        elif self.share is not None:
            self.share.retire()
            self.share = None
        self.settings = settings
        self.obey_share()

    def obey_share(self) -> None:
        """Puts the limits in force that this process must hold itself: all, a part of them, or none.

        For the share, from a command that it has submitted.
        """
        share = self.share
        if share is None:
            self._hold_alone(self.settings)
        elif share.alone:
            before = self._requests, self._tokens
            self._hold_alone(share.local_settings())
            # What the cluster has spent within the last minute is not known here; what this process has spent alone is.
            for known, meter in zip(before, (self._requests, self._tokens), strict=True):
                if known is None and meter is not None:
                    meter.empty()
        else:
            self.breaker = share.breaker
            self.adaptive = self._requests = self._tokens = None
            if share.cut_off:
                self.cut_off += self._turn_away_all(WaiterState.CUT_OFF)

    def _hold_alone(self, settings: GuardSettings) -> None:
        self._alone = settings
        self.breaker = self._own_breaker()
        ceiling = settings.max_concurrency or MAX_ADAPTIVE
        if not settings.adaptive:
            self.adaptive = None
        elif self.adaptive is None:
            self.adaptive = AdaptiveLimit(ceiling)
        else:
            self.adaptive.change_ceiling(ceiling)
        self._requests = _meter(self._requests, settings.requests_per_minute, RateMeter.of_requests, self._clock)
        self._tokens = _meter(self._tokens, settings.tokens_per_minute, RateMeter.of_tokens, self._clock)

    def _own_breaker(self) -> CircuitBreaker:
        if isinstance(self.breaker, CircuitBreaker):
            return self.breaker
        return self.breaker.own()

    def _correct_tokens(self, amount: float) -> None:
        if self.share is not None:
            self.share.correct_tokens(amount)
        if self._tokens is not None:
            self._tokens.correct(amount)

    def _pause(self, until: float) -> None:
        self.paused_until = max(self.paused_until, until)

    def _admit(self) -> None:
        if len(self._lanes):
            self._admit_waiting()
        else:
            self._arm(None)
        if self.share is not None:
            self.share.tell(self._lanes)

    def _admit_waiting(self) -> None:
        now = self._clock.now()
        self._expire(now)
        if self._is_open(now):
            self.broken += self._turn_away_all(WaiterState.BROKEN)
        free_at: float | None = None
        while (waiter := self._lanes.front()) is not None:
            free_at = self._free_at(waiter, now)
            if free_at > now:
                break
            if self._grant(waiter, now):
                self._lanes.pop(waiter)
        self._arm(self._next_wake_up(free_at if len(self._lanes) else None))

    def _free_at(self, waiter: Waiter, now: float) -> float:
        """When the waiter could go: a time past, a time of refill, or never (until a permit comes back)."""
        if self.share is not None and self.share.governs:
            return now if self.share.has_permit(now) else math.inf
        limit = self.limit
        if limit and self.in_flight >= limit:
            return math.inf
        opens_at = self.breaker.opens_at()
        free_at = self.paused_until if opens_at is None else max(self.paused_until, opens_at)
        if self._requests is not None:
            free_at = max(free_at, self._requests.ready_at(1))
        if self._tokens is not None and waiter.tokens:
            # A limit lowered below what a waiter asks for must not hold up the queue for ever.
            free_at = max(free_at, self._tokens.ready_at(min(waiter.tokens, self._tokens.burst)))
        return free_at

    @property
    def limit(self) -> int:
        """Calls that may be in flight now; 0 for any number."""
        if self.share is not None and not self.share.alone:
            return self.share.limit
        return self._alone.max_concurrency if self.adaptive is None else self.adaptive.limit

    def _is_open(self, now: float) -> bool:
        # While a probe is on its way nobody is turned away: it will tell soon.
        opens_at = self.breaker.opens_at()
        return opens_at is not None and now < opens_at < math.inf

    def _turn_away_all(self, state: WaiterState) -> int:
        count = 0
        while (waiter := self._lanes.front()) is not None:
            self._lanes.pop(waiter)
            self._settle(waiter, state)
            count += 1
        return count

    def _grant(self, waiter: Waiter, now: float) -> bool:
        if self.share is not None and self.share.governs:
            if not self.share.spend(waiter):
                return False
        else:
            if self.breaker.state is not BreakerState.CLOSED:
                waiter.probe = self._own_breaker().admit(now)
            if self.share is not None:
                self.share.started_alone()
        waiter.granted_at = now
        self.waits_s.append(now - waiter.enqueued_at)
        self.wait_times.add(now - waiter.enqueued_at)
        if self.adaptive is not None:
            waiter.epoch = self.adaptive.epoch
        if self._requests is not None:
            self._requests.take(1)
        if self._tokens is not None and waiter.tokens:
            covered = min(waiter.tokens, self._tokens.burst)
            self._tokens.take(covered)
            if waiter.tokens > covered:
                self._tokens.correct(waiter.tokens - covered)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        self.admitted += 1
        self._settle(waiter, WaiterState.GRANTED)
        return True

    def _settle(self, waiter: Waiter, state: WaiterState) -> None:
        # The state first, then the look for somebody to wake: see Waiter.
        waiter.state = state
        if waiter.waits:
            self._woken.append(waiter)

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            waiter = heapq.heappop(self._deadlines)[2]
            if waiter.state is WaiterState.WAITING:
                self._settle(waiter, WaiterState.EXPIRED)
                self._lanes.leave(waiter)
                self.expired += 1
        if len(self._deadlines) > 2 * len(self._lanes) + _STALE_DEADLINES:
            self._deadlines = [each for each in self._deadlines if each[2].state is WaiterState.WAITING]
            heapq.heapify(self._deadlines)

    def _next_wake_up(self, free_at: float | None) -> float | None:
        times = [] if free_at is None or free_at == math.inf else [free_at]
        while self._deadlines and self._deadlines[0][2].state is not WaiterState.WAITING:
            heapq.heappop(self._deadlines)
        if self._deadlines:
            times.append(self._deadlines[0][0])
        return min(times, default=None)

    def _arm(self, when: float | None) -> None:
        timer = self._timer
        if timer is not None and not timer.cancelled:
            if when is not None and timer.when <= when:
                return  # an early wake-up finds nothing to do and asks for the next one
            if when is None:
                return  # a wake-up that finds nobody waiting costs less than cancelling and asking again
            timer.cancel()
        self._timer = None if when is None else self._clock.call_at(when, self._on_time)

    def _on_time(self) -> None:
        self._submit(self._forget_timer, None)

    def _forget_timer(self, _: None) -> None:
        self._timer = None


def _meter(
    current: RateMeter | None, per_minute: float, make: Callable[[float, Clock], RateMeter], clock: Clock
) -> RateMeter | None:
    if not per_minute:
        return None
    if current is None:
        return make(per_minute, clock)
    if current.per_minute == per_minute:
        return current
    return current.carried_over(per_minute, make(per_minute, clock).burst)
