"""What a guard guarantees, on a clock that stands still."""

import asyncio
import contextlib
import copy
import gc
import math
import random
import threading

import pytest

from langflow_sluice.errors import BulkheadFull, InvalidInput, QueueTimeout, WouldBlockLoop
from langflow_sluice.guard import Guard, GuardSettings, guard_registry
from langflow_sluice.guard.retry import CallPolicy
from langflow_sluice.testing import ManualClock, isolated_guards, settle


@pytest.fixture
def clock():
    return ManualClock()


def guard_of(clock, **limits):
    return Guard("test", GuardSettings(**limits), clock)


class Callers:
    """Callers that hold their slot until told to let go."""

    def __init__(self, guard):
        self.guard = guard
        self.entered = []
        self.let_go = {}
        self.tasks = {}

    def start(self, name, **kwargs):
        self.let_go[name] = asyncio.Event()

        async def call():
            async with self.guard.slot(**kwargs):
                self.entered.append(name)
                await self.let_go[name].wait()

        self.tasks[name] = asyncio.ensure_future(call())
        return self.tasks[name]

    async def finish(self, *names):
        for name in names:
            self.let_go[name].set()
        await settle()

    async def stop(self):
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


@pytest.fixture
async def callers(clock):
    made = []

    def make(**limits):
        made.append(Callers(guard_of(clock, **limits)))
        return made[-1]

    yield make
    for each in made:
        await each.stop()


async def test_no_more_calls_are_in_flight_than_the_cap(callers):
    group = callers(max_concurrency=3)
    for name in range(10):
        group.start(name)
    await settle()
    assert group.entered == [0, 1, 2]
    assert group.guard.statistics().in_flight == 3
    assert group.guard.statistics().waiting["normal"] == 7


async def test_those_who_wait_are_served_in_the_order_they_came(callers):
    group = callers(max_concurrency=1)
    for name in range(6):
        group.start(name)
    await settle()
    for name in range(6):
        await group.finish(name)
    assert group.entered == list(range(6))


async def test_a_caller_cancelled_while_waiting_leaves_its_place_to_the_next(callers):
    group = callers(max_concurrency=1)
    for name in "abc":
        group.start(name)
    await settle()
    group.tasks["b"].cancel()
    await settle()
    assert group.guard.statistics().waiting["normal"] == 1
    await group.finish("a")
    assert group.entered == ["a", "c"]
    assert group.guard.statistics().gone == 1


async def test_a_caller_cancelled_just_after_the_grant_gives_the_permit_back(callers):
    group = callers(max_concurrency=1)
    for name in "abc":
        group.start(name)
    await settle()
    group.let_go["a"].set()
    # One turn: a has released, b has been granted the permit and has not run yet.
    while group.guard.statistics().admitted < 2:  # noqa: ASYNC110 - one turn at a time is the point
        await asyncio.sleep(0)
    assert group.entered == ["a"]
    group.tasks["b"].cancel()
    await settle()
    assert group.entered == ["a", "c"]
    assert group.guard.statistics().in_flight == 1


async def test_a_caller_cancelled_while_holding_gives_the_permit_back(callers):
    group = callers(max_concurrency=1)
    group.start("a")
    group.start("b")
    await settle()
    group.tasks["a"].cancel()
    await settle()
    assert group.entered == ["a", "b"]


async def test_an_exception_in_the_body_gives_the_permit_back(clock):
    guard = guard_of(clock, max_concurrency=1)
    with pytest.raises(ZeroDivisionError):
        async with guard.slot():
            raise ZeroDivisionError
    assert guard.statistics().in_flight == 0


async def test_ten_thousand_random_cancellations_lose_no_permit(clock):
    guard = guard_of(clock, max_concurrency=5, max_queue=0, queue_timeout_s=30)
    chance = random.Random(7)  # noqa: S311 - repeatable, not secret
    holding = 0
    most = 0

    async def call():
        nonlocal holding, most
        async with guard.slot():
            holding += 1
            most = max(most, holding)
            try:
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
            finally:
                holding -= 1

    cancelled = 0
    tasks = set()
    while cancelled < 10_000:
        tasks.update(asyncio.ensure_future(call()) for _ in range(40))
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        for task in chance.sample(sorted(tasks, key=id), min(len(tasks), 30)):
            cancelled += task.cancel()
        tasks = {task for task in tasks if not task.done()}
    await asyncio.gather(*tasks, return_exceptions=True)
    statistics = guard.statistics()
    assert most == 5
    assert (statistics.in_flight, sum(statistics.waiting.values())) == (0, 0)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(guard.slot())


async def test_a_full_queue_turns_the_next_caller_away_at_once_and_names_the_setting(callers):
    group = callers(max_concurrency=1, max_queue=2)
    for name in "abc":
        group.start(name)
    await settle()
    with pytest.raises(BulkheadFull, match=r"'test' is full: 1 calls in flight .* 2 waiting \(max_queue 2\)"):
        await group.guard.slot().__aenter__()
    assert group.guard.statistics().refused == 1


async def test_a_caller_leaves_after_its_queue_timeout_and_says_how_many_were_before_it(callers, clock):
    group = callers(max_concurrency=1, queue_timeout_s=5)
    group.start("holder")
    await settle()
    late = group.start("late")
    await clock.advance(4.9)
    assert not late.done()
    await clock.advance(0.2)
    with pytest.raises(QueueTimeout, match=r"within 5 s \(queue_timeout 5\): 1 calls in flight"):
        await late
    assert group.guard.statistics().expired == 1
    assert group.guard.statistics().in_flight == 1


async def test_a_hundred_callers_use_the_rate_and_never_exceed_it(clock):
    guard = guard_of(clock, max_concurrency=0, requests_per_minute=600)
    times = []

    async def call():
        async with guard.slot():
            times.append(clock.now())

    calls = [asyncio.ensure_future(call()) for _ in range(100)]
    await clock.advance(30)
    await asyncio.gather(*calls)
    rate, burst = 10.0, 10.0
    assert (100 - burst) / (times[-1] - times[0]) >= 0.98 * rate
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= rate * (times[last] - start) + burst + 1e-6


async def test_no_window_holds_more_tokens_than_the_rate_and_the_burst_allow(clock):
    guard = guard_of(clock, max_concurrency=0, tokens_per_minute=600, queue_timeout_s=0)
    taken = []

    async def call(tokens):
        async with guard.slot(tokens=tokens):
            taken.append((clock.now(), tokens))

    calls = [asyncio.ensure_future(call(tokens)) for tokens in (300, 40, 550, 10, 600, 200, 1, 100) * 3]
    await clock.advance(700)
    await asyncio.gather(*calls)
    for first, (start, _) in enumerate(taken):
        for last in range(first, len(taken)):
            used = sum(tokens for _, tokens in taken[first : last + 1])
            assert used <= 10 * (taken[last][0] - start) + 600 + 1e-3
    # All but the first minute's worth had to be waited for, and no longer than that.
    assert taken[-1][0] - taken[0][0] == pytest.approx((3 * 1801 - 600) / 10, abs=0.1)


def test_nobody_waits_for_ever_by_default():
    assert 0 < GuardSettings().queue_timeout_s < math.inf
    assert GuardSettings().max_queue > 0
    assert 0 < CallPolicy().total_timeout_s < math.inf


async def test_a_heavy_request_in_front_is_not_overtaken_by_thousands_of_light_ones(callers, clock):
    group = callers(max_concurrency=0, tokens_per_minute=1000, max_queue=0)
    group.start("first", tokens=500)
    await settle()
    group.start("heavy", tokens=900)
    for name in range(2000):
        group.start(name, tokens=1)
    await clock.advance(23)
    assert group.entered == ["first"]
    await clock.advance(2)
    assert group.entered[:2] == ["first", "heavy"]


async def test_a_request_larger_than_the_budget_is_refused_with_the_numbers(clock):
    guard = guard_of(clock, tokens_per_minute=1000)
    with pytest.raises(InvalidInput, match=r"about 1500 tokens .* \(1000\).*tokens_per_minute above 1500"):
        guard.slot(tokens=1500)


async def test_tokens_that_were_not_used_are_there_for_the_next(clock):
    guard = guard_of(clock, tokens_per_minute=1000)
    async with guard.slot(tokens=900) as slot:
        slot.settle_tokens(100)
    async with guard.slot(tokens=900) as slot:
        assert slot.waited_s == 0


async def test_interactive_goes_first_and_batch_is_delayed_but_not_starved(callers):
    group = callers(max_concurrency=1, max_queue=0)
    group.start("holder")
    await settle()
    group.start("batch", priority="batch")
    for name in range(40):
        group.start(name, priority="interactive")
    await settle()
    await group.finish("holder")
    for name in range(40):
        await group.finish(name)
    assert group.entered[1] == 0
    assert group.entered.index("batch") == 17


async def test_limits_change_while_in_use_and_nobody_loses_a_place(callers):
    group = callers(max_concurrency=1, queue_timeout_s=0)
    for name in range(5):
        group.start(name)
    await settle()
    group.guard.change(GuardSettings(max_concurrency=3))
    await settle()
    assert group.entered == [0, 1, 2]
    group.guard.change(GuardSettings(max_concurrency=1))
    await group.finish(0, 1)
    assert group.entered == [0, 1, 2]
    await group.finish(2)
    assert group.entered == [0, 1, 2, 3]


async def test_a_lowered_rate_remembers_what_was_spent(clock):
    guard = guard_of(clock, requests_per_minute=600)
    for _ in range(10):
        async with guard.slot():
            pass
    guard.change(GuardSettings(requests_per_minute=60))
    task = asyncio.ensure_future(guard.slot().__aenter__())
    await clock.advance(9)
    assert not task.done()
    await clock.advance(2)
    await task


async def test_a_copy_of_a_guard_is_the_guard(clock):
    guard = guard_of(clock)
    assert copy.deepcopy({"tool": [guard]})["tool"][0] is guard
    assert copy.copy(guard) is guard


async def test_a_synchronous_caller_that_would_block_its_own_loop_gets_an_error(clock):
    guard = guard_of(clock, max_concurrency=1)
    with guard.slot():
        assert guard.statistics().in_flight == 1
    async with guard.slot():
        with pytest.raises(WouldBlockLoop, match="worker thread"):
            guard.slot().__enter__()
    assert (guard.statistics().in_flight, guard.statistics().waiting["normal"]) == (0, 0)


async def test_a_worker_thread_waits_for_the_loop_and_the_loop_for_the_thread(clock):
    guard = guard_of(clock, max_concurrency=1)
    entered, leave = threading.Event(), threading.Event()

    def work():
        with guard.slot():
            entered.set()
            leave.wait()

    async with guard.slot():
        thread = asyncio.get_running_loop().run_in_executor(None, work)
        while not guard.statistics().waiting["normal"]:  # noqa: ASYNC110 - a thread arrives when it does
            await asyncio.sleep(0)
        assert not entered.is_set()
    await asyncio.get_running_loop().run_in_executor(None, entered.wait)
    waiting = asyncio.ensure_future(guard.slot().__aenter__())
    await settle()
    assert not waiting.done()
    leave.set()
    await waiting
    await thread


def test_two_loops_and_eight_threads_never_exceed_the_cap(clock):
    guard = guard_of(clock, max_concurrency=3, max_queue=0, queue_timeout_s=0)
    lock = threading.Lock()
    holding = most = done = 0

    def count(change):
        nonlocal holding, most, done
        with lock:
            holding += change
            most = max(most, holding)
            done += change > 0

    async def call():
        async with guard.slot():
            count(1)
            await asyncio.sleep(0)
            count(-1)

    async def many():
        await asyncio.gather(*(call() for _ in range(1000)))

    def block():
        for _ in range(200):
            with guard.slot():
                count(1)
                count(-1)

    threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(2)]
    threads += [threading.Thread(target=block) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == 2 * 1000 + 8 * 200
    assert most <= 3
    assert guard.statistics().in_flight == 0


def test_waiters_of_a_loop_that_closed_do_not_hold_up_the_others(clock):
    guard = guard_of(clock, max_concurrency=1)
    holder = guard.slot()
    holder.__enter__()
    loop = asyncio.new_event_loop()

    async def give_up_without_cancelling():
        task = asyncio.ensure_future(guard.slot().__aenter__())
        await settle()
        return task

    # The task is left pending on purpose, as a loop does that is closed by a crash; it must outlive the loop.
    orphan = loop.run_until_complete(give_up_without_cancelling())
    loop.close()
    assert guard.statistics().waiting["normal"] == 1
    holder.__exit__(None, None, None)
    assert guard.statistics().in_flight == 0
    with guard.slot():
        assert guard.statistics().in_flight == 1
    orphan._log_destroy_pending = False


def test_a_permit_comes_back_when_its_holder_is_swept_away_with_its_loop(clock):
    guard = guard_of(clock, max_concurrency=1)
    loop = asyncio.new_event_loop()

    async def hold():
        async with guard.slot():
            await asyncio.Event().wait()

    async def start():
        task = asyncio.ensure_future(hold())
        await settle()
        task._log_destroy_pending = False
        return task

    task = loop.run_until_complete(start())
    assert guard.statistics().in_flight == 1
    loop.close()
    # Closed without cancelling: the coroutine goes with its last reference.
    del task, loop
    gc.collect()
    assert guard.statistics().in_flight == 0


def test_a_release_in_a_finaliser_in_the_middle_of_an_admission_does_not_deadlock(clock):
    guard = guard_of(clock, max_concurrency=2)
    held = guard.slot()
    held.__enter__()

    # A garbage collection may strike anywhere, also while this thread holds the guard's lock.
    with guard.admission._lock:
        held.__exit__(None, None, None)
    with guard.slot():
        assert guard.statistics().in_flight == 1


@pytest.mark.parametrize(("field", "value"), [("max_concurrency", -1), ("max_queue", 1.5), ("queue_timeout_s", "soon")])
def test_a_wrong_limit_is_refused_by_name_and_value(field, value):
    with pytest.raises(InvalidInput, match=f"{field.removesuffix('_s')} is {value!r}"):
        GuardSettings(**{field: value})


async def test_an_unknown_priority_is_refused(clock):
    with pytest.raises(InvalidInput, match="priority is 'urgent'"):
        guard_of(clock).slot(priority="urgent")


def test_when_the_loop_of_the_holders_closes_callers_of_other_loops_and_threads_go_on(clock):
    guard = guard_of(clock, max_concurrency=2, queue_timeout_s=0)
    home = asyncio.new_event_loop()

    async def hold():
        async with guard.slot():
            await asyncio.Event().wait()

    async def start():
        tasks = [asyncio.ensure_future(hold()) for _ in range(4)]
        await settle()
        for task in tasks:
            task._log_destroy_pending = False
        return tasks

    holders = home.run_until_complete(start())
    assert (guard.statistics().in_flight, guard.statistics().waiting["normal"]) == (2, 2)
    finished = []

    async def many():
        async def call():
            async with guard.slot():
                finished.append("loop")

        await asyncio.gather(*(call() for _ in range(20)))

    def block():
        with guard.slot():
            finished.append("thread")

    threads = [threading.Thread(target=asyncio.run, args=(many(),))]
    threads += [threading.Thread(target=block) for _ in range(5)]
    for thread in threads:
        thread.start()
    while guard.statistics().waiting["normal"] < 2 + 20 + 5:
        pass
    home.close()
    del holders, home
    gc.collect()
    for thread in threads:
        thread.join()
    assert sorted(finished) == ["loop"] * 20 + ["thread"] * 5
    assert guard.statistics().in_flight == 0


def test_an_isolated_registry_is_what_nodes_find_and_only_for_as_long_as_it_is_entered(clock):
    before = guard_registry()
    with isolated_guards(clock) as mine:
        assert guard_registry() is mine
        assert mine.guard("a", GuardSettings(), asked_by="node").clock is clock
    assert guard_registry() is before
