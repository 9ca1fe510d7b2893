"""One computation for all who ask at once, whatever becomes of the one who computes."""

import asyncio
import contextlib
import gc
import random
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from langflow_sluice.cache import Packing
from langflow_sluice.errors import CircuitOpen, DeadlineExceeded, InvalidInput, WouldBlockLoop
from langflow_sluice.single_flight import Ask, SingleFlightCache
from langflow_sluice.single_flight_caller import CHECK_S, Caller, FlightTimeout
from langflow_sluice.testing import ManualClock, settle

DEADLINE_S = 30.0
ASK = Ask("space", ttl_s=60.0)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def cache(clock):
    return cache_of(clock)


def cache_of(clock, *, max_entries=100, max_bytes=1000):
    return SingleFlightCache(Packing(tuple, list, len), max_entries=max_entries, max_bytes=max_bytes, clock=clock)


class Work:
    """A computation that goes on when it is told to; on any loop, and on threads."""

    def __init__(self):
        self.asked = []
        self.running = 0
        self._open = threading.Event()
        self._waiting = []

    def finish(self):
        self._open.set()
        for loop, future in self._waiting:
            with contextlib.suppress(RuntimeError):  # a closed loop
                loop.call_soon_threadsafe(lambda future=future: future.done() or future.set_result(None))

    async def __call__(self, keys=("one",)):
        self.asked.append(list(keys))
        self.running += 1
        try:
            if not self._open.is_set():
                future = asyncio.get_running_loop().create_future()
                self._waiting.append((asyncio.get_running_loop(), future))
                await future
        finally:
            self.running -= 1
        return values_of(keys)

    def blocking(self, keys=("one",)):
        self.asked.append(list(keys))
        self.running += 1
        assert self._open.wait(DEADLINE_S)
        self.running -= 1
        return values_of(keys)


def values_of(keys):
    return [[key, len(key)] for key in keys]


async def immediately(keys):
    return values_of(keys)


async def never(keys):
    message = f"nobody was to compute {keys}"
    raise AssertionError(message)


def failing(error):
    async def fail(_):
        raise error

    return fail


@contextlib.contextmanager
def another_loop():
    """An event loop that runs on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def there(loop, coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, loop)


def on_a_thread(work):
    """Runs blocking work on a thread of its own; a future of what it returns."""
    executor = ThreadPoolExecutor(1)
    future = executor.submit(work)
    executor.shutdown(wait=False)
    return asyncio.wrap_future(future)


async def until(condition):
    """Gives all loops and threads turns until something that another one does is done."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await settle()


def followers(cache):
    """Those who wait for somebody else, and have come to the point where they are woken."""
    return [each for flight in cache._flights.values() for each in flight.followers if each.waits]


def ask_for(cache, compute, keys=("one",), ask=ASK):
    return asyncio.ensure_future(cache.get_many(ask, list(keys), compute))


async def test_fifty_callers_on_two_loops_and_threads_have_one_computation_and_a_value_each(cache):
    work = Work()
    with another_loop() as loop:
        here = [ask_for(cache, work) for _ in range(20)]
        beside = [asyncio.wrap_future(there(loop, cache.get_many(ASK, ["one"], work))) for _ in range(20)]
        threads = [on_a_thread(lambda: cache.get_many_blocking(ASK, ["one"], work.blocking)) for _ in range(10)]
        await until(lambda: work.running == 1 and len(followers(cache)) == 49)
        work.finish()
        found = await asyncio.gather(*here, *beside, *threads)
    assert work.asked == [["one"]]
    assert found == [[["one", 3]]] * 50
    assert len({id(value) for [value] in found}) == 50
    statistics = cache.statistics()
    assert (statistics.misses, statistics.shared, statistics.hits, statistics.in_flight) == (1, 49, 0, 0)


@pytest.mark.parametrize("way", ["get", "get_blocking"])
async def test_one_key_is_asked_for_as_many_are(cache, way):
    if way == "get":

        async def compute():
            return ["value"]

        found = [await cache.get(ASK, "key", compute) for _ in range(2)]
    else:
        found = [await on_a_thread(lambda: cache.get_blocking(ASK, "key", lambda: ["value"])) for _ in range(2)]
    assert found == [["value"]] * 2
    assert cache.statistics().hits == 1


async def test_of_many_keys_those_that_nobody_has_or_computes_are_computed_in_one_call(cache):
    work, rest = Work(), Work()
    await cache.get_many(ASK, ["kept", "also kept"], immediately)
    other = ask_for(cache, work, ["under way"])
    await settle()
    rest.finish()
    mine = ask_for(cache, rest, ["a", "kept", "under way", "b", "a", "also kept"])
    await settle()
    assert rest.asked == [["a", "b"]]
    assert not mine.done()
    work.finish()
    assert await mine == values_of(["a", "kept", "under way", "b", "a", "also kept"])
    assert await other == values_of(["under way"])
    statistics = cache.statistics()
    assert (statistics.misses, statistics.shared, statistics.hits) == (5, 1, 2)


async def test_two_callers_that_need_each_others_keys_do_not_wait_for_ever(cache):
    one, other = Work(), Work()
    first = ask_for(cache, one, ["a"])
    await settle()
    second = ask_for(cache, other, ["b", "a"])
    await settle()
    third = ask_for(cache, never, ["a", "b"])
    await settle()
    other.finish()
    one.finish()
    assert [await first, await second, await third] == [values_of(keys) for keys in (["a"], ["b", "a"], ["a", "b"])]


async def test_nobody_can_change_what_is_kept(cache):
    computed = [["mine"]]

    async def compute(_):
        return computed

    [first] = await cache.get_many(ASK, ["one"], compute)
    computed[0].append("changed by whoever computed")
    first.append("changed by the first")
    [second, third] = await cache.get_many(ASK, ["one", "one"], never)
    second.append("changed by the second")
    assert third == ["mine"]
    assert await cache.get_many(ASK, ["one"], never) == [["mine"]]


# Leaders that go


@pytest.mark.parametrize("heir", ["same loop", "other loop", "thread"])
async def test_where_the_leader_is_cancelled_a_follower_takes_over(cache, heir):
    first, second = Work(), Work()
    leader = ask_for(cache, first)
    await settle()
    with another_loop() as loop:
        follow = {
            "same loop": lambda: ask_for(cache, second),
            "other loop": lambda: asyncio.wrap_future(there(loop, cache.get_many(ASK, ["one"], second))),
            "thread": lambda: on_a_thread(lambda: cache.get_many_blocking(ASK, ["one"], second.blocking)),
        }[heir]
        follower = follow()
        await until(lambda: len(followers(cache)) == 1)
        late = ask_for(cache, never)
        await until(lambda: len(followers(cache)) == 2)
        leader.cancel()
        await until(lambda: second.running == 1)
        second.finish()
        assert await follower == await late == values_of(["one"])
    with pytest.raises(asyncio.CancelledError):
        await leader
    assert (first.asked, second.asked) == ([["one"]], [["one"]])
    assert await cache.get_many(ASK, ["one"], never) == values_of(["one"])


async def test_what_a_cancelled_leader_had_begun_is_taken_over_in_one_call_by_who_came_first(cache):
    first, second = Work(), Work()
    second.finish()
    leader = ask_for(cache, first, ["a", "b", "c"])
    await settle()
    follower = ask_for(cache, second, ["c", "a"])
    late = ask_for(cache, never, ["a"])
    await settle()
    leader.cancel()
    assert await follower == values_of(["c", "a"])
    assert await late == values_of(["a"])
    assert [sorted(keys) for keys in second.asked] == [["a", "c"]]
    assert cache.statistics().in_flight == 0


async def test_a_follower_that_only_waits_takes_over_before_one_that_still_computes(cache):
    leader, busy, idle = Work(), Work(), Work()
    idle.finish()
    leading = ask_for(cache, leader, ["a"])
    await settle()
    first = ask_for(cache, busy, ["a", "b"])
    await settle()
    second = ask_for(cache, idle, ["a"])
    await settle()
    leading.cancel()
    assert await second == values_of(["a"])
    assert not first.done()
    busy.finish()
    assert await first == values_of(["a", "b"])
    assert busy.asked == [["b"]]


async def test_a_leader_without_followers_that_is_cancelled_leaves_nothing_behind(cache):
    leader = ask_for(cache, Work())
    await settle()
    leader.cancel()
    await settle()
    assert (cache.statistics().in_flight, cache.statistics().entries) == (0, 0)
    assert await cache.get_many(ASK, ["one"], immediately) == values_of(["one"])


async def test_a_follower_that_is_cancelled_takes_nothing_along(cache):
    work = Work()
    leader = ask_for(cache, work)
    await settle()
    gone, stays = ask_for(cache, never), ask_for(cache, never)
    await settle()
    gone.cancel()
    await settle()
    assert len(followers(cache)) == 1
    work.finish()
    assert await leader == await stays == values_of(["one"])


async def test_a_follower_cancelled_in_the_moment_in_which_it_is_to_take_over_passes_it_on(cache):
    second = Work()
    second.finish()
    leader = ask_for(cache, Work())
    await settle()
    heir, next_one = ask_for(cache, never), ask_for(cache, second)
    await settle()
    leader.cancel()
    await asyncio.sleep(0)  # the leader has gone, its heir is woken, but has not had a turn yet
    [flight] = cache._flights.values()
    assert len(flight.leader.leads) == 1
    assert not heir.done()
    heir.cancel()
    assert await next_one == values_of(["one"])
    assert second.asked == [["one"]]


async def test_a_leader_whose_loop_was_closed_under_it_is_replaced_at_the_next_look(cache, clock):
    work, mine = Work(), Work()
    mine.finish()
    loop = asyncio.new_event_loop()
    task = loop.create_task(cache.get_many(ASK, ["one"], work))

    def turn():
        loop.call_soon(loop.stop)
        loop.run_forever()

    await asyncio.to_thread(turn)
    assert work.running == 1
    follower = ask_for(cache, mine)
    await clock.advance(CHECK_S - 0.1)
    assert mine.asked == []
    loop.close()
    await clock.advance(0.1)
    assert await follower == values_of(["one"])
    assert await cache.get_many(ASK, ["one"], never) == values_of(["one"])
    task._log_destroy_pending = False
    task.get_coro().close()
    assert cache.statistics().in_flight == 0


async def test_a_leader_whose_loop_stands_still_is_replaced_at_the_second_look(cache, clock):
    work, mine = Work(), Work()
    mine.finish()
    loop = asyncio.new_event_loop()
    task = loop.create_task(cache.get_many(ASK, ["one"], work))

    def turn():
        loop.call_soon(loop.stop)
        loop.run_forever()

    await asyncio.to_thread(turn)
    follower = ask_for(cache, mine)
    await clock.advance(CHECK_S)
    assert mine.asked == []
    await clock.advance(CHECK_S)
    assert await follower == values_of(["one"])
    work.finish()
    assert await asyncio.to_thread(loop.run_until_complete, task) == values_of(["one"])
    loop.close()


async def test_a_leader_whose_coroutine_is_thrown_away_is_replaced_at_once(cache):
    mine = Work()
    mine.finish()
    coroutine = cache.get_many(ASK, ["one"], Work())
    coroutine.send(None)
    follower = ask_for(cache, mine)
    await settle()
    assert mine.asked == []
    del coroutine
    gc.collect()
    assert await follower == values_of(["one"])


async def test_a_leader_whose_loop_waits_for_its_follower_is_replaced_so_that_neither_hangs(cache, clock):
    work, mine = Work(), Work()
    mine.finish()
    leader = ask_for(cache, work)
    await settle()

    async def follow():
        follower = ask_for(cache, mine)
        await clock.advance(CHECK_S)
        assert mine.asked == []  # the first look asks the loop for a sign of life
        await clock.advance(CHECK_S)
        return await asyncio.wait_for(follower, DEADLINE_S)

    with ThreadPoolExecutor(1) as threads:
        # Blocks the leader's loop, as a synchronous node does that runs a coroutine on a loop of its own.
        assert threads.submit(asyncio.run, follow()).result(2 * DEADLINE_S) == values_of(["one"])
    work.finish()
    assert await leader == values_of(["one"])


async def test_a_leader_whose_loop_is_alive_is_waited_for(cache, clock):
    work = Work()
    with another_loop() as loop:
        leader = there(loop, cache.get_many(ASK, ["one"], work))
        await until(lambda: work.running)
        follower = ask_for(cache, never)
        for _ in range(5):
            await clock.advance(CHECK_S)
            [caller] = followers(cache)
            await until(lambda caller=caller: all(ping.answered for ping in caller._pings.values()))
        work.finish()
        assert await follower == leader.result(DEADLINE_S) == values_of(["one"])


async def test_a_leader_whose_thread_has_ended_is_replaced_at_the_next_look(cache, clock):
    def lead():
        cache._enter(Caller(cache, ASK, None), ["one"])  # and never leaves, as no thread that unwinds does

    await on_a_thread(lead)
    follower = ask_for(cache, immediately)
    await until(lambda: not any(each.leader.thread.is_alive() for each in cache._flights.values()))
    await clock.advance(CHECK_S)
    assert await follower == values_of(["one"])


async def test_an_heir_whose_loop_has_closed_is_passed_over(cache):
    leader = ask_for(cache, Work())
    await settle()
    loop = asyncio.new_event_loop()
    task = loop.create_task(cache.get_many(ASK, ["one"], never))

    def turn():
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()

    await asyncio.to_thread(turn)
    follower = ask_for(cache, immediately)
    await until(lambda: len(followers(cache)) == 2)
    leader.cancel()
    assert await follower == values_of(["one"])
    task._log_destroy_pending = False
    task.get_coro().close()


async def test_a_leader_that_was_taken_for_lost_and_comes_back_serves_whoever_still_waits(cache):
    first, second = Work(), Work()
    leader = ask_for(cache, first)
    await settle()
    heir, late = ask_for(cache, second), ask_for(cache, never)
    await settle()
    [flight] = cache._flights.values()
    heir_caller = next(iter(flight.followers))
    cache.take_over(heir_caller, {flight.leader})
    heir_caller.wake()
    await until(lambda: second.running)
    first.finish()
    assert await leader == await late == values_of(["one"])
    second.finish()
    assert await heir == values_of(["one"])
    assert cache.statistics().in_flight == 0


# Errors


async def test_an_error_goes_to_all_who_waited_each_with_its_own_copy_and_is_not_kept(cache):
    work = Work()

    async def compute(keys):
        await work(keys)
        message = "the service is down"
        raise CircuitOpen(message, hint="wait", retry_in_s=7.5)

    with another_loop() as loop:
        leader = ask_for(cache, compute)
        await settle()
        waiting = [ask_for(cache, never) for _ in range(3)]
        waiting.append(asyncio.wrap_future(there(loop, cache.get_many(ASK, ["one"], never))))
        await until(lambda: len(followers(cache)) == 4)
        work.finish()
        errors = await asyncio.gather(leader, *waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [CircuitOpen] * 5
    assert len({id(error) for error in errors}) == 5
    assert {(error.message, error.hint, error.retry_in_s) for error in errors} == {("the service is down", "wait", 7.5)}
    for error in errors[1:]:
        frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert "compute" not in frames  # whose locals may hold a prompt
        assert error.__cause__ is None
        assert error.__context__ is None or error.__suppress_context__
    assert await cache.get_many(ASK, ["one"], immediately) == values_of(["one"])


async def test_an_error_of_a_class_that_cannot_be_made_anew_arrives_all_the_same(cache):
    class Foreign(Exception):
        def __init__(self, *, response):
            super().__init__("told")
            self.response = response

    class Stubborn(Foreign):
        def __new__(cls, *arguments, **options):
            if arguments:
                raise TypeError
            return super().__new__(cls, **options)

    for error in (Foreign(response=[1]), Stubborn(response=[1])):
        work = Work()

        async def compute(keys, work=work, error=error):
            await work(keys)
            raise error

        leader = ask_for(cache, compute)
        await settle()
        follower = ask_for(cache, never)
        await settle()
        work.finish()
        for task in (leader, follower):
            with pytest.raises(Foreign, match="told") as caught:
                await task
            assert caught.value.response == [1]


@pytest.mark.parametrize("kind", [DeadlineExceeded, WouldBlockLoop])
async def test_an_error_that_tells_of_the_leaders_own_time_or_thread_is_its_own(cache, kind):
    work = Work()

    async def compute(keys):
        await work(keys)
        raise kind("mine")

    leader = ask_for(cache, compute)
    await settle()
    follower = ask_for(cache, immediately)
    await settle()
    work.finish()
    with pytest.raises(kind):
        await leader
    assert await follower == values_of(["one"])


@pytest.mark.parametrize("values", [[], [["a"]], [["a"], ["b"], ["c"]]])
async def test_a_computation_with_too_few_or_too_many_values_is_an_error_for_all(cache, values):
    work = Work()

    async def compute(keys):
        await work(keys)
        return values

    leader = ask_for(cache, compute, ["a", "b"])
    await settle()
    follower = ask_for(cache, never, ["b"])
    await settle()
    work.finish()
    for task in (leader, follower):
        with pytest.raises(ValueError, match="zip"):
            await task
    assert (cache.statistics().in_flight, cache.statistics().entries) == (0, 0)


# Followers' own time


@pytest.mark.parametrize("way", ["loop", "thread"])
async def test_a_follower_waits_for_its_own_time_and_the_others_go_on(cache, clock, way):
    work = Work()
    leader = ask_for(cache, work)
    await settle()
    patient = ask_for(cache, never)
    ask = Ask("space", ttl_s=60.0, timeout_s=2.0)
    if way == "loop":
        hasty = ask_for(cache, never, ask=ask)
    else:
        hasty = on_a_thread(lambda: cache.get_many_blocking(ask, ["one"], work.blocking))
    await until(lambda: len(followers(cache)) == 2)
    await clock.advance(1.9)
    assert not hasty.done()
    await clock.advance(0.1)
    with pytest.raises(FlightTimeout, match="2 s"):
        await hasty
    work.finish()
    assert await leader == await patient == values_of(["one"])


async def test_ones_own_computation_is_not_under_the_time_for_others(cache, clock):
    work = Work()
    task = ask_for(cache, work, ask=Ask("space", ttl_s=60.0, timeout_s=2.0))
    await clock.advance(10)
    work.finish()
    assert await task == values_of(["one"])


# Loops and threads


async def test_a_blocking_caller_on_the_leaders_own_loop_computes_and_serves_those_who_wait(cache):
    work = Work()
    leader = ask_for(cache, work)
    await settle()
    follower = ask_for(cache, never)
    await settle()
    assert cache.get_many_blocking(ASK, ["one"], values_of) == values_of(["one"])
    assert await follower == values_of(["one"])
    assert cache.get_many_blocking(ASK, ["one"], lambda _: pytest.fail("it is kept")) == values_of(["one"])
    work.finish()
    assert await leader == values_of(["one"])


async def test_a_blocking_caller_that_fails_on_the_leaders_own_loop_leaves_the_leader_to_it(cache):
    work = Work()
    leader = ask_for(cache, work)
    await settle()
    follower = ask_for(cache, never)
    await settle()

    def fail(_):
        message = "no slot"
        raise InvalidInput(message)

    with pytest.raises(InvalidInput):
        cache.get_many_blocking(ASK, ["one"], fail)
    work.finish()
    assert await leader == await follower == values_of(["one"])
    assert await cache.get_many(ASK, ["one"], never) == values_of(["one"])


async def test_a_caller_may_end_while_its_own_thread_is_in_the_middle_of_a_change(cache):
    coroutine = cache.get_many(ASK, ["one"], Work())
    coroutine.send(None)
    follower = ask_for(cache, immediately)
    await settle()
    with cache._exclusive():
        coroutine.close()  # as the garbage collector does it, at any allocation
        assert not follower.done()
    assert await follower == values_of(["one"])


def test_one_loop_after_the_other_finds_what_the_first_has_kept(cache):
    assert asyncio.run(cache.get_many(ASK, ["one"], immediately)) == values_of(["one"])
    assert asyncio.run(cache.get_many(ASK, ["one"], never)) == values_of(["one"])


def test_a_forked_child_starts_empty_whatever_the_parent_was_doing():
    source = """
        import os
        from langflow_sluice.cache import Packing
        from langflow_sluice.single_flight import Ask, SingleFlightCache
        cache = SingleFlightCache(Packing(tuple, list, len), max_entries=9, max_bytes=99)
        ask = Ask("space", 60.0)
        cache.get_many_blocking(ask, ["kept"], lambda keys: [["parent"]])
        def compute(keys):
            with cache._exclusive():
                child = os.fork()
                if child:
                    return [[child]]
            found = cache.get_many_blocking(ask, ["kept", "one"], lambda keys: [["child"]] * len(keys))
            os._exit(0 if found == [["child"]] * 2 else 1)
        [[child]] = cache.get_many_blocking(ask, ["one"], compute)
        print(os.waitpid(child, 0)[1], cache.get_many_blocking(ask, ["kept"], None))
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("0 [['parent']]\n", "")


def test_any_number_of_loops_and_threads_with_cancellations_and_errors_end_and_leave_nothing_behind():
    cache = cache_of(ManualClock(), max_entries=3)
    with ThreadPoolExecutor(6) as threads:
        ended = [threads.submit(asyncio.run, _many_callers(cache, seed)) for seed in range(3)]
        ended += [threads.submit(_blocking_callers, cache, seed) for seed in range(3)]
        for each in ended:
            each.result(DEADLINE_S)
    assert cache.statistics().in_flight == 0
    assert cache.statistics().entries <= 3


async def _many_callers(cache, seed):
    chance = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(20):
        await asyncio.gather(*(_caller(cache, chance) for _ in range(10)))
        cache.invalidate("space")


async def _caller(cache, chance):
    keys = chance.sample("abcdef", chance.randint(1, 4))
    outcome = chance.random()

    async def compute(wanted):
        for _ in range(chance.randint(0, 3)):
            await asyncio.sleep(0)
        if outcome < 0.2:
            message = "no luck"
            raise InvalidInput(message)
        return values_of(wanted)

    task = ask_for(cache, compute, keys)
    if outcome > 0.8:
        await asyncio.sleep(0)
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError, InvalidInput):
        assert await task == values_of(keys)


def _blocking_callers(cache, seed):
    chance = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(100):
        keys = chance.sample("abcdef", 2)
        with contextlib.suppress(InvalidInput):
            assert cache.get_many_blocking(ASK, keys, values_of) == values_of(keys)


# What is kept, and for how long


async def test_a_value_is_kept_for_its_time(cache, clock):
    await cache.get_many(ASK, ["one"], immediately)
    await clock.advance(60)
    assert await cache.get_many(ASK, ["one"], never) == values_of(["one"])
    await clock.advance(0.1)
    work = Work()
    work.finish()
    await cache.get_many(ASK, ["one"], work)
    assert work.asked == [["one"]]


async def test_each_reader_says_how_old_a_value_it_takes(cache, clock):
    await cache.get_many(ASK, ["one"], immediately)
    await clock.advance(10)
    with pytest.raises(InvalidInput):
        await cache.get_many(Ask("space", ttl_s=9.0), ["one"], failing(InvalidInput("no")))
    assert await cache.get_many(ASK, ["one"], never) == values_of(["one"])


async def test_without_a_time_to_live_each_call_is_made(cache):
    work = Work()
    ask = Ask("space", ttl_s=0)
    tasks = [ask_for(cache, work, ["one", "one"], ask=ask) for _ in range(3)]
    await settle()
    assert work.asked == [["one", "one"]] * 3
    work.finish()
    assert await asyncio.gather(*tasks) == [values_of(["one", "one"])] * 3
    assert await on_a_thread(lambda: cache.get_many_blocking(ask, ["one"], values_of)) == values_of(["one"])
    assert cache.statistics().entries == cache.statistics().misses == 0


async def test_callers_under_other_terms_share_values_and_no_computation(cache):
    first, second = Work(), Work()
    one = ask_for(cache, first, ask=Ask("space", 60.0, terms="patient"))
    other = ask_for(cache, second, ask=Ask("space", 60.0, terms="hasty"))
    await settle()
    assert first.running == second.running == 1
    second.finish()
    assert await other == values_of(["one"])
    assert await cache.get_many(Ask("space", 60.0, terms="third"), ["one"], never) == values_of(["one"])
    first.finish()
    assert await one == values_of(["one"])


async def test_an_invalidated_namespace_is_forgotten_and_no_other(cache):
    other = Ask("other", 60.0)
    await cache.get_many(ASK, ["one"], immediately)
    await cache.get_many(other, ["one"], immediately)
    cache.invalidate("space")
    assert await cache.get_many(other, ["one"], never) == values_of(["one"])
    with pytest.raises(InvalidInput):
        await cache.get_many(ASK, ["one"], failing(InvalidInput("no")))


async def test_what_was_begun_before_an_invalidation_serves_those_who_waited_and_nobody_later(cache):
    before, after = Work(), Work()
    leader = ask_for(cache, before)
    await settle()
    waited = ask_for(cache, never)
    await settle()
    cache.invalidate("space")
    newcomer = ask_for(cache, after)
    await settle()
    assert after.running == 1
    before.finish()
    assert await leader == await waited == values_of(["one"])
    assert cache.statistics().entries == 0
    late = ask_for(cache, never)
    after.finish()
    assert await newcomer == await late == values_of(["one"])
    assert cache.statistics().entries == 1


async def test_what_is_taken_over_after_an_invalidation_is_not_kept_either(cache):
    leader = ask_for(cache, Work())
    await settle()
    waited = ask_for(cache, immediately)
    await settle()
    cache.invalidate("space")
    leader.cancel()
    assert await waited == values_of(["one"])
    assert cache.statistics().entries == 0


async def test_a_cleared_cache_is_empty(cache):
    work = Work()
    await cache.get_many(ASK, ["one"], immediately)
    leader = ask_for(cache, work, ["two"])
    await settle()
    cache.clear()
    work.finish()
    await leader
    assert (cache.statistics().entries, cache.statistics().misses, cache.statistics().in_flight) == (0, 0, 0)


async def test_bounds_of_number_and_bytes_hold_over_all_namespaces(clock):
    cache = cache_of(clock, max_entries=3, max_bytes=5)
    for name in "abcd":  # each value is of size 2
        await cache.get_many(Ask(name, 60.0), ["one"], immediately)
    statistics = cache.statistics()
    assert (statistics.entries, statistics.size_bytes, statistics.evicted) == (2, 4, 2)
    assert await cache.get_many(Ask("d", 60.0), ["one"], never) == values_of(["one"])
