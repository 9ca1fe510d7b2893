"""One process's part in a guard that many processes share.

The process's own queue keeps its callers, their order, their patience and its bound. What it may start is decided in
Redis: the share tells how many of its callers wait, and is given permits for them, by the answer to an exchange or by
a message when another process has handed one over. Permits are leased: who is not heard of for longer than the lease is
taken for dead, and its permits are given to others.

Unless it says otherwise, a method is called by the admission queue, which is changed by one thread at a time.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import TYPE_CHECKING

from langflow_sluice.cluster.exchange import MAX_EVENTS, Answer, Ask, Handover, limits_text
from langflow_sluice.cluster.standing import ClusterStatistics, LocalPart, Mode, SharedBreaker, tighter
from langflow_sluice.guard.settings import PRIORITIES
from langflow_sluice.guard.waiter import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from langflow_sluice.cluster.link import ClusterLink
    from langflow_sluice.guard.admission import AdmissionQueue
    from langflow_sluice.guard.clock import Clock
    from langflow_sluice.guard.lanes import Lanes
    from langflow_sluice.guard.settings import GuardSettings
    from langflow_sluice.guard.waiter import Waiter

# Part of the lease in which a process takes its permits for its own: its clock and that of Redis may differ in speed,
# and a caller needs a moment from its grant to its call.
LEASE_USED = 0.8
# Seconds without Redis, from the first attempt that failed, after which callers are no longer kept waiting for it.
AWAY_AFTER_S = 2.0
# Fences count up by one within one state in Redis, and begin at the time in microseconds when it is made.
_OTHER_STATE = 1_000_000
_TURNS_AWAY = "turns callers away"
_KINDS = {Outcome.OK: "o", Outcome.OVERLOADED: "x", Outcome.FAULT: "f", Outcome.TIMEOUT: "t"}

_log = logging.getLogger("langflow_sluice.cluster")


class ClusterShare:
    """The permits of one guard that this process holds.

    Args:
        name: The guard's, for people.
        link: To Redis.
        queue: Whose callers the permits are for.
        clock: The queue's.
        settings: The guard's.
        in_flight: Calls that were under way before the guard became the cluster's.
    """

    def __init__(
        self, name: str, link: ClusterLink, queue: AdmissionQueue, clock: Clock, settings: GuardSettings, in_flight: int
    ) -> None:
        self.name = name
        self.link = link
        self.queue = queue
        self.settings = settings
        self.breaker = SharedBreaker()
        self.mode = Mode.UNREACHED
        # Whether the queue holds this process's part of the limits by itself; also while Redis is being asked whether
        # it is back, so that an attempt that fails takes nothing of what was spent and learnt meanwhile.
        self.alone = False
        self.limit = settings.max_concurrency
        self.digest = ""  # these four are the link's
        self.keys: tuple[str, ...] = ()
        self.poked = False
        self.doubtful = False
        self.retired = False
        self.outages = self.leases_lost = self.restarts = 0
        self.reason = "it has not answered yet"
        self.retry_at = math.inf
        self._clock = clock
        self._fence = 0
        self._run = ""
        self._released = 0
        self._known = in_flight
        self._permits: deque[float] = deque()  # in hand, each with the tokens charged for it
        self._probe_number = 0
        self._epoch = 0
        self._budget = settings.tokens_per_minute  # the tightest that any process asks for; 0: not metered
        self._cap = settings.max_concurrency  # likewise
        self._front: tuple[float, ...] = ()  # what was told of the caller in front, until a permit came for it
        self._believed = [0, 0, 0]  # callers that wait in Redis, for each lane
        self._told_released = 0
        self._asking = False
        self._events: deque[str] = deque()
        self._corrected = self._corrected_told = 0.0
        self._unsent: tuple[int, tuple[str, ...], float] | None = None
        self._number = 0
        self._in_flight_of_all = self._members = self._rank = 0
        self._divided = (0, 0)  # members and rank by which limits are divided: as told when all were there
        self._member_since = math.inf
        self._contact_at = -math.inf
        self._said = Mode.UNREACHED
        self._asked_front: tuple[float, ...] = ()
        self._asked_released = 0
        self._asked_known = 0
        self._failing_since = math.inf
        self._idle_since = math.inf
        self._left = False
        self._back_at = -math.inf
        self._all_known: list[Callable[[], object]] = []
        self._snapshot: tuple[int, int, tuple[int, int, int], tuple[float, ...]] = (0, in_flight, (0, 0, 0), ())

    # What the queue asks and tells.

    @property
    def governs(self) -> bool:
        """Whether Redis decides, and not this process alone."""
        return self.mode is not Mode.LOCAL

    @property
    def cut_off(self) -> bool:
        """Whether callers are turned away since Redis is away."""
        return self.mode is Mode.CUT_OFF

    def has_permit(self, now: float) -> bool:
        """Whether a permit is in hand, and still this process's."""
        if not self._permits:
            return False
        if now - self._contact_at < LEASE_USED * self.link.lease_s:
            return True
        self._give_back_unused()
        return False

    def spend(self, waiter: Waiter) -> bool:
        """Gives a permit in hand to a waiter.

        Returns:
            False where the permit was for another caller, with fewer tokens than this one needs: it goes back.
        """
        charged = self._permits.popleft()
        if self._budget:
            if min(waiter.tokens, self._budget) > charged:
                self._return_permit(charged)
                return False
            self._corrected += waiter.tokens - charged
        waiter.epoch, waiter.fence = self._epoch, self._fence
        waiter.probe = self._is_probe()
        return True

    def outlived(self, waiter: Waiter) -> bool:
        """Whether the lease of a waiter's permit is over, and perhaps another one begun; any thread."""
        if not waiter.fence or not self.governs:
            return False
        # The last contact may have come too early to renew the lease; so the part that counts is the same as above.
        return waiter.fence != self._fence or self._clock.now() - self._contact_at >= LEASE_USED * self.link.lease_s

    def started_alone(self) -> None:
        """Counts a call that was started without Redis."""
        self._known += 1

    def gave_back(self) -> None:
        """Counts a permit that is no longer used."""
        self._released += 1

    def correct_tokens(self, amount: float) -> None:
        """Charges tokens after the fact."""
        self._corrected += amount

    def report(self, waiter: Waiter, outcome: Outcome, pause_s: float) -> None:
        """Passes on what a call has told about the service."""
        kind = _KINDS[outcome]
        self._events.append(f"{kind.upper() if waiter.probe else kind}:{waiter.epoch}:{round(pause_s * 1e6)}")

    def probe_told_nothing(self) -> None:
        """Passes on that the probe was cancelled."""
        self._events.append("U:0:0")

    def tell(self, lanes: Lanes) -> None:
        """Notes who waits and what was given back; asks Redis where it does not know that yet."""
        waiting = lanes.waiting()
        counts = (waiting[PRIORITIES[0]], waiting[PRIORITIES[1]], waiting[PRIORITIES[2]])
        if self._permits and not len(lanes):
            self._give_back_unused()
        tokens: tuple[float, ...] = ()
        if self._budget and (front := lanes.front()) is not None:
            tokens = (min(front.tokens, self._budget),)
        if len(lanes) or self._known > self._released:
            self._idle_since = math.inf
        elif self._idle_since == math.inf:
            self._idle_since = self._clock.now()
        self._snapshot = (self._released, self._known, counts, tokens)
        if self.mode in {Mode.LOCAL, Mode.CUT_OFF} or self._failing_since < math.inf:
            self._tell_all_known()
        if self._asking or self.mode in {Mode.LOCAL, Mode.CUT_OFF}:
            return  # looked at again when the answer is there
        if self._released > self._told_released or list(counts) != self._believed or tokens != self._front:
            self.link.poke(self)
        else:
            self._tell_all_known()

    def call_when_known(self, call: Callable[[], object]) -> None:
        """Has something called, once, as soon as Redis knows of all that wait and has granted what it could.

        At once where Redis does not decide, or cannot be reached.
        """
        self._all_known.append(call)

    def _tell_all_known(self) -> None:
        while self._all_known:
            self._all_known.pop()()

    def change(self, settings: GuardSettings) -> None:
        """Puts other limits in force."""
        self.settings = settings
        if self.mode is Mode.LOCAL and not self._may_go_alone():
            self._turn(Mode.CUT_OFF, _TURNS_AWAY)
        if not self.asleep:
            self.link.poke(self)

    def retire(self) -> None:
        """Leaves the guard: its permits are nobody's business any more."""
        self.retired = True
        self.link.poke(self)

    def statistics(self) -> ClusterStatistics:
        """A snapshot; any thread."""
        return ClusterStatistics(
            mode=self.mode.value,
            in_flight=self._in_flight_of_all,
            members=self._members,
            outages=self.outages,
            leases_lost=self.leases_lost,
            restarts=self.restarts,
            rank=self._rank,
            cap=self._cap,
            idle=self._left,
        )

    @property
    def why_not_alone(self) -> str:
        """Why this process has no part of the limits to use while Redis is away; empty where it has one."""
        part = self._part()
        if not part.members:
            return (
                f"this worker has not shared the guard for longer than a lease ({self.link.lease_s:g} s), so that the "
                f"others do not count with it"
            )
        if part.is_none:
            return f"{part.ceiling} calls in flight divided by {part.members} workers leave none for this one"
        return ""

    def in_use(self, here: int) -> str:
        """What is in flight where, in words.

        Args:
            here: Calls in flight in this process.
        """
        cap = f"cap {self.limit}" if self.limit else "no cap"
        told = f"{self._in_flight_of_all} calls in flight in all {self._members} workers ({cap}), {here} in this one"
        return told if self.mode is Mode.CLUSTER else f"{here} calls in flight in this worker"

    def waits_for(self, now: float) -> str:
        """What callers wait for, in a sentence, where that is no call that has to end."""
        if self.mode is Mode.UNREACHED:
            return f"Redis at {self.link.label}, through which all workers share it, does not answer ({self.reason})."
        held = self.breaker.opens_at() is not None or now < self.queue.paused_until
        if self.mode is not Mode.CLUSTER or held or not now < self.retry_at < math.inf:
            return ""
        if self.limit and self._in_flight_of_all >= self.limit:
            return ""
        metered = self.settings.requests_per_minute or self._budget
        if self.limit and not metered and now < self._back_at + 2 * self.link.lease_s:
            return (
                f"Redis at {self.link.label} is new, or was away: until the workers that shared the guard before are "
                f"back, or a lease ({self.link.lease_s:g} s) is over, nobody may go."
            )
        return f"The next may go in {self.retry_at - now:.1f} s."

    # What the link does; its own thread.

    @property
    def is_new(self) -> bool:
        """Whether the next exchange joins."""
        return not self._fence

    @property
    def asleep(self) -> bool:
        """Whether the guard was left since nobody uses it, and there is still nobody."""
        return self._left and self.mode is Mode.CLUSTER and not any(self._snapshot[2])

    def ask(self) -> Ask:
        """The next exchange's arguments."""
        self._asking = True
        released, known, waiting, tokens = self._snapshot
        if self._unsent is None:
            events: list[str] = []
            while self._events and len(events) < MAX_EVENTS:
                events.append(self._events.popleft())
            corrected = self._corrected
            self._number += 1
            self._unsent = (self._number, tuple(events), corrected - self._corrected_told)
            self._corrected_told = corrected
        number, told, correction = self._unsent
        self._asked_front = tokens
        self._asked_released, self._asked_known = released, known
        unused = known == released and not any(waiting) and not self._events and self.mode is Mode.CLUSTER
        # A process that does not use the guard any more has no say in its limits.
        leaves = unused and self._clock.now() - self._idle_since >= self.link.forget_after_s
        return Ask(
            fence=self._fence,
            released=released,
            known=known,
            waiting=waiting,
            tokens=tokens,
            limits=limits_text(self.settings),
            seen=self._divided[0],
            number=number,
            events=told,
            correction=correction,
            longest_probe_s=self.breaker.longest_s,
            goodbye=self.retired or leaves,
        )

    def due_at(self, now: float) -> float:
        """When the next exchange is due though nothing has happened: to renew the lease, or to look again."""
        waiting = self._snapshot[2]
        if any(waiting):
            return now + min(self.link.lease_s / 3, self.link.look_again_s, max(0.0, self.retry_at - now))
        return now + self.link.lease_s / 3

    # What the link submits to the queue: one thread at a time.

    def answered(self, told: tuple[Answer, float, str]) -> None:
        """Takes over an answer: (it, when it was asked for, the server's run)."""
        answer, asked_at, run = told
        now = self._clock.now()
        self._asking = False
        if self.retired:
            return
        self._unsent = None
        self._told_released = self._asked_released
        if answer.fence != self._fence:
            self._joined(answer, run, now)
        elif run != self._run:
            self._run, self._back_at = run, now
        if now - asked_at >= LEASE_USED * self.link.lease_s:
            # The process was stopped meanwhile, or Redis is too slow for the lease: whatever was granted may be
            # somebody else's by now. Asked again.
            self._believed = [-1, -1, -1]
            # Where the link has not seen that itself, the next question may be under way already, and nothing may be
            # started alone beside what its answer grants.
            seen, self.doubtful = self.doubtful, True
            self._fail("its answers take as long as the lease", alone=seen)
            return
        self._failing_since = math.inf
        self._contact_at = asked_at
        self._in_flight_of_all, self._members, self._rank = answer.in_flight, answer.members, answer.rank
        if now - self._member_since >= self.link.lease_s:
            self._divided = answer.members, answer.rank
        self.limit = answer.limit
        self.breaker.tell(answer, now)
        self.queue.paused_until = now + answer.paused_s
        self.retry_at = now + answer.retry_s if answer.retry_s else math.inf
        self._cap, self._budget = answer.cap, answer.tokens_per_minute
        before = self._front
        # Told of one caller's tokens, Redis grants for those once, in this exchange or in a handover.
        used = answer.granted > self._asked_known
        self._front = () if used else self._asked_front
        self._believed = list(answer.waiting)
        on_way = max(0, answer.granted - self._known - answer.granted_now)
        charged = list(before or (0.0,)) * on_way + list(self._asked_front or (0.0,)) * answer.granted_now
        self._take(answer.granted, charged, answer.epoch, answer.probe)
        if self.mode is not Mode.CLUSTER:
            self.mode = Mode.CLUSTER
            self.alone = False
            self._back_at = now
            self._say("is the cluster's again: Redis at %s answers.", self.link.label)
            self.queue.obey_share()

    def left(self, answer: Answer) -> None:
        """Notes that Redis has taken the goodbye of a share that nobody uses; the next caller joins anew."""
        self._asking = False
        if self.retired:
            return
        self._unsent = None
        self._told_released = self._asked_released
        self._left = True
        self._fence = 0
        self._member_since = math.inf
        self._divided = (0, 0)
        self._believed, self._front = [0, 0, 0], ()
        self._cap = self.settings.max_concurrency
        self._in_flight_of_all, self._members, self._rank = answer.in_flight, answer.members, 0

    def handed_over(self, message: Handover) -> None:
        """Takes permits that another process has handed over."""
        if self.retired or message.fence != self._fence or message.granted <= self._known or self.mode is Mode.LOCAL:
            return
        for lane in message.lanes:
            self._believed[lane] = max(0, self._believed[lane] - 1)
        self._front = ()
        self._take(message.granted, [message.tokens], message.epoch, message.probe)

    def failed(self, reason: str) -> None:
        """Notes that Redis did not answer, and decides what that means by now."""
        self._fail(reason, alone=True)

    def _fail(self, reason: str, *, alone: bool) -> None:
        now = self._clock.now()
        self._asking = False
        if self.retired or self.asleep:
            return
        self.reason = reason
        if self._failing_since == math.inf:
            self._failing_since = now
            # The next attempt may take longer than callers are to be kept waiting.
            self._clock.call_at(now + AWAY_AFTER_S, self._wait_is_over)
        if self.mode is Mode.CLUSTER:
            self.mode = Mode.UNREACHED
            self.outages += 1
        alone = alone and self._may_go_alone() and self.mode in {Mode.UNREACHED, Mode.CUT_OFF}
        if alone and now - self._contact_at >= self.link.lease_s:
            # By now the calls that the others had permits for have ended, or their leases have. Only here: no question
            # is under way that would be answered with permits of the cluster's.
            self._turn(Mode.LOCAL, "uses its share of the limits")
        self._turn_away_if_due()

    def displaced(self, _: None) -> None:
        """Gives up: another guard of this process has the same key."""
        self.retired = True
        self.reason = "another guard of this process has its key"
        self._turn(Mode.CUT_OFF, _TURNS_AWAY)

    def _wait_is_over(self) -> None:
        self.queue.submit(lambda _: self._turn_away_if_due(), None)

    def _turn_away_if_due(self) -> None:
        if self.mode is not Mode.UNREACHED or self.retired or self._may_go_alone():
            return
        if self._clock.now() - self._failing_since >= AWAY_AFTER_S:
            self._turn(Mode.CUT_OFF, _TURNS_AWAY)

    def pause_alone(self, done: object) -> None:
        """Starts nothing more alone: Redis is about to be asked. ``done`` is a ``threading.Event``.

        What was spent and learnt alone is kept: the attempt may fail.
        """
        if self.mode is Mode.LOCAL:
            self.mode = Mode.UNREACHED
            # Calls that were started just before are part of what Redis is told.
            self._snapshot = (self._released, self._known, *self._snapshot[2:])
        done.set()  # type: ignore[attr-defined]

    def local_settings(self) -> GuardSettings:
        """The guard's limits divided by the processes that shared it when Redis was last there."""
        return self._part().limits

    # Its own.

    def _turn(self, mode: Mode, what: str) -> None:
        self.mode = mode
        self.alone = mode is Mode.LOCAL
        self._give_back_unused()
        self._say(f"{what}: Redis at %s is away (%s).", self.link.label, self.reason)
        self.queue.obey_share()

    def _say(self, what: str, *values: str) -> None:
        # Each attempt to reach Redis may end a mode for a moment; only lasting changes are worth a line.
        if self.mode is not self._said and (self._said is not Mode.UNREACHED or self.mode is not Mode.CLUSTER):
            _log.warning(f"Guard %r {what}", self.name, *values)
        self._said = self.mode

    def _joined(self, answer: Answer, run: str, now: float) -> None:
        self._give_back_unused()
        if self._fence and answer.lost:
            if run == self._run and answer.fence - self._fence < _OTHER_STATE:
                self.leases_lost += 1
                _log.warning(
                    "Guard %r: this process was not heard of for longer than its lease of %g s (it was stopped, or cut "
                    "off from Redis at %s), so its permits were given to others; %d calls of its own were still under "
                    "way.",
                    self.name,
                    self.link.lease_s,
                    self.link.label,
                    self._known - self._released,
                )
            else:
                self.restarts += 1
        self._fence, self._run, self._back_at = answer.fence, run, now
        self._left = False
        self._probe_number = 0
        self._member_since = now

    def _take(self, granted: int, charged: list[float], epoch: int, probe: int) -> None:
        if probe > self._known:
            self._probe_number = probe
        new = granted - self._known
        if new > 0:
            self._permits.extend((charged + [0.0] * new)[:new])
            self._known = granted
        self._epoch = epoch

    def _is_probe(self) -> bool:
        number = self._known - len(self._permits)
        if number != self._probe_number:
            return False
        self._probe_number = 0
        return True

    def _return_permit(self, charged: float) -> None:
        self._released += 1
        self._corrected -= charged
        if self._is_probe():
            self.probe_told_nothing()

    def _give_back_unused(self) -> None:
        while self._permits:
            self._return_permit(self._permits.popleft())

    def _may_go_alone(self) -> bool:
        return self.settings.redis_loss == "local_share" and not self._part().is_none

    def _part(self) -> LocalPart:
        """What this process may use alone: nothing before it was a member for longer than the others look away."""
        counted = self._contact_at - self._member_since >= self.link.lease_s
        members, rank = self._divided if counted else (0, 0)
        return LocalPart(
            settings=self.settings,
            members=members,
            rank=rank,
            ceiling=int(tighter(tighter(self._cap, self.settings.max_concurrency), self.limit)),
            tokens_per_minute=tighter(self._budget, self.settings.tokens_per_minute),
        )
