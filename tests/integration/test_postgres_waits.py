"""How long callers waited for a connection of a pool, and how many got none, as the metrics tell it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest

from langflow_sluice.errors import PoolTimeout
from langflow_sluice.metrics.figures import figures
from langflow_sluice.postgres.engines import connection, engine_for, pool_of, pool_statistics
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url
from langflow_sluice.postgres.waits import Waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

DEADLINE_S = 20.0


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def use(engine: AsyncEngine) -> None:
    async with connection(engine) as driver:
        await driver.execute("SELECT 1")


async def test_a_wait_is_from_asking_until_it_is_ones_turn(database_url: str) -> None:
    engine = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1, max_overflow=0))
    async with connection(engine):
        waiting = asyncio.ensure_future(use(engine))
        await until(lambda: pool_of(engine).waiting == 1)
        asked_by = time.monotonic()
        [statistics] = pool_statistics()
        # The one at hand had to open its connection, which is no wait in the pool.
        assert (sum(statistics.wait_counts), statistics.turned_away) == (1, 0)
        at_once_s = statistics.wait_sum_s
        await asyncio.sleep(0)
        served_after = time.monotonic()
    await waiting
    [statistics] = pool_statistics()
    assert sum(statistics.wait_counts) == 2
    assert statistics.wait_sum_s - at_once_s >= served_after - asked_by
    [told] = figures().pools
    assert (told.wait.count, told.wait.sum_s) == (2, statistics.wait_sum_s)


async def test_who_gives_up_or_finds_it_full_is_turned_away(database_url: str) -> None:
    settings = PoolSettings(pool_size=1, max_overflow=0, max_waiting=1, pool_timeout_s=0.05)
    engine = engine_for(parse_database_url(database_url), settings)
    async with connection(engine):
        waiting = asyncio.ensure_future(use(engine))
        await until(lambda: pool_of(engine).waiting == 1)
        with pytest.raises(PoolTimeout, match="max_waiting"):
            await use(engine)
        with pytest.raises(PoolTimeout, match="pool_timeout"):
            await waiting
    [statistics] = pool_statistics()
    assert (sum(statistics.wait_counts), statistics.turned_away) == (1, 2)


async def test_a_caller_who_is_cancelled_while_it_waits_counts_neither_way(database_url: str) -> None:
    engine = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1, max_overflow=0))
    async with connection(engine):
        waiting = asyncio.ensure_future(use(engine))
        await until(lambda: pool_of(engine).waiting == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    [statistics] = pool_statistics()
    assert (sum(statistics.wait_counts), statistics.turned_away) == (1, 0)


def test_notes_of_many_threads_are_all_counted() -> None:
    waits = Waits()

    def many() -> None:
        for _ in range(5000):
            waits.served(0.25)
            waits.sent_away()

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(waits.times.counts) == waits.turned_away == 40_000
    assert waits.times.sum_s == 10_000


def test_a_note_in_the_middle_of_a_note_is_counted_and_waits_for_nobody() -> None:
    waits = Waits()
    # As a finaliser does that the garbage collector runs in there.
    with waits._lock:
        waits.served(1.0)
        assert sum(waits.times.counts) == 0
    waits.served(1.0)
    assert sum(waits.times.counts) == 2
