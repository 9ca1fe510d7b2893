"""The guard: one shared, bounded gate in front of a downstream service."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from langflow_sluice.errors import (
    BulkheadFull,
    CircuitOpen,
    ClusterUnavailable,
    InvalidInput,
    QueueTimeout,
    Rejected,
    WouldBlockLoop,
)
from langflow_sluice.guard.admission import AdmissionQueue
from langflow_sluice.guard.clock import SYSTEM_CLOCK
from langflow_sluice.guard.operator_limits import NO_LIMITS
from langflow_sluice.guard.settings import PRIORITIES, GuardSettings, Priority
from langflow_sluice.guard.statistics import GuardStatistics, percentiles
from langflow_sluice.guard.waiter import Outcome, Waiter, WaiterState, on_event_loop

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from langflow_sluice.cluster.share import ClusterShare
    from langflow_sluice.guard.clock import Clock


# No service gets to stop a deployment for longer with one Retry-After header; it is asked again after that.
MAX_PAUSE_S = 120.0
# Even a free permit of the cluster takes a trip to Redis: a synchronous call on a loop's thread waits so long for it.
_TRIP_S = 0.25


class Slot:
    """One permit of a guard, for ``async with`` or, without an event loop, ``with``; used once.

    The permit is held from entering to leaving, however the body ends. Entering raises what ``Guard.slot`` says.

    Attributes:
        waited_s: Seconds spent in the queue; set on entering.
    """

    __slots__ = ("_guard", "_held", "_waiter", "waited_s")

    def __init__(self, guard: Guard, tokens: float, priority: Priority, patience_s: float | None) -> None:
        self._guard = guard
        self._waiter = Waiter(tokens, priority, patience_s)
        self._held = False
        self.waited_s = 0.0

    async def __aenter__(self) -> Self:
        queue = self._guard.admission
        self._start(queue)
        while not self._waiter.settled:
            waiter = self._waiter
            try:
                await waiter.wait()
            except BaseException:
                # Cancelled while waiting, or just after the grant: the queue tells which.
                queue.leave(waiter)
                raise
            if queue.outlived(waiter):
                self._ask_again(queue)
        self._entered()
        return self

    def __enter__(self) -> Self:
        queue = self._guard.admission
        self._start(queue)
        while not self._waiter.settled:
            waiter = self._waiter
            if on_event_loop() and not self._came_at_once():
                queue.leave(waiter)
                msg = (
                    f"A synchronous call would have to wait for guard {self._guard.name!r} on a thread that runs an "
                    f"event loop, and nothing on that loop could finish meanwhile, the calls it waits for included."
                )
                hint = "Call the asynchronous method (ainvoke, astream), or run the call in a worker thread."
                raise WouldBlockLoop(msg, hint=hint)
            try:
                waiter.wait_blocking()
            except BaseException:
                queue.leave(waiter)
                raise
            if queue.outlived(waiter):
                self._ask_again(queue)
        self._entered()
        return self

    def _came_at_once(self) -> bool:
        queue = self._guard.admission
        # Those who wait already are served first. Else it waits for the answer to this very question and not for a
        # permit that comes back: nothing else goes on on this loop meanwhile.
        if queue.share is None or sum(queue.waiting().values()) > 1:
            return self._waiter.settled
        answered = threading.Event()
        queue.submit(queue.share.call_when_known, answered.set)
        self._waiter.wait_blocking(_TRIP_S, answered)
        return self._waiter.settled

    def _start(self, queue: AdmissionQueue) -> None:
        if self._waiter.state is not WaiterState.NEW:
            msg = "a slot is entered once; ask the guard for another one"
            raise RuntimeError(msg)
        queue.enter(self._waiter)

    def _ask_again(self, queue: AdmissionQueue) -> None:
        before = self._waiter
        queue.leave(before)
        self._waiter = Waiter(before.tokens, before.priority, before.patience_s)
        queue.enter(self._waiter)

    def _entered(self) -> None:
        if self._waiter.state is not WaiterState.GRANTED:
            raise self._guard.turned_away(self._waiter)
        self._held = True
        self.waited_s = self._guard.clock.now() - self._waiter.enqueued_at

    def _leave(self) -> None:
        if self._held:
            self._held = False
            self._guard.admission.release(self._waiter)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def report(self, outcome: Outcome, *, pause_s: float = 0.0) -> None:
        """Tells what the call said about the service; while the slot is held, since leaving it admits the next.

        Args:
            outcome: Feeds the breaker and the adaptive limit.
            pause_s: Seconds for which the service asked to be left alone; pauses the whole guard.
        """
        self._guard.admission.report(self._waiter, outcome, min(pause_s, MAX_PAUSE_S))

    def settle_tokens(self, used: float) -> None:
        """Replaces the tokens reserved on entering by those really used; what is said last counts."""
        self._guard.admission.correct_tokens(used - self._waiter.tokens)
        self._waiter.tokens = used


class Guard:
    """Concurrency cap, rates and bounded queue under one name, for every flow, loop and thread of the process.

    All methods may be called from any thread and any event loop. A guard is one object for life: copies and deep
    copies are the guard itself, since an agent deep-copies its tools for each call.

    Args:
        name: Shown in errors and statistics; must not hold a credential.
        settings: The limits; change them with ``change``.
        clock: Source of time; the machine's unless a test brings its own.
        key: What tells it from other guards, in all processes of the cluster; its name unless given.

    Attributes:
        ceiling: What the server's operator allows at most; already part of ``settings``.
        contested: Names of the limits of which some node asks for more than what is in force.
    """

    def __init__(self, name: str, settings: GuardSettings, clock: Clock = SYSTEM_CLOCK, *, key: str = "") -> None:
        self.name = name
        self.key = key or name
        self.clock = clock
        _check_cluster(settings)
        self.admission = AdmissionQueue(settings, clock, self._join)
        self.ceiling = NO_LIMITS
        self.contested: frozenset[str] = frozenset()
        self.retries = 0

    @property
    def settings(self) -> GuardSettings:
        """The limits in force."""
        return self.admission.settings

    def change(self, settings: GuardSettings) -> None:
        """Puts other limits in force at once; nobody loses a place in the queue or a permit.

        Raises:
            InvalidInput: The guard is to be the cluster's, and there is no Redis to share it through.
        """
        _check_cluster(settings)
        self.admission.change(settings)

    def _join(self, queue: AdmissionQueue, settings: GuardSettings) -> ClusterShare:
        # Whoever has no cluster need not load what talks to Redis.
        from langflow_sluice.cluster.joining import join_cluster

        return join_cluster(self.name, self.key, queue, self.clock, settings)

    def retire(self) -> None:
        """Leaves the cluster, if the guard is part of one; nobody uses it any more."""
        if self.settings.scope == "cluster":
            self.change(replace(self.settings, scope="process"))

    def count_retry(self) -> None:
        """Notes that an attempt failed and another one follows."""
        self.retries += 1

    def slot(self, *, tokens: float = 0.0, priority: Priority = "normal", patience_s: float | None = None) -> Slot:
        """A permit for one call.

        Args:
            tokens: Tokens that the call is expected to use; settled afterwards with ``Slot.settle_tokens``.
            priority: `interactive` goes before `normal` before `batch`; within one, first come first served.
            patience_s: Seconds that this caller can wait at most, where that is less than ``queue_timeout_s``.

        Returns:
            A slot to enter with ``async with``, or with ``with`` from a thread without a running event loop.

        Raises:
            InvalidInput: The priority is unknown, or the tokens exceed what the guard admits in a minute.

        Entering the slot raises:
            BulkheadFull: The queue holds ``max_queue`` callers already.
            CircuitOpen: The service has failed and is left alone for a while.
            QueueTimeout: No permit came within ``queue_timeout_s`` or ``patience_s``.
            WouldBlockLoop: Entered with ``with`` on a thread whose running loop it would block.
        """
        if priority not in PRIORITIES:
            raise InvalidInput.of("priority", priority, "there is no such lane", fix=f"Use one of {PRIORITIES}.")
        budget = self.settings.tokens_per_minute
        if budget and tokens > budget:
            msg = (
                f"A request of about {tokens:.0f} tokens is larger than all that guard {self.name!r} admits in a "
                f"minute ({budget:.0f})."
            )
            hint = f"Raise tokens_per_minute above {tokens:.0f}, or send a shorter prompt or a smaller max_tokens."
            raise InvalidInput(msg, hint=hint)
        return Slot(self, tokens, priority, patience_s)

    def turned_away(self, waiter: Waiter) -> Rejected:
        """The error for a waiter that was not admitted."""
        settings = self.settings
        if waiter.state is WaiterState.BROKEN:
            left_s = max(0.0, (self.admission.breaker.opens_at() or 0.0) - self.clock.now())
            msg = f"Guard {self.name!r} is open: the service behind it failed and is tried again in {left_s:.1f} s."
            hint = "Look at the service; the guard lets calls through again by itself as soon as one succeeds."
            return CircuitOpen(msg, hint=hint, retry_in_s=left_s)
        share = self.admission.share
        if waiter.state is WaiterState.CUT_OFF:
            label, reason = ("", "") if share is None else (share.link.label, share.reason)
            msg = f"Guard {self.name!r} is shared by all workers through Redis at {label}, which is away ({reason})."
            hint = "Look at Redis; the guard lets calls through again by itself as soon as it answers."
            if settings.redis_loss == "fail_closed":
                hint += " With redis_loss local_share it would go on with this worker's part of the limits."
            elif share is not None and share.why_not_alone:
                hint += f" It has no part of the limits to go on with (redis_loss local_share): {share.why_not_alone}."
            return ClusterUnavailable(msg, hint=hint, retry_in_s=1.0)
        retry_in_s = self.clears_in_s()
        in_flight = self.admission.in_flight
        in_use, waits_for = f"{in_flight} calls in flight (max_concurrency {settings.max_concurrency})", ""
        if share is not None and share.governs:
            in_use, waits_for = share.in_use(in_flight), share.waits_for(self.clock.now())
        if waiter.state is WaiterState.REFUSED:
            msg = (
                f"Guard {self.name!r} is full: {in_use} and {waiter.position} waiting (max_queue {settings.max_queue})."
            )
            hint = "Send less at once, or raise max_queue or max_concurrency."
            return BulkheadFull(self._with_estimate(msg, retry_in_s), hint=hint, retry_in_s=retry_in_s)
        waited_s = self.clock.now() - waiter.enqueued_at
        msg = (
            f"Guard {self.name!r} had no free slot within {waited_s:.3g} s (queue_timeout "
            f"{settings.queue_timeout_s:g}): {in_use}, {sum(self.admission.waiting().values())} still waiting."
        )
        paused_s = self.admission.paused_until - self.clock.now()
        if paused_s > 0:
            msg += f" The service has asked to be left alone for another {paused_s:.1f} s."
        if waits_for:
            msg += f" {waits_for}"
        hint = "Send less at once, or raise queue_timeout or the limit that is too low."
        if waits_for:
            hint = "The guard goes on by itself; raise queue_timeout for callers that are to wait until then."
        return QueueTimeout(self._with_estimate(msg, retry_in_s), hint=hint, retry_in_s=retry_in_s)

    def clears_in_s(self) -> float:
        """Seconds until those who wait now are served and the next may go at once, estimated; 0 where none can be told.

        Little's law over the latest calls: so many ahead, each of the permits busy for as long as the median call; or
        what the requests a minute allow, or the pause that the service has asked for, whichever takes longest.
        """
        queue = self.admission
        # Those in flight are ahead, too: half of their time is over, on average.
        ahead = sum(queue.waiting().values()) + min(queue.in_flight, queue.limit) / 2
        served_s = ahead * percentiles(queue.services_s).p50 / queue.limit if queue.limit else 0.0
        per_minute = queue.settings.requests_per_minute
        metered_s = 60.0 * sum(queue.waiting().values()) / per_minute if per_minute else 0.0
        return max(0.0, served_s, metered_s, queue.paused_until - self.clock.now())

    @staticmethod
    def _with_estimate(message: str, retry_in_s: float) -> str:
        return (
            f"{message} It should be free again in about {max(1, math.ceil(retry_in_s))} s." if retry_in_s else message
        )

    def statistics(self) -> GuardStatistics:
        """A snapshot; takes no lock that a caller of the guard could wait for."""
        queue = self.admission
        return GuardStatistics(
            name=self.name,
            settings=queue.settings,
            in_flight=queue.in_flight,
            peak_in_flight=queue.peak_in_flight,
            waiting=queue.waiting(),
            admitted=queue.admitted,
            refused=queue.refused,
            expired=queue.expired,
            gone=queue.gone,
            broken=queue.broken,
            retries=self.retries,
            limit=queue.limit,
            breaker=queue.breaker.state,
            waits_s=tuple(queue.waits_s),
            services_s=tuple(queue.services_s),
            pause_left_s=max(0.0, queue.paused_until - self.clock.now()),
            cut_off=queue.cut_off,
            cluster=None if queue.share is None else queue.share.statistics(),
        )

    def __copy__(self) -> Guard:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Guard:
        return self

    def __repr__(self) -> str:
        waiting = sum(self.admission.waiting().values())
        return f"<Guard {self.name!r}: {self.admission.in_flight} in flight, {waiting} waiting>"


def _check_cluster(settings: GuardSettings) -> None:
    # Here, for whoever asks for it: the queue is changed by whichever thread is there, perhaps another caller's.
    if settings.scope == "cluster":
        from langflow_sluice.cluster.joining import check_cluster

        check_cluster()
