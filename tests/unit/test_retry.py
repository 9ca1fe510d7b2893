"""Guarded calls: what is tried again, how long that may take and what is left behind."""

import asyncio
import functools
import threading

import httpx
import pytest

from langflow_sluice.errors import (
    BulkheadFull,
    CircuitOpen,
    DeadlineExceeded,
    InvalidInput,
    QueueTimeout,
    UpstreamError,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from langflow_sluice.failures import diagnose_http
from langflow_sluice.guard import Guard, GuardSettings, retry
from langflow_sluice.guard.breaker import BreakerState
from langflow_sluice.guard.guard import MAX_PAUSE_S
from langflow_sluice.guard.retry import Attempts, CallPolicy, Tally, call, call_blocking
from langflow_sluice.testing import ManualClock, settle

diagnose = functools.partial(diagnose_http, resource="api.example.com")
FOR_EVER = CallPolicy(max_retries=2, total_timeout_s=0)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def longest_waits(monkeypatch):
    """Waits are as long as the backoff allows."""
    monkeypatch.setattr(retry.random, "uniform", lambda _, most: most)


@pytest.fixture
def no_waits(monkeypatch):
    monkeypatch.setattr(retry, "BACKOFF_BASE_S", 0.0)


def guard_of(clock=None, **limits):
    return Guard("test", GuardSettings(**limits), *([clock] if clock else []))


def answered(status, **headers):
    request = httpx.Request("POST", "https://api.example.com/v1")
    response = httpx.Response(status, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return httpx.HTTPStatusError("canary prompt", request=request, response=response)


class Service:
    """Raises what it is given, one after the other, then answers; notes when it was asked and in which slot."""

    def __init__(self, guard, *errors):
        self.guard = guard
        self.errors = list(errors)
        self.asked_at = []
        self.slots = []

    def ask(self, slot):
        assert self.guard.statistics().in_flight <= (self.guard.settings.max_concurrency or 99)
        self.asked_at.append(self.guard.clock.now())
        self.slots.append(slot)
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    async def __call__(self, slot):
        await asyncio.sleep(0)
        return self.ask(slot)


@pytest.mark.usefixtures("longest_waits")
async def test_every_attempt_takes_a_slot_of_its_own_and_waits_longer_each_time(clock):
    guard = guard_of(clock, max_concurrency=1)
    service = Service(guard, answered(500), answered(500))
    task = asyncio.ensure_future(call(guard, FOR_EVER, service, diagnose))
    await settle()
    assert guard.statistics().in_flight == 0  # nothing is held while it waits
    await clock.advance(10)
    assert await task == "answer"
    assert len(set(map(id, service.slots))) == 3
    assert guard.statistics().admitted == 3
    assert service.asked_at == [1000.0, 1000.5, 1001.5]


@pytest.mark.usefixtures("longest_waits")
def test_the_wait_grows_under_a_cap(clock):
    attempts = Attempts(guard_of(clock), CallPolicy(max_retries=8, total_timeout_s=0), diagnose)
    assert [attempts.wait_after(answered(500)) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 20, 20]


async def test_a_wait_is_drawn_between_nothing_and_the_longest(clock, monkeypatch):
    drawn = []
    monkeypatch.setattr(retry.random, "uniform", lambda *bounds: drawn.append(bounds) or 0.0)
    await call(guard_of(clock), FOR_EVER, Service(guard_of(clock), answered(500), answered(500)), diagnose)
    assert drawn == [(0, 0.5), (0, 1.0)]


@pytest.mark.usefixtures("longest_waits")
async def test_others_go_between_two_attempts(clock):
    guard = guard_of(clock, max_concurrency=1)
    service = Service(guard, answered(500))
    task = asyncio.ensure_future(call(guard, FOR_EVER, service, diagnose))
    await settle()
    async with guard.slot() as slot:
        assert slot.waited_s == 0
    await clock.advance(1)
    assert await task == "answer"


async def test_a_429_with_retry_after_pauses_the_whole_guard_and_not_just_one_caller(clock):
    guard = guard_of(clock, max_concurrency=1)
    service = Service(guard, answered(429, retry_after="5"))
    other = Service(guard)
    tasks = [asyncio.ensure_future(call(guard, FOR_EVER, each, diagnose)) for each in (service, other)]
    await clock.advance(4.9)
    assert (len(service.asked_at), len(other.asked_at)) == (1, 0)
    assert guard.statistics().pause_left_s == pytest.approx(0.1)
    await clock.advance(0.2)
    assert await asyncio.gather(*tasks) == ["answer", "answer"]
    assert service.asked_at[1] == other.asked_at[0] == 1005.0


async def test_no_service_stops_a_guard_for_longer_than_the_limit(clock):
    guard = guard_of(clock, queue_timeout_s=0)
    service = Service(guard, answered(429, retry_after="1e9"))
    task = asyncio.ensure_future(call(guard, FOR_EVER, service, diagnose))
    await clock.advance(MAX_PAUSE_S)
    assert await task == "answer"


@pytest.mark.parametrize("value", ["0", "-5", "Thu, 01 Jan 1970 00:00:00 GMT"])
@pytest.mark.usefixtures("longest_waits")
async def test_a_service_that_says_to_wait_for_no_time_is_not_hammered(clock, value):
    guard = guard_of(clock)
    service = Service(guard, answered(429, retry_after=value))
    task = asyncio.ensure_future(call(guard, FOR_EVER, service, diagnose))
    await clock.advance(0.4)
    assert len(service.asked_at) == 1
    await clock.advance(0.2)
    assert await task == "answer"


@pytest.mark.usefixtures("longest_waits")
async def test_attempts_are_limited_and_the_last_error_is_told_without_the_foreign_one(clock):
    guard = guard_of(clock)
    service = Service(guard, *(answered(500) for _ in range(9)))
    task = asyncio.ensure_future(call(guard, FOR_EVER, service, diagnose))
    await clock.advance(100)
    with pytest.raises(UpstreamUnavailable, match="answered 500") as caught:
        await task
    assert len(service.asked_at) == 3
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert guard.statistics().retries == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refusal_is_not_tried_again(clock, status):
    service = Service(guard_of(clock), answered(status), answered(status))
    with pytest.raises(UpstreamRefused):
        await call(guard_of(clock), FOR_EVER, service, diagnose)
    assert len(service.asked_at) == 1


async def test_without_retries_there_is_one_attempt(clock):
    service = Service(guard_of(clock), answered(500))
    with pytest.raises(UpstreamUnavailable):
        await call(guard_of(clock), CallPolicy(max_retries=0), service, diagnose)
    assert len(service.asked_at) == 1


async def test_an_error_of_the_callers_own_code_passes_unchanged(clock):
    guard = guard_of(clock, max_concurrency=1)
    error = ZeroDivisionError("mine")
    with pytest.raises(ZeroDivisionError) as caught:
        await call(guard, FOR_EVER, Service(guard, error), diagnose)
    assert caught.value is error
    assert guard.statistics().in_flight == 0


async def test_a_timeout_of_the_attempt_itself_is_not_taken_for_the_deadline(clock):
    guard = guard_of(clock)
    with pytest.raises(UpstreamTimeout):
        await call(guard, CallPolicy(max_retries=0), Service(guard, TimeoutError("mine")), diagnose)


async def test_being_turned_away_is_not_tried_again(clock):
    guard = guard_of(clock, max_concurrency=1, max_queue=1)
    async with guard.slot():
        waiting = asyncio.ensure_future(guard.slot().__aenter__())
        await settle()
        with pytest.raises(BulkheadFull):
            await call(guard, FOR_EVER, Service(guard), diagnose)
    await waiting
    assert guard.statistics().retries == 0


async def test_the_deadline_covers_the_queue(clock):
    guard = guard_of(clock, max_concurrency=1, queue_timeout_s=60)
    async with guard.slot():
        task = asyncio.ensure_future(call(guard, CallPolicy(total_timeout_s=5), Service(guard), diagnose))
        await clock.advance(5)
        with pytest.raises(DeadlineExceeded, match=r"'test' did not finish within 5 s \(total_timeout\)"):
            await task
    assert sum(guard.statistics().waiting.values()) == 0


async def test_a_queue_timeout_before_the_deadline_stays_one(clock):
    guard = guard_of(clock, max_concurrency=1, queue_timeout_s=5)
    async with guard.slot():
        task = asyncio.ensure_future(call(guard, CallPolicy(total_timeout_s=60), Service(guard), diagnose))
        await clock.advance(5)
        with pytest.raises(QueueTimeout):
            await task


async def test_the_deadline_covers_the_work_and_gives_the_slot_back():
    guard = guard_of(max_concurrency=1)
    cancelled = []

    async def hang(_):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(DeadlineExceeded, match="0 failed attempts"):
        await call(guard, CallPolicy(total_timeout_s=0.01), hang, diagnose)
    assert cancelled == [True]
    assert guard.statistics().in_flight == 0


@pytest.mark.usefixtures("longest_waits")
async def test_the_deadline_covers_all_attempts_together(clock):
    guard = guard_of(clock, max_concurrency=1)
    holder = guard.slot()
    service = Service(guard, answered(500))
    task = asyncio.ensure_future(call(guard, CallPolicy(total_timeout_s=3), service, diagnose))
    await settle()
    await holder.__aenter__()
    await clock.advance(3)
    with pytest.raises(DeadlineExceeded, match="1 failed attempts"):
        await task
    await holder.__aexit__(None, None, None)


@pytest.mark.usefixtures("longest_waits")
async def test_a_wait_that_would_end_after_the_deadline_is_not_begun(clock):
    guard = guard_of(clock)
    service = Service(guard, answered(500))
    with pytest.raises(UpstreamUnavailable, match="answered 500"):
        await call(guard, CallPolicy(total_timeout_s=0.4), service, diagnose)
    assert guard.statistics().retries == 0


@pytest.mark.usefixtures("longest_waits")
async def test_cancellation_during_the_wait_leaves_nothing_behind(clock):
    guard = guard_of(clock, max_concurrency=1)
    task = asyncio.ensure_future(call(guard, FOR_EVER, Service(guard, answered(500)), diagnose))
    await settle()
    task.cancel()
    await settle()
    assert task.cancelled()
    statistics = guard.statistics()
    assert (statistics.in_flight, sum(statistics.waiting.values()), statistics.admitted) == (0, 0, 1)
    assert all(timer.cancelled for _, _, timer in clock._timers)


def test_a_wait_whose_loop_has_closed_does_not_trouble_the_clock(clock):
    loop = asyncio.new_event_loop()

    async def start():
        task = asyncio.ensure_future(retry.sleep(clock, 1))
        await settle()
        task._log_destroy_pending = False
        return task

    task = loop.run_until_complete(start())
    loop.close()
    clock.step(2)
    assert not task.done()


@pytest.mark.usefixtures("longest_waits")
async def test_the_tally_counts_calls_retries_and_the_time_in_the_queue(clock):
    guard = guard_of(clock, max_concurrency=1)
    tally = Tally()
    holder = guard.slot()
    await holder.__aenter__()
    service = Service(guard, answered(500))
    task = asyncio.ensure_future(call(guard, FOR_EVER, service, diagnose, tally=tally))
    await clock.advance(3)
    await holder.__aexit__(None, None, None)
    await clock.advance(1)
    await task
    with pytest.raises(UpstreamRefused):
        await call(guard, FOR_EVER, Service(guard, answered(400)), diagnose, tally=tally)
    assert tally == Tally(calls=2, retries=1, waited_s=3.0)


@pytest.mark.usefixtures("no_waits")
def test_a_blocking_call_is_tried_again_in_the_same_way():
    guard = guard_of(max_concurrency=1)
    service = Service(guard, answered(500), answered(503))
    tally = Tally()
    assert call_blocking(guard, FOR_EVER, service.ask, diagnose, tally=tally) == "answer"
    assert (tally.calls, tally.retries, guard.statistics().admitted) == (1, 2, 3)
    # Another guard, since the breaker of this one would open.
    guard = guard_of(max_concurrency=1)
    other = guard_of(max_concurrency=1)
    with pytest.raises(UpstreamUnavailable):
        call_blocking(other, FOR_EVER, Service(other, *(answered(500) for _ in range(3))).ask, diagnose)
    assert (other.statistics().admitted, other.statistics().in_flight) == (3, 0)
    with pytest.raises(UpstreamRefused):
        call_blocking(guard, FOR_EVER, Service(guard, answered(401)).ask, diagnose)
    assert guard.statistics().in_flight == 0


def test_a_blocking_call_waits_for_the_pause_of_its_guard(clock):
    guard = guard_of(clock)
    service = Service(guard, answered(429, retry_after="5"))
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(call_blocking(guard, FOR_EVER, service.ask, diagnose)), daemon=True
    )
    thread.start()
    while not guard.statistics().waiting["normal"]:
        pass
    clock.step(4.9)
    assert len(service.asked_at) == 1
    clock.step(0.2)
    thread.join()
    assert answers == ["answer"]


def test_a_blocking_call_observes_its_deadline_in_the_queue(clock):
    guard = guard_of(clock, max_concurrency=1)
    errors = []

    def work():
        with pytest.raises(DeadlineExceeded) as caught:
            call_blocking(guard, CallPolicy(total_timeout_s=5), Service(guard).ask, diagnose)
        errors.append(caught.value)

    with guard.slot():
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while not guard.statistics().waiting["normal"]:
            pass
        clock.step(5)
        thread.join()
    assert "within 5 s (total_timeout)" in errors[0].message


@pytest.mark.usefixtures("longest_waits")
async def test_the_tokens_of_each_attempt_are_reserved(clock):
    guard = guard_of(clock, tokens_per_minute=60)
    service = Service(guard, answered(500))
    task = asyncio.ensure_future(call(guard, FOR_EVER, service, diagnose, tokens=40))
    await clock.advance(19.9)
    assert len(service.asked_at) == 1
    await clock.advance(0.2)
    assert await task == "answer"
    with pytest.raises(InvalidInput, match="tokens_per_minute"):
        await call(guard, FOR_EVER, service, diagnose, tokens=61)


async def test_an_exhausted_429_says_what_to_lower(clock):
    guard = guard_of(clock, queue_timeout_s=0)
    service = Service(guard, *(answered(429, retry_after="1") for _ in range(3)))
    task = asyncio.ensure_future(call(guard, FOR_EVER, service, diagnose))
    await clock.advance(10)
    with pytest.raises(UpstreamThrottled, match="Lower max_concurrency or requests_per_minute"):
        await task


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_retries", {"max_retries": -1}),
        ("max_retries", {"max_retries": "many"}),
        ("max_retries", {"max_retries": 1.5}),
        ("total_timeout", {"total_timeout_s": -1}),
        ("total_timeout", {"total_timeout_s": float("nan")}),
        ("total_timeout", {"total_timeout_s": None}),
    ],
)
def test_a_wrong_policy_is_refused_by_the_name_of_its_input(field, values):
    with pytest.raises(InvalidInput, match=rf"^{field} is .*Set|^{field} is .*Enter"):
        CallPolicy(**values)


async def test_failures_of_the_service_open_the_breaker_and_the_next_call_waits_for_the_probe(clock):
    guard = guard_of(clock, max_concurrency=4)
    service = Service(guard, *(answered(500) for _ in range(5)))
    once = CallPolicy(max_retries=0)
    for _ in range(5):
        with pytest.raises(UpstreamUnavailable):
            await call(guard, once, service, diagnose)
    with pytest.raises(CircuitOpen):
        await call(guard, once, service, diagnose)
    patient = asyncio.ensure_future(call(guard, CallPolicy(max_retries=1), service, diagnose))
    await clock.advance(6)
    assert await patient == "answer"
    assert guard.statistics().breaker is BreakerState.CLOSED


async def test_refusals_of_a_request_never_open_the_breaker(clock):
    guard = guard_of(clock, max_concurrency=4)
    for status in (400, 401, 403, 404, 422) * 4:
        with pytest.raises(UpstreamRefused):
            await call(guard, CallPolicy(max_retries=0), Service(guard, answered(status)), diagnose)
    assert guard.statistics().breaker is BreakerState.CLOSED


@pytest.mark.parametrize(("error", "left"), [(httpx.ConnectError("no"), 1000), (httpx.ReadTimeout("late"), 100)])
async def test_tokens_of_a_request_that_never_reached_the_service_are_given_back(error, left, clock):
    guard = guard_of(clock, max_concurrency=4, tokens_per_minute=1000, queue_timeout_s=1)
    with pytest.raises(UpstreamError):
        await call(guard, CallPolicy(max_retries=0), Service(guard, error), diagnose, tokens=900)
    async with guard.slot(tokens=left) as slot:
        assert slot.waited_s == 0
    another = asyncio.ensure_future(guard.slot(tokens=100).__aenter__())
    await clock.advance(2)
    with pytest.raises(QueueTimeout):
        await another
