"""The breaker: opens on the service's own failures, probes, and closes by itself."""

import asyncio

import pytest

from langflow_sluice.errors import CircuitOpen
from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.guard.breaker import BreakerState
from langflow_sluice.guard.waiter import Outcome
from langflow_sluice.testing import ManualClock, settle


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def guard(clock):
    return Guard("service", GuardSettings(max_concurrency=4), clock)


async def tell(guard, outcome, times=1):
    for _ in range(times):
        async with guard.slot() as slot:
            slot.report(outcome)


def state(guard):
    return guard.statistics().breaker


async def test_it_opens_when_half_of_the_answers_are_failures_of_the_service(guard):
    await tell(guard, Outcome.OK, 3)
    await tell(guard, Outcome.FAULT, 2)
    assert state(guard) is BreakerState.CLOSED
    await tell(guard, Outcome.TIMEOUT)
    assert state(guard) is BreakerState.OPEN
    with pytest.raises(CircuitOpen, match=r"'service' is open.* tried again in 5\.0 s") as caught:
        await tell(guard, Outcome.OK)
    assert caught.value.retry_in_s == 5
    assert guard.statistics().broken == 1


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.OVERLOADED])
async def test_it_never_opens_on_what_is_not_the_services_failure(guard, outcome):
    await tell(guard, outcome, 100)
    assert state(guard) is BreakerState.CLOSED


async def test_those_who_wait_are_told_when_it_opens(guard):
    slots = [guard.slot() for _ in range(4)]
    for slot in slots:
        await slot.__aenter__()
    waiting = asyncio.ensure_future(tell(guard, Outcome.OK))
    await settle()
    for _ in range(5):
        slots[0].report(Outcome.FAULT)
    with pytest.raises(CircuitOpen):
        await waiting
    for slot in slots:
        await slot.__aexit__(None, None, None)
    assert guard.statistics().in_flight == 0


async def test_one_probe_goes_first_and_its_success_lets_the_others_through(guard, clock):
    await tell(guard, Outcome.FAULT, 5)
    await clock.advance(5)
    probe = guard.slot()
    await probe.__aenter__()
    assert state(guard) is BreakerState.HALF_OPEN
    others = [asyncio.ensure_future(tell(guard, Outcome.OK)) for _ in range(3)]
    await settle()
    assert guard.statistics().in_flight == 1
    probe.report(Outcome.OK)
    await probe.__aexit__(None, None, None)
    await asyncio.gather(*others)
    assert state(guard) is BreakerState.CLOSED


async def test_a_probe_that_fails_doubles_the_wait_up_to_a_minute(guard, clock):
    await tell(guard, Outcome.FAULT, 5)
    for wait in (5, 10, 20, 40, 60, 60):
        await clock.advance(wait - 0.1)
        with pytest.raises(CircuitOpen):
            await tell(guard, Outcome.OK)
        await clock.advance(0.1)
        await tell(guard, Outcome.FAULT)
        assert state(guard) is BreakerState.OPEN


async def test_a_probe_that_is_cancelled_leaves_the_next_caller_to_probe(guard, clock):
    await tell(guard, Outcome.FAULT, 5)
    await clock.advance(5)
    probe = guard.slot()
    await probe.__aenter__()
    await probe.__aexit__(None, None, None)
    assert state(guard) is BreakerState.HALF_OPEN
    await tell(guard, Outcome.OK)
    assert state(guard) is BreakerState.CLOSED


async def test_old_failures_slide_out_of_the_window(guard):
    await tell(guard, Outcome.FAULT, 2)
    await tell(guard, Outcome.OK, 20)
    await tell(guard, Outcome.FAULT, 9)
    assert state(guard) is BreakerState.CLOSED
    await tell(guard, Outcome.FAULT)
    assert state(guard) is BreakerState.OPEN
