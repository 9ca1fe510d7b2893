"""The guard against a model of itself, over random sequences of everything that can happen to it."""

import asyncio
from collections import deque

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from langflow_sluice.errors import BulkheadFull, QueueTimeout
from langflow_sluice.guard import PRIORITIES, Guard, GuardSettings
from langflow_sluice.guard.lanes import PATIENCE
from langflow_sluice.testing import ManualClock, settle

QUEUE_TIMEOUT_S = 10.0
MAX_QUEUE = 6


class ModelOfGuard:
    """What the guard promises, in the plainest words: who holds, who waits, who is next."""

    def __init__(self, cap):
        self.cap = cap
        self.holding = set()
        self.lanes = {priority: deque() for priority in PRIORITIES}
        self.passed_over = dict.fromkeys(PRIORITIES, 0)
        self.deadlines = {}

    def waiting(self):
        return sum(map(len, self.lanes.values()))

    def enter(self, name, priority, now):
        free = len(self.holding) < self.cap and not self.waiting()
        if not free and self.waiting() >= MAX_QUEUE:
            return "refused"
        if free:
            self.holding.add(name)
            return "holds"
        self.lanes[priority].append(name)
        self.deadlines[name] = now + QUEUE_TIMEOUT_S
        return "waits"

    def forget(self, name):
        self.holding.discard(name)
        for lane in self.lanes.values():
            if name in lane:
                lane.remove(name)
        self.deadlines.pop(name, None)

    def expire(self, now):
        gone = [name for name, deadline in self.deadlines.items() if deadline <= now]
        for name in gone:
            self.forget(name)
        return set(gone)

    def admit(self):
        while self.waiting() and len(self.holding) < self.cap:
            filled = [priority for priority in PRIORITIES if self.lanes[priority]]
            impatient = [priority for priority in filled if self.passed_over[priority] >= PATIENCE]
            chosen = impatient[-1] if impatient and impatient[-1] != filled[0] else filled[0]
            name = self.lanes[chosen].popleft()
            self.passed_over[chosen] = 0
            for below in PRIORITIES[PRIORITIES.index(chosen) + 1 :]:
                self.passed_over[below] += bool(self.lanes[below])
            del self.deadlines[name]
            self.holding.add(name)


class GuardMachine(RuleBasedStateMachine):
    """Callers on a loop of their own come, hold, leave, are cancelled and time out, while the settings change."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.foreign = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.guard = Guard("model", self.settings_of(2), self.clock)
        self.model = ModelOfGuard(2)
        self.names = 0
        self.tasks = {}
        self.let_go = {}
        self.entered = set()

    @staticmethod
    def settings_of(cap):
        return GuardSettings(max_concurrency=cap, max_queue=MAX_QUEUE, queue_timeout_s=QUEUE_TIMEOUT_S)

    def turn(self):
        self.loop.run_until_complete(settle())
        if not self.foreign.is_closed():
            self.foreign.run_until_complete(settle())
        self.loop.run_until_complete(settle())

    async def call(self, name, priority):
        async with self.guard.slot(priority=priority):
            self.entered.add(name)
            try:
                await self.let_go[name].wait()
            finally:
                self.entered.discard(name)

    def start(self, loop, priority):
        self.names += 1
        name = (loop is self.foreign, self.names)
        self.let_go[name] = asyncio.Event()
        fate = self.model.enter(name, priority, self.clock.now())
        self.tasks[name] = loop.create_task(self.call(name, priority))
        self.turn()
        if fate == "refused":
            assert isinstance(self.tasks.pop(name).exception(), BulkheadFull)

    @rule(priority=st.sampled_from(PRIORITIES))
    def come(self, priority):
        self.start(self.loop, priority)

    @precondition(lambda self: not self.foreign.is_closed())
    @rule(priority=st.sampled_from(PRIORITIES))
    def come_on_another_loop(self, priority):
        self.start(self.foreign, priority)

    @precondition(lambda self: self.model.holding)
    @rule(data=st.data())
    def leave(self, data):
        name = data.draw(st.sampled_from(sorted(self.model.holding)))
        self.model.forget(name)
        self.model.admit()
        self.let_go[name].set()
        self.turn()
        assert self.tasks.pop(name).exception() is None

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel(self, data):
        name = data.draw(st.sampled_from(sorted(self.tasks)))
        self.model.forget(name)
        self.model.admit()
        self.tasks[name].cancel()
        self.turn()
        assert self.tasks.pop(name).cancelled()

    @precondition(lambda self: self.model.holding and self.model.waiting())
    @rule(data=st.data())
    def cancel_just_after_the_grant(self, data):
        leaving = data.draw(st.sampled_from(sorted(self.model.holding)))
        before = set(self.model.holding)
        self.model.forget(leaving)
        self.model.admit()
        granted = sorted(self.model.holding - before)
        task = self.tasks.pop(leaving)
        task.cancel()
        loop = self.foreign if leaving[0] else self.loop
        # One turn: the slot is given back and granted to the next, who has not run yet.
        while not task.done():
            loop.run_until_complete(asyncio.sleep(0))
        for name in granted:
            self.model.forget(name)
            self.tasks[name].cancel()
        self.model.admit()
        self.turn()
        for name in granted:
            assert self.tasks.pop(name).cancelled()

    @rule(seconds=st.floats(0.5, 12))
    def time_passes(self, seconds):
        gone = self.model.expire(self.clock.now() + seconds)
        self.model.admit()
        self.clock.step(seconds)
        self.turn()
        for name in gone:
            assert isinstance(self.tasks.pop(name).exception(), QueueTimeout)

    @rule(cap=st.integers(1, 4))
    def change_the_cap(self, cap):
        self.model.cap = cap
        self.guard.change(self.settings_of(cap))
        self.model.admit()
        self.turn()

    @precondition(lambda self: not self.foreign.is_closed())
    @rule()
    def the_other_loop_closes(self):
        theirs = sorted(name for name in self.tasks if name[0])
        # Closed in the middle of everything, and swept away: what the collector does to a coroutine is to close it.
        self.foreign.close()
        for name in theirs:
            self.model.forget(name)
            task = self.tasks.pop(name)
            task._log_destroy_pending = False
            task.get_coro().close()
        self.model.admit()
        self.turn()

    @invariant()
    def permits_in_use_are_those_who_hold(self):
        assert self.entered == self.model.holding
        assert self.guard.statistics().in_flight == len(self.model.holding)

    @invariant()
    def nobody_who_waits_is_forgotten(self):
        waiting = {priority: len(lane) for priority, lane in self.model.lanes.items()}
        assert self.guard.statistics().waiting == waiting

    def teardown(self):
        for task in self.tasks.values():
            task.cancel()
        self.turn()
        assert self.guard.statistics().in_flight == 0
        assert not sum(self.guard.statistics().waiting.values())
        self.loop.close()
        if not self.foreign.is_closed():
            self.foreign.close()


TestGuardAgainstItsModel = GuardMachine.TestCase
TestGuardAgainstItsModel.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
