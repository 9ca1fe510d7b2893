"""A guard that processes share: each link to Redis here is what a process has, two of them in one Python."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from langflow_sluice.cluster import exchange
from langflow_sluice.cluster.link import RETRY_FROM_S, ClusterLink, close_links
from langflow_sluice.cluster.redis_settings import RedisSettings
from langflow_sluice.cluster.share import ClusterShare
from langflow_sluice.cluster.standing import Mode
from langflow_sluice.errors import (
    BulkheadFull,
    CircuitOpen,
    ClusterUnavailable,
    InvalidInput,
    QueueTimeout,
    WouldBlockLoop,
)
from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.guard.breaker import BreakerState
from langflow_sluice.guard.waiter import Outcome, Waiter
from langflow_sluice.testing import isolated_guards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langflow_sluice.embedded.redis import EmbeddedRedis
    from langflow_sluice.guard.admission import AdmissionQueue

PATIENCE_S = 20.0
LEASE_S = 1.0


class GuardOf(Guard):
    """A guard of the process that a link stands for."""

    def __init__(self, link: ClusterLink, name: str, settings: GuardSettings) -> None:
        self.link = link
        super().__init__(name, settings)

    def _join(self, queue: AdmissionQueue, settings: GuardSettings) -> ClusterShare:
        share = ClusterShare(self.name, self.link, queue, self.clock, settings, queue.in_flight)
        self.link.add(self.key, share)
        return share


class Caller:
    """Holds a slot until told to let go."""

    def __init__(self, guard: Guard, entered: list[str] | None = None, name: str = "", **wants: Any) -> None:
        self.entered = asyncio.Event()
        self.let_go = asyncio.Event()
        self.slot = guard.slot(**wants)
        self._entered, self._name = entered, name
        self.task = asyncio.ensure_future(self._call())

    async def _call(self) -> None:
        async with self.slot:
            self.entered.set()
            if self._entered is not None:
                self._entered.append(self._name)
            await self.let_go.wait()

    async def inside(self) -> Caller:
        await asyncio.wait_for(self.entered.wait(), PATIENCE_S)
        return self

    async def leave(self) -> None:
        self.let_go.set()
        await asyncio.wait_for(self.task, PATIENCE_S)

    async def cancel(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


async def until(condition: Callable[[], bool]) -> None:
    """Gives the links' threads time until something is true."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens on threads that know of no event
            await asyncio.sleep(0.002)


def known_to_wait(guard: Guard) -> bool:
    """Whether Redis knows of all that wait at a guard."""
    share = guard.admission.share
    return share is not None and list(guard.admission.waiting().values()) == share._believed and not share._asking


def in_flight_of_all(guard: Guard) -> int:
    cluster = guard.statistics().cluster
    assert cluster is not None
    return cluster.in_flight


@pytest.fixture(scope="module", autouse=True)
def settled(redis_server: EmbeddedRedis) -> None:
    """Rates begin empty at a server that is new or has no data, which tests of tokens cannot wait for."""
    with redis_server.client() as client:
        client.set("sluice:epoch", 1)
        while client.info("server")["uptime_in_seconds"] <= LEASE_S:
            time.sleep(0.05)


@pytest.fixture(autouse=True)
def configured(redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    monkeypatch.setenv("SLUICE_LEASE", str(LEASE_S))
    yield
    close_links()


@pytest.fixture
def make(redis_server: EmbeddedRedis) -> Iterator[Callable[..., tuple[GuardOf, GuardOf]]]:
    """Makes one guard in two processes."""
    links = [ClusterLink(RedisSettings(redis_server.url, timeout_s=5), LEASE_S) for _ in range(2)]

    def make(**limits: Any) -> tuple[GuardOf, GuardOf]:
        name = secrets.token_hex(8)
        settings = GuardSettings(**{"max_concurrency": 1, "scope": "cluster", **limits})
        return GuardOf(links[0], name, settings), GuardOf(links[1], name, settings)

    yield make
    for link in links:
        link.close()


async def both_in(guards: tuple[GuardOf, GuardOf]) -> None:
    """Lets both processes join, so that what follows takes place in the cluster."""
    await until(lambda: all(each.statistics().cluster.members == 2 for each in guards))  # type: ignore[union-attr]


def share_of(guard: Guard) -> ClusterShare:
    share = guard.admission.share
    assert share is not None
    return share


@pytest.fixture
def spoil(redis_server: EmbeddedRedis) -> Iterator[Callable[[Guard], Callable[[], None]]]:
    """Puts something else in the place of a guard's data, so that Redis refuses; returns what ends that."""
    with redis_server.client() as client:

        def spoil(guard: Guard) -> Callable[[], None]:
            state = exchange.keys("sluice", exchange.digest(guard.key))[0]
            client.set(state, "spoilt")
            return lambda: client.delete(state) and None

        yield spoil


async def counted(guards: tuple[GuardOf, GuardOf]) -> None:
    """Lets both be members for so long that the others count with them."""
    await both_in(guards)
    await until(lambda: all(share_of(each)._divided[0] == 2 for each in guards))


async def alone(guard: Guard) -> None:
    await until(lambda: share_of(guard).mode is Mode.LOCAL)


async def test_the_limit_holds_over_both_and_all_get_their_turn(make: Callable[..., tuple[GuardOf, GuardOf]]) -> None:
    guards = make(max_concurrency=3)
    inside = peak = done = 0

    async def call(guard: Guard) -> None:
        nonlocal inside, peak, done
        async with guard.slot():
            inside += 1
            peak = max(peak, inside)
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            inside -= 1
            done += 1

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(call(guards[number % 2]) for number in range(120)))
    assert (peak, done) == (3, 120)
    assert [each.statistics().admitted for each in guards] == [60, 60]
    await until(lambda: in_flight_of_all(guards[0]) == 0)


async def test_callers_of_a_process_go_in_the_order_in_which_they_came(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make()
    entered: list[str] = []
    holder = await Caller(there).inside()
    callers = [Caller(here, entered, str(number)) for number in range(6)]
    await until(lambda: known_to_wait(here))
    await holder.leave()
    for caller in callers:
        await caller.inside()
        await caller.leave()
    assert entered == list("012345")


async def test_interactive_goes_before_batch_over_processes(make: Callable[..., tuple[GuardOf, GuardOf]]) -> None:
    here, there = make()
    entered: list[str] = []
    holder = await Caller(here).inside()
    batch = Caller(here, entered, "batch", priority="batch")
    await until(lambda: known_to_wait(here))
    interactive = Caller(there, entered, "interactive", priority="interactive")
    await until(lambda: known_to_wait(there) and sum(there.statistics().waiting.values()) == 1)
    await holder.leave()
    await (await interactive.inside()).leave()
    await (await batch.inside()).leave()
    assert entered == ["interactive", "batch"]


async def test_who_is_cancelled_while_waiting_leaves_its_place_to_others(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make()
    holder = await Caller(here).inside()
    gone = Caller(there)
    await until(lambda: known_to_wait(there) and sum(there.statistics().waiting.values()) == 1)
    await gone.cancel()
    await holder.leave()
    await (await Caller(here).inside()).leave()
    assert there.statistics().gone == 1
    assert there.statistics().admitted == 0


async def test_who_is_cancelled_just_after_the_grant_gives_it_back(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make()
    holder = await Caller(here).inside()
    unlucky = Caller(there)
    await until(lambda: known_to_wait(there) and sum(there.statistics().waiting.values()) == 1)
    # The loop stands still while the grant comes by the other process's thread, and so does the caller.
    here.admission.release(holder.slot._waiter)
    holder.slot._held = False
    while not there.statistics().in_flight:
        time.sleep(0.001)  # noqa: ASYNC251 - that is what is built here
    await unlucky.cancel()
    assert not unlucky.entered.is_set()
    await holder.leave()
    await (await Caller(here).inside()).leave()
    assert (there.statistics().gone, there.statistics().in_flight) == (1, 0)


async def test_who_is_cancelled_or_fails_while_holding_gives_it_back(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make()
    await (await Caller(here).inside()).cancel()
    with pytest.raises(ZeroDivisionError):
        async with there.slot():
            raise ZeroDivisionError
    await (await Caller(here).inside()).leave()
    await until(lambda: in_flight_of_all(here) == 0)


async def test_another_loop_and_a_thread_without_one_share_the_guard(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make()
    holder = await Caller(there).inside()
    entered: list[str] = []

    def without_loop() -> None:
        with here.slot():
            entered.append("thread")

    async def on_another_loop() -> None:
        async with here.slot():
            entered.append("loop")

    threads = [
        asyncio.ensure_future(asyncio.to_thread(without_loop)),
        asyncio.ensure_future(asyncio.to_thread(asyncio.run, on_another_loop())),
    ]
    await until(lambda: sum(here.statistics().waiting.values()) == 2)
    assert not entered
    await holder.leave()
    await asyncio.wait_for(asyncio.gather(*threads), PATIENCE_S)
    assert sorted(entered) == ["loop", "thread"]


async def test_a_synchronous_call_on_a_loop_waits_for_redis_but_not_for_other_callers(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make()
    await both_in((here, there))
    await (await Caller(here).inside()).leave()
    await until(lambda: in_flight_of_all(here) == 0)
    with here.slot(), pytest.raises(WouldBlockLoop), there.slot():
        pass
    assert sum(there.statistics().waiting.values()) == 0
    await (await Caller(there).inside()).leave()


@pytest.mark.parametrize("others", [0, 1])
async def test_a_synchronous_call_on_a_loop_waits_no_longer_than_redis_takes_to_answer(
    make: Callable[..., tuple[GuardOf, GuardOf]], monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    monkeypatch.setattr("langflow_sluice.guard.guard._TRIP_S", 1.5 * PATIENCE_S)
    here, there = make()
    holder = await Caller(here).inside()
    waiting = [Caller(there) for _ in range(others)]
    await until(lambda: sum(there.statistics().waiting.values()) == others and known_to_wait(there))

    async def call() -> None:
        with pytest.raises(WouldBlockLoop), there.slot():
            pass

    await asyncio.wait_for(asyncio.to_thread(asyncio.run, call()), PATIENCE_S)
    for caller in waiting:
        await caller.cancel()
    await holder.leave()


async def test_a_caller_whose_loop_is_closed_holds_up_nobody(make: Callable[..., tuple[GuardOf, GuardOf]]) -> None:
    here, there = make()
    holder = await Caller(here).inside()
    abandoned: list[asyncio.Task[None]] = []

    def leave_a_caller_behind() -> None:
        loop = asyncio.new_event_loop()

        async def begin() -> None:
            abandoned.append(asyncio.ensure_future(call()))
            await asyncio.sleep(0)

        async def call() -> None:
            async with there.slot():
                pass

        loop.run_until_complete(begin())
        loop.close()

    await asyncio.to_thread(leave_a_caller_behind)
    await until(lambda: known_to_wait(there) and sum(there.statistics().waiting.values()) == 1)
    await holder.leave()
    await (await Caller(here).inside()).leave()
    await until(lambda: there.statistics().gone == 1)
    abandoned[0]._log_destroy_pending = False  # type: ignore[attr-defined]
    abandoned[0].get_coro().close()  # type: ignore[union-attr]


async def test_patience_and_the_queue_are_bounded(make: Callable[..., tuple[GuardOf, GuardOf]]) -> None:
    here, there = make(max_queue=1, queue_timeout_s=0.2)
    holder = await Caller(here).inside()
    waiting = Caller(there)
    await until(lambda: sum(there.statistics().waiting.values()) == 1)
    with pytest.raises(BulkheadFull, match="max_queue 1"):
        async with there.slot():
            pass
    with pytest.raises(QueueTimeout, match=r"queue_timeout 0\.2"):
        await waiting.task
    await holder.leave()
    await (await Caller(there).inside()).leave()


async def test_tokens_that_one_process_did_not_use_are_there_for_the_other(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make(max_concurrency=0, tokens_per_minute=6000)
    await both_in((here, there))
    caller = await Caller(here, tokens=6000).inside()
    other = Caller(there, tokens=5000)
    await until(lambda: known_to_wait(there) and sum(there.statistics().waiting.values()) == 1)
    assert not other.entered.is_set()
    caller.slot.settle_tokens(10)
    await caller.leave()
    await (await other.inside()).leave()


async def test_a_handover_that_overtakes_an_answer_costs_no_tokens_twice(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make(max_concurrency=0, tokens_per_minute=6000)
    await both_in((here, there))
    caller = await Caller(here, tokens=6000).inside()
    share = there.admission.share
    assert share is not None
    await until(lambda: not share._asking)
    answers: list[Any] = []
    share.answered = answers.append  # type: ignore[method-assign] # the answer is on its way for long
    other = Caller(there, tokens=5000)
    await until(lambda: bool(answers))
    caller.slot.settle_tokens(10)
    await caller.leave()
    await until(lambda: share._known == 1)
    del share.answered
    for answer in answers:
        share.queue.submit(share.answered, answer)
    await (await other.inside()).leave()


async def test_a_pause_told_to_one_process_holds_the_other(make: Callable[..., tuple[GuardOf, GuardOf]]) -> None:
    here, there = make(max_concurrency=0)
    await both_in((here, there))
    caller = await Caller(here).inside()
    caller.slot.report(Outcome.OVERLOADED, pause_s=60)
    await caller.leave()
    await until(lambda: here.statistics().pause_left_s > 50)
    held = Caller(there)
    await until(lambda: there.statistics().pause_left_s > 50)
    assert not held.entered.is_set()
    await held.cancel()


async def test_a_breaker_that_one_process_opens_turns_callers_of_the_other_away(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make(max_concurrency=6)
    await both_in((here, there))
    callers = [await Caller(here).inside() for _ in range(6)]
    waiting = Caller(there)
    await until(lambda: known_to_wait(there))
    for caller in callers[:5]:
        caller.slot.report(Outcome.FAULT)
    with pytest.raises(CircuitOpen):
        await asyncio.wait_for(waiting.task, PATIENCE_S)
    with pytest.raises(CircuitOpen):
        async with there.slot():
            pass
    assert there.statistics().breaker is BreakerState.OPEN
    for caller in callers:
        await caller.leave()


async def test_the_adaptive_limit_is_one_for_both(make: Callable[..., tuple[GuardOf, GuardOf]]) -> None:
    here, there = make(max_concurrency=20, adaptive=True)
    await both_in((here, there))
    await until(lambda: here.statistics().limit == there.statistics().limit == 10)
    callers = [await Caller(here).inside() for _ in range(2)]
    for caller in callers:  # a burst of refusals is one event
        caller.slot.report(Outcome.OVERLOADED)
        await caller.leave()
    await until(lambda: here.statistics().limit == 8)
    await (await Caller(there).inside()).leave()
    assert there.statistics().limit == 8


async def test_statistics_say_how_it_stands_with_the_others(make: Callable[..., tuple[GuardOf, GuardOf]]) -> None:
    here, there = make(max_concurrency=4)
    await both_in((here, there))
    callers = [await Caller(each).inside() for each in (here, there, there)]
    await (await Caller(here).inside()).leave()
    await until(lambda: in_flight_of_all(here) == 3)
    told = here.statistics()
    assert told.cluster is not None
    assert (told.cluster.mode, told.cluster.members, told.in_flight, told.limit) == ("cluster", 2, 1, 4)
    for caller in callers:
        await caller.leave()


async def test_the_tighter_limit_of_two_processes_holds_for_both_and_goes_with_its_process(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make(max_concurrency=4)
    await both_in((here, there))
    there.change(GuardSettings(max_concurrency=1, scope="cluster"))
    await until(lambda: there.statistics().limit == 1)
    holder = await Caller(here).inside()
    second = Caller(here)
    await until(lambda: known_to_wait(here))
    assert not second.entered.is_set()
    there.retire()
    await (await second.inside()).leave()
    await holder.leave()


async def test_a_guard_that_leaves_the_cluster_and_comes_back_counts_from_the_start(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make()
    for _ in range(5):
        await (await Caller(here).inside()).leave()
    settings = here.settings
    here.retire()
    here.change(settings)
    holder = await Caller(there).inside()
    waiting = Caller(here)
    await until(lambda: known_to_wait(here) and here.statistics().cluster.members == 2)  # type: ignore[union-attr]
    assert not waiting.entered.is_set()
    await holder.leave()
    await (await waiting.inside()).leave()
    await until(lambda: in_flight_of_all(here) == 0)


def test_without_a_redis_the_error_names_scope_and_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLUICE_REDIS_URL", "LANGFLOW_JOB_QUEUE_TYPE", "LANGFLOW_CACHE_TYPE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidInput, match="scope") as caught:
        Guard("nowhere", GuardSettings(scope="cluster"))
    assert "SLUICE_REDIS_URL" in str(caught.value) + caught.value.hint


async def test_the_operators_ceiling_holds_in_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_MAX_CONCURRENCY", "1")
    with isolated_guards() as registry:
        wanted = GuardSettings(max_concurrency=50, scope="cluster")
        guard = registry.guard(secrets.token_hex(8), wanted, asked_by="node")
        holder = await Caller(guard).inside()
        second = Caller(guard)
        await until(lambda: known_to_wait(guard))
        assert guard.statistics().limit == 1
        assert not second.entered.is_set()
        await holder.leave()
        await (await second.inside()).leave()


async def test_redis_hears_neither_names_nor_credentials_of_a_guard(redis_server: EmbeddedRedis) -> None:
    key = "https://user:canary-key@api.example.com sk-canary"
    links = [ClusterLink(RedisSettings(redis_server.url, timeout_s=5), LEASE_S) for _ in range(2)]
    said: list[str] = []
    watching = threading.Event()

    def watch() -> None:
        with redis_server.client() as client, client.monitor() as monitor:
            watching.set()
            for command in monitor.listen():
                said.append(str(command))
                if "the end" in said[-1]:
                    return

    watcher = asyncio.ensure_future(asyncio.to_thread(watch))
    await asyncio.to_thread(watching.wait, PATIENCE_S)
    try:
        settings = GuardSettings(max_concurrency=1, scope="cluster")
        here, there = (GuardOf(link, key, settings) for link in links)
        holder = await Caller(here).inside()
        other = Caller(there)
        await until(lambda: known_to_wait(there))
        holder.slot.report(Outcome.OK)
        await holder.leave()
        await (await other.inside()).leave()
    finally:
        for link in links:
            await asyncio.to_thread(link.close)
        with redis_server.client() as client:
            client.echo("the end")
            names = [name.decode() for name in client.scan_iter("sluice:*")]
    await asyncio.wait_for(watcher, PATIENCE_S)
    assert any("PUBLISH" in each.upper() for each in said)
    password = redis_server._password
    assert password
    for secret in ("canary", "example", password):
        assert not [each for each in said + names if secret in each]


async def test_no_error_or_log_tells_the_password_of_redis(
    redis_server: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = redis_server.url.replace("redis://:", "redis://:canary")
    link = ClusterLink(RedisSettings(wrong, timeout_s=1), LEASE_S)
    with caplog.at_level(logging.DEBUG, "langflow_sluice"):
        guard = GuardOf(link, "closed", GuardSettings(max_concurrency=1, scope="cluster"))
        with pytest.raises(ClusterUnavailable, match="it refuses the login") as caught:
            async with guard.slot():
                pass
        await asyncio.to_thread(link.close)
    assert caplog.records
    told = caplog.text + str(caught.value) + caught.value.hint + repr(guard.statistics()) + repr(link.settings)
    assert "canary" not in told


async def test_what_is_in_use_in_other_workers_is_told_to_who_waited_too_long(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make(queue_timeout_s=0.2)
    await both_in((here, there))
    holder = await Caller(here).inside()
    with pytest.raises(QueueTimeout, match=r"1 calls in flight in all 2 workers \(cap 1\), 0 in this one, 0 still"):
        async with there.slot():
            pass
    await holder.leave()


async def test_who_waited_too_long_for_redis_is_told_so() -> None:
    link = ClusterLink(RedisSettings("redis://127.0.0.1:1/0", timeout_s=1), LEASE_S)
    guard = GuardOf(link, "nobody there", GuardSettings(scope="cluster", queue_timeout_s=0.2))
    with pytest.raises(QueueTimeout, match=r"Redis at 127\.0\.0\.1:1/0, .* does not answer \(no connection\)"):
        async with guard.slot():
            pass
    await asyncio.to_thread(link.close)


async def test_who_waited_too_long_for_the_return_of_the_others_is_told_so(redis_server: EmbeddedRedis) -> None:
    # Nobody has ever set a mark under this prefix: it may be that all was lost.
    link = ClusterLink(RedisSettings(redis_server.url, prefix=secrets.token_hex(4), timeout_s=5), 20.0)
    guard = GuardOf(link, "new here", GuardSettings(scope="cluster", queue_timeout_s=0.5))
    with pytest.raises(QueueTimeout, match="until the workers that shared the guard before are back"):
        async with guard.slot():
            pass
    await asyncio.to_thread(link.close)


@pytest.mark.parametrize("connected", [False, True])
async def test_who_comes_first_after_all_data_was_lost_waits_for_the_others(
    redis_server: EmbeddedRedis,
    connected: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    prefix = secrets.token_hex(4)
    settings = GuardSettings(max_concurrency=1, scope="cluster")
    links = [ClusterLink(RedisSettings(redis_server.url, prefix=prefix, timeout_s=5), LEASE_S) for _ in range(2)]
    with redis_server.client() as client:
        client.set(f"{prefix}:epoch", 1)
        here = GuardOf(links[0], "lost", settings)
        holder = await Caller(here).inside()
        share_of(here).due_at = lambda now: now + 60  # type: ignore[method-assign] # the other comes first
        await until(lambda: not share_of(here)._asking)
        if connected:
            await (await Caller(GuardOf(links[1], "another", settings)).inside()).leave()
        client.delete(*client.scan_iter(f"{prefix}:*"))
    there = GuardOf(links[1], "lost", settings)
    first = Caller(there)
    await until(lambda: first.entered.is_set() or (share_of(there)._believed == [0, 1, 0] and known_to_wait(there)))
    assert not first.entered.is_set()
    await holder.leave()
    await (await first.inside()).leave()
    for link in links:
        await asyncio.to_thread(link.close)


async def test_a_process_that_does_not_use_a_guard_any_more_has_no_say_in_its_limits(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make(max_concurrency=4)
    await both_in((here, there))
    there.change(GuardSettings(max_concurrency=1, scope="cluster"))
    await until(lambda: here.statistics().limit == 1)
    assert here.statistics().cluster.cap == 1  # type: ignore[union-attr]
    holder = await Caller(there).inside()
    there.link.forget_after_s = 0.2
    await until(lambda: not share_of(there)._asking)
    exchanges = there.link.exchanges
    await until(lambda: there.link.exchanges > exchanges + 2)
    assert here.statistics().limit == 1  # a call under way is a use
    await holder.leave()
    await until(lambda: here.statistics().limit == 4)
    told = there.statistics().cluster
    assert told is not None
    assert (told.idle, told.part_of(4), told.mode) == (True, 0, "cluster")
    # Nothing is asked for whoever sleeps, and its next caller joins as any other.
    there.link.forget_after_s = 600.0
    await (await Caller(there).inside()).leave()
    await until(lambda: here.statistics().limit == 1)
    told = there.statistics().cluster
    assert told is not None
    assert (told.idle, told.members, told.leases_lost, told.restarts) == (False, 2, 0, 0)
    await until(lambda: in_flight_of_all(here) == 0)


@pytest.mark.parametrize("reason", ["it answers WRONGTYPE", "no connection"])
async def test_a_caller_of_a_process_that_has_left_learns_that_redis_is_away_and_when_it_is_back(
    make: Callable[..., tuple[GuardOf, GuardOf]],
    spoil: Callable[[Guard], Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
) -> None:
    monkeypatch.setattr("langflow_sluice.cluster.share.AWAY_AFTER_S", 0.1)
    here, there = make()
    await both_in((here, there))
    there.link.forget_after_s = 0.2
    await until(lambda: share_of(there).asleep)
    attempts = 0
    if reason == "no connection":

        def fail(_: object) -> None:
            nonlocal attempts
            attempts += 1
            raise ConnectionResetError

        there.link._exchange = fail  # type: ignore[method-assign]

        def end() -> None:
            del there.link._exchange
    else:
        end = spoil(here)
    with pytest.raises(ClusterUnavailable, match=reason):
        async with there.slot():
            pass
    if reason == "no connection":
        refused_after = attempts
        await until(lambda: attempts > refused_after + 2)  # also with nobody waiting
    end()
    await until(lambda: share_of(there).mode is Mode.CLUSTER)
    await (await Caller(there).inside()).leave()


async def test_attempts_to_reach_redis_that_fail_take_nothing_of_a_rate_held_alone(
    make: Callable[..., tuple[GuardOf, GuardOf]], spoil: Callable[[Guard], Callable[[], None]]
) -> None:
    # Alone, the first call is there half a second after the loss; an attempt to reach Redis comes every quarter.
    here, there = make(max_concurrency=4, requests_per_minute=240, redis_loss="local_share")
    await counted((here, there))
    end = spoil(here)
    await alone(here)
    await (await Caller(here).inside()).leave()
    assert share_of(here).alone
    end()
    await until(lambda: share_of(here).mode is Mode.CLUSTER)
    assert not share_of(here).alone
    await (await Caller(there).inside()).leave()


async def test_a_breaker_opens_on_failures_between_attempts_to_reach_redis(
    make: Callable[..., tuple[GuardOf, GuardOf]], spoil: Callable[[Guard], Callable[[], None]]
) -> None:
    here, there = make(max_concurrency=8, redis_loss="local_share")
    await counted((here, there))
    spoil(here)
    await alone(here)
    share, attempts = share_of(here), 0
    pause_alone = share.pause_alone

    def paused(done: object) -> None:
        nonlocal attempts
        attempts += 1
        pause_alone(done)

    share.pause_alone = paused  # type: ignore[method-assign]
    for number in range(5):
        caller = await Caller(here).inside()
        caller.slot.report(Outcome.FAULT)
        await caller.leave()
        await until(lambda number=number: attempts > number)  # type: ignore[misc]
    with pytest.raises(CircuitOpen):
        async with here.slot():
            pass


async def test_what_the_adaptive_limit_has_come_to_is_divided(
    make: Callable[..., tuple[GuardOf, GuardOf]], spoil: Callable[[Guard], Callable[[], None]]
) -> None:
    here, there = make(max_concurrency=20, adaptive=True, redis_loss="local_share")
    await counted((here, there))
    caller = await Caller(here).inside()
    caller.slot.report(Outcome.OVERLOADED)
    await caller.leave()
    await until(lambda: here.statistics().limit == there.statistics().limit == 8)
    spoil(here)
    await alone(here)
    await alone(there)
    assert (here.statistics().limit, there.statistics().limit) == (4, 4)


async def test_a_breaker_that_is_open_stays_open_while_redis_is_away(
    make: Callable[..., tuple[GuardOf, GuardOf]], spoil: Callable[[Guard], Callable[[], None]]
) -> None:
    here, there = make(max_concurrency=8, redis_loss="local_share")
    await counted((here, there))
    callers = [await Caller(here).inside() for _ in range(5)]
    for caller in callers:
        caller.slot.report(Outcome.FAULT)
        await caller.leave()
    await until(lambda: there.statistics().breaker is BreakerState.OPEN)
    spoil(here)
    await alone(there)
    assert there.statistics().breaker is BreakerState.OPEN
    with pytest.raises(CircuitOpen):
        async with there.slot():
            pass


@pytest.mark.parametrize(("long", "why"), [(True, "1 calls in flight divided by 2"), (False, "longer than a lease")])
async def test_who_has_no_part_of_the_limits_is_told_why(
    make: Callable[..., tuple[GuardOf, GuardOf]],
    spoil: Callable[[Guard], Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
    long: bool,  # noqa: FBT001 - a parameter of the test
    why: str,
) -> None:
    monkeypatch.setattr("langflow_sluice.cluster.share.AWAY_AFTER_S", 0.1)
    guards = make(redis_loss="local_share")
    await (counted if long else both_in)(guards)
    for guard in guards:
        if not long:
            share_of(guard)._member_since += 60
    spoil(guards[0])
    without = next(each for each in guards if not long or share_of(each)._divided[1])
    with pytest.raises(ClusterUnavailable) as caught:
        async with without.slot():
            pass
    assert why in caught.value.hint


async def test_a_permit_is_outlived_when_its_lease_may_be_over(make: Callable[..., tuple[GuardOf, GuardOf]]) -> None:
    guard, _ = make()
    share = share_of(guard)
    caller = await Caller(guard).inside()
    share.due_at = lambda now: now + 60  # type: ignore[method-assign] # no contact from now on
    await until(lambda: not share._asking)
    waiter: Waiter = caller.slot._waiter
    assert not share.outlived(waiter)
    # The contact may have been one that did not renew the lease: those of its first tenth do not.
    share._contact_at = guard.clock.now() - 0.9 * LEASE_S
    assert share.outlived(waiter)
    await caller.leave()


async def test_nothing_is_started_alone_on_an_answer_that_came_too_late_while_the_next_is_under_way(
    make: Callable[..., tuple[GuardOf, GuardOf]],
) -> None:
    here, there = make(redis_loss="local_share", max_concurrency=4)
    await counted((here, there))
    share, seen = share_of(here), []
    await until(lambda: not share._asking)
    answered = share.answered

    def late(told: tuple[Any, float, str]) -> None:
        # The process was stopped between the answer's arrival and this.
        if not seen:
            share._contact_at -= 5 * LEASE_S
            share._member_since -= 10 * LEASE_S
            answered((told[0], told[1] - 5 * LEASE_S, told[2]))
            seen.append((share.mode, share.doubtful))
        else:
            answered(told)

    share.answered = late  # type: ignore[method-assign]
    await until(lambda: bool(seen))
    assert seen == [(Mode.UNREACHED, True)]
    await (await Caller(here).inside()).leave()


async def test_a_redis_user_without_the_right_to_listen_is_told_of_once(
    redis_server: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    password = secrets.token_hex(8)
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "deaf", "on", f">{password}", "~*", "+@all", "resetchannels")
        link = ClusterLink(
            RedisSettings(f"redis://deaf:{password}@127.0.0.1:{redis_server.port}/0", timeout_s=5), LEASE_S
        )
        guard = GuardOf(link, secrets.token_hex(8), GuardSettings(scope="cluster"))
        await (await Caller(guard).inside()).leave()
        await until(lambda: link._hear_again_s >= 4 * RETRY_FROM_S)
        await asyncio.to_thread(link.close)
        client.execute_command("ACL", "DELUSER", "deaf")
    said = [each for each in caplog.messages if "does not let this process listen (it answers NOPERM)" in each]
    assert len(said) == 1
    assert "sluice:to:*" in said[0]
    assert password not in caplog.text
