"""The adaptive limit against a provider whose capacity changes, on a clock that stands still."""

import asyncio
import math

import pytest

from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.guard.adaptive import AdaptiveLimit
from langflow_sluice.guard.retry import sleep
from langflow_sluice.guard.waiter import Outcome
from langflow_sluice.testing import ManualClock

SERVICE_S = 0.2
PHASES = ((8, 60.0), (3, 60.0), (16, 60.0))


class Provider:
    """A provider with so many slots of 0.2 s; beyond them it refuses at once."""

    def __init__(self, clock):
        self.clock = clock
        self.slots = 0
        self.busy = 0
        self.served = 0
        self.refused = 0

    async def call(self):
        if self.busy >= self.slots:
            self.refused += 1
            return False
        self.busy += 1
        await sleep(self.clock, SERVICE_S)
        self.busy -= 1
        self.served += 1
        return True


@pytest.mark.parametrize("retry_after_s", [1.0, 0.0])
async def test_it_follows_the_providers_capacity_and_loses_no_call(retry_after_s):
    clock = ManualClock()
    provider = Provider(clock)
    guard = Guard("provider", GuardSettings(max_concurrency=64, queue_timeout_s=0, adaptive=True), clock)
    stopped = False
    kept = wanted = 0

    async def client():
        nonlocal kept, wanted
        while not stopped:
            wanted += 1
            done = False
            while not done:
                async with guard.slot() as slot:
                    done = await provider.call()
                    if done:
                        slot.report(Outcome.OK)
                    else:
                        slot.report(Outcome.OVERLOADED, pause_s=retry_after_s)
                if not done and not retry_after_s:
                    await sleep(clock, 0.1)
            kept += 1

    clients = [asyncio.ensure_future(client()) for _ in range(64)]
    for slots, seconds in PHASES:
        provider.slots = slots
        served, refused = provider.served, provider.refused
        await clock.advance(seconds)
        served, refused = provider.served - served, provider.refused - refused
        assert served >= 0.8 * slots * seconds / SERVICE_S
        assert refused <= 0.1 * (served + refused)
    stopped = True
    await clock.advance(60)
    await asyncio.gather(*clients)
    assert kept == wanted == provider.served


def test_a_burst_of_refusals_is_one_step_down():
    limit = AdaptiveLimit(64)
    assert limit.limit == 10
    epoch = limit.epoch
    assert limit.overloaded(0.0, epoch)
    assert [limit.overloaded(0.0, epoch) for _ in range(9)] == [False] * 9
    assert limit.limit == 8


async def test_a_burst_of_refusals_is_one_pause():
    clock = ManualClock()
    guard = Guard("provider", GuardSettings(max_concurrency=10, adaptive=True), clock)
    slots = [guard.slot() for _ in range(5)]
    for slot in slots:
        await slot.__aenter__()
    for seconds, slot in zip((2.0, 2.0, 5.0, 2.0, 2.0), slots, strict=True):
        slot.report(Outcome.OVERLOADED, pause_s=seconds)
        await slot.__aexit__(None, None, None)
        clock.step(0.5)
    assert guard.statistics().pause_left_s == 0


def test_it_never_leaves_the_range_from_one_to_the_ceiling():
    limit = AdaptiveLimit(12)
    for _ in range(100):
        limit.overloaded(0.0, limit.epoch)
    assert limit.limit == 1
    for second in range(1000):
        limit.succeeded(float(second), limit.limit, limit.epoch)
    assert limit.limit == 12
    limit.change_ceiling(5)
    assert limit.limit == 5


def test_it_does_not_grow_while_it_is_hardly_used():
    limit = AdaptiveLimit(64)
    for second in range(1000):
        limit.succeeded(float(second), 2, limit.epoch)
    assert limit.limit == 10


def test_a_limit_that_has_just_failed_is_tried_again_only_now_and_then():
    limit = AdaptiveLimit(64)
    now, failures = 0.0, []
    while now < 100:
        # Each second one round at a provider with ten slots.
        if limit.limit > 10:
            failures.append(now)
            limit.overloaded(now, limit.epoch)
        for _ in range(limit.limit):
            limit.succeeded(now, limit.limit, limit.epoch)
        now += 1
    gaps = [later - earlier for earlier, later in zip(failures, failures[1:], strict=False)]
    assert min(gaps) >= 10
    assert len(failures) <= math.ceil(100 / 10) + 1
    assert limit.limit in {10, 11}
