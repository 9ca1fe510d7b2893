"""What a database sees at most: over loops and threads, over pools, and of those who write."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING

import pytest

from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.errors import InvalidInput, PoolTimeout
from langflow_sluice.postgres import engines
from langflow_sluice.postgres.engines import connection, dispose_all, engine_for, pool_of, pool_statistics, writing
from langflow_sluice.postgres.roster import Roster
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncEngine


@pytest.fixture
def url(database_url: str) -> URL:
    return parse_database_url(database_url)


@pytest.fixture(scope="module")
def three_connections() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(max_connections=6) as server:  # three are reserved for the superuser
        yield server


@pytest.fixture
def tight_server(three_connections: EmbeddedPostgres, reachable: None) -> Iterator[EmbeddedPostgres]:  # noqa: ARG001
    """A server that takes three connections and turns the fourth away: no sampling can count as strictly."""
    yield three_connections
    dispose_all()
    deadline = time.monotonic() + 20
    while three_connections.connections() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.fixture
def two_pools(database_url: str) -> Iterator[None]:  # noqa: ARG001 - its engines go first
    """A process that may have two pools."""
    before, engines._engines.roster = engines._engines.roster, Roster(2)
    yield
    dispose_all()
    engines._engines.roster = before


async def until(condition: Callable[[], bool]) -> None:
    async def look() -> None:
        while not condition():  # noqa: ASYNC110 - the server has no event for us
            await asyncio.sleep(0.005)

    await asyncio.wait_for(look(), 20)


async def use(engine: AsyncEngine, statement: str = "SELECT 1") -> None:
    async with connection(engine) as driver:
        await driver.execute(statement)


def on_threads(count: int, work: Callable[[], Awaitable[object]]) -> list[BaseException]:
    """Runs work on so many loops, each on a thread of its own; returns what went wrong."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())  # type: ignore[arg-type]
        except BaseException as exc:  # noqa: BLE001 - shown by the caller
            errors.append(exc)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


async def test_all_loops_together_stay_within_one_pool(tight_server: EmbeddedPostgres) -> None:
    settings = PoolSettings(pool_size=2, max_overflow=1)
    url = parse_database_url(tight_server.url)

    async def many() -> None:
        async def some() -> None:
            await use(engine_for(url, settings), "SELECT pg_sleep(0.001)")

        for _ in range(5):
            await asyncio.gather(*(some() for _ in range(20)))

    errors, _ = await asyncio.gather(asyncio.to_thread(on_threads, 4, many), many())
    assert errors == []
    assert pool_of(engine_for(url, settings)).is_idle
    [statistics] = pool_statistics()
    assert statistics.idle == 3


async def test_connections_that_are_closed_and_opened_anew_stay_within_the_pool(tight_server: EmbeddedPostgres) -> None:
    settings = PoolSettings(pool_size=2, max_overflow=1, pool_recycle_s=0.01)
    engine = engine_for(parse_database_url(tight_server.url), settings)

    async def leave_open() -> None:
        async with connection(engine) as driver:
            await driver.execute("BEGIN")

    for _ in range(20):
        await asyncio.gather(*(use(engine, "SELECT pg_sleep(0.005)") for _ in range(5)), leave_open())
    assert pool_of(engine).is_idle


async def test_a_waiter_on_another_loop_is_served_in_its_turn(url: URL) -> None:
    settings = PoolSettings(pool_size=1, max_overflow=0)
    engine = engine_for(url, settings)
    served: list[str] = []

    async def caller(name: str) -> None:
        async with connection(engine_for(url, settings)):
            served.append(name)

    async with connection(engine):
        first = asyncio.create_task(caller("here"))
        await until(lambda: pool_of(engine).waiting == 1)
        thread = threading.Thread(target=lambda: asyncio.run(caller("there")))
        thread.start()
        await until(lambda: pool_of(engine).waiting == 2)
        last = asyncio.create_task(caller("here again"))
        await until(lambda: pool_of(engine).waiting == 3)
    await asyncio.gather(first, last)
    thread.join()
    assert served == ["here", "there", "here again"]


async def test_a_waiter_whose_loop_closes_is_passed_over(url: URL) -> None:
    settings = PoolSettings(pool_size=1, max_overflow=0)
    engine = engine_for(url, settings)

    def wait_in_vain() -> None:
        loop = asyncio.new_event_loop()

        async def ask() -> asyncio.Task[None]:
            task = asyncio.create_task(use(engine_for(url, settings)))
            while pool_of(engine).waiting < 1:  # noqa: ASYNC110 - the pool has no event for us
                await asyncio.sleep(0)
            return task

        left.append(loop.run_until_complete(ask()))
        loop.close()

    left: list[asyncio.Task[None]] = []
    async with connection(engine):
        thread = threading.Thread(target=wait_in_vain)
        thread.start()
        await asyncio.to_thread(thread.join)
        mine = asyncio.create_task(use(engine))
        await until(lambda: pool_of(engine).waiting == 2)
    await asyncio.wait_for(mine, 10)
    assert pool_of(engine).is_idle
    left[0]._log_destroy_pending = False  # type: ignore[attr-defined] # abandoned on purpose


async def test_the_operators_limit_holds_over_all_pools(
    tight_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_MAX_DB_CONNECTIONS", "3")
    urls = [parse_database_url(each) for each in (tight_server.url, tight_server.create_database())]
    settings = [PoolSettings(pool_size=2, max_overflow=2), PoolSettings(pool_size=3)]

    async def many() -> None:
        calls = [
            use(engine_for(url, each), "SELECT pg_sleep(0.002)") for url in urls for each in settings for _ in range(5)
        ]
        await asyncio.gather(*calls)

    for _ in range(3):
        errors, _ = await asyncio.gather(asyncio.to_thread(on_threads, 2, many), many())
        assert errors == []
    assert sum(pool.idle for pool in pool_statistics()) == 3


async def test_an_idle_connection_gives_way_to_another_pool_under_the_operators_limit(
    database_url: str, url: URL, postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_MAX_DB_CONNECTIONS", "1")
    one, other = engine_for(url, PoolSettings(pool_size=2)), engine_for(url, PoolSettings(pool_size=3))
    for engine in (one, other, one, other):
        await use(engine)
    assert [pool.idle for pool in pool_statistics()] == [0, 1]
    assert postgres_server.connections(database=database_url.rsplit("/", 1)[1]) == 1


async def test_under_the_operators_limit_callers_of_one_pool_take_its_connections_over(
    url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_MAX_DB_CONNECTIONS", "2")
    engine = engine_for(url, PoolSettings(pool_size=4))
    sessions: set[int] = set()

    async def caller() -> None:
        async with connection(engine) as driver:
            sessions.add(driver.info.backend_pid)
            await driver.execute("SELECT pg_sleep(0.001)")

    await asyncio.gather(*(caller() for _ in range(40)))
    assert len(sessions) == 2


async def test_whoever_waits_for_the_operators_limit_is_told_of_it(url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_MAX_DB_CONNECTIONS", "1")
    async with connection(engine_for(url, PoolSettings(pool_size=2))):
        waiting = engine_for(url, PoolSettings(pool_size=3, pool_timeout_s=0.05))
        with pytest.raises(PoolTimeout, match=r"operator.* allows 1 ") as full:
            await use(waiting)
        assert "SLUICE_MAX_DB_CONNECTIONS" in full.value.hint
        assert pool_of(waiting).is_idle
    await use(waiting)


async def test_a_lowered_limit_counts_from_the_next_call_on(
    database_url: str, url: URL, postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_for(url, PoolSettings(pool_size=4))
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(connection(engine))
        monkeypatch.setenv("SLUICE_MAX_DB_CONNECTIONS", "2")
        assert engine_for(url, PoolSettings(pool_size=4)) is engine
    database = database_url.rsplit("/", 1)[1]
    await until(lambda: postgres_server.connections(database=database) == 2)
    with postgres_server.watch(interval_s=0.002) as watch:
        await asyncio.gather(*(use(engine, "SELECT pg_sleep(0.005)") for _ in range(20)))
    assert watch.peak("sluice", database) == 2


async def test_a_wrong_limit_of_the_operator_is_told_and_lifts_nothing(
    url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_MAX_DB_CONNECTIONS", "many")
    with pytest.raises(InvalidInput, match="SLUICE_MAX_DB_CONNECTIONS"):
        engine_for(url)


@pytest.mark.usefixtures("two_pools")
class TestWithTwoPools:
    async def test_the_pool_not_asked_for_for_longest_makes_room_and_is_the_same_afterwards(
        self, database_url: str, url: URL, postgres_server: EmbeddedPostgres
    ) -> None:
        first, second, third = (engine_for(url, PoolSettings(pool_size=size)) for size in (1, 2, 3))
        await use(first)
        await use(second)
        engine_for(url, PoolSettings(pool_size=1))
        await use(third)
        database = database_url.rsplit("/", 1)[1]
        await until(lambda: postgres_server.connections(database=database) == 2)
        assert [pool.pool_size for pool in pool_statistics()] == [1, 3]
        assert engine_for(url, PoolSettings(pool_size=2)) is second
        await use(second)
        assert [pool.pool_size for pool in pool_statistics()] == [3, 2]

    async def test_a_pool_in_use_keeps_its_seat_and_who_wants_another_one_waits(self, url: URL) -> None:
        engines = [engine_for(url, PoolSettings(pool_size=size)) for size in (1, 2, 3)]
        async with connection(engines[1]):
            async with connection(engines[0]):
                callers = [asyncio.create_task(use(engines[2])) for _ in range(3)]
                await until(lambda: pool_of(engines[2]).checkedout() == 3)
                assert pool_of(engines[2]).seated is False
            await asyncio.wait_for(asyncio.gather(*callers), 10)
            assert [pool.pool_size for pool in pool_statistics()] == [2, 3]

    async def test_whoever_waits_for_a_pool_in_vain_is_told_and_leaves_nothing_behind(self, url: URL) -> None:
        engines = [engine_for(url, PoolSettings(pool_size=size, pool_timeout_s=0.05)) for size in (1, 2, 3)]
        async with connection(engines[0]), connection(engines[1]):
            with pytest.raises(PoolTimeout, match="all 2 pools"):
                await use(engines[2])
            cancelled = asyncio.create_task(use(engines[2]))
            await until(lambda: pool_of(engines[2]).checkedout() == 1)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert pool_of(engines[2]).is_idle
        await use(engines[2])

    async def test_more_pools_than_seats_on_many_loops_all_get_their_turn(
        self, database_url: str, url: URL, postgres_server: EmbeddedPostgres
    ) -> None:
        async def many() -> None:
            sizes = [PoolSettings(pool_size=1, max_overflow=0, pool_recycle_s=1000 + number) for number in range(5)]
            for _ in range(4):
                await asyncio.gather(*(use(engine_for(url, each)) for each in sizes for _ in range(3)))

        with postgres_server.watch(interval_s=0.002) as watch:
            errors = await asyncio.to_thread(on_threads, 3, many)
        assert errors == []
        assert watch.peak("sluice", database_url.rsplit("/", 1)[1]) <= 3  # the third is on its way out


class TestTheWritersShare:
    async def test_writers_leave_most_of_the_pool_to_readers(self, url: URL) -> None:
        settings = PoolSettings(pool_size=4, max_overflow=4)
        engine = engine_for(url, settings)
        running = set()

        async def write(number: int) -> None:
            async with writing(engine), connection(engine):
                running.add(number)
                assert len(running) <= 2
                await asyncio.wait_for(stop.wait(), 20)
                running.discard(number)

        stop = asyncio.Event()
        writers = [asyncio.create_task(write(number)) for number in range(6)]
        await until(lambda: len(running) == 2)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(6):
                await stack.enter_async_context(connection(engine))
            [statistics] = pool_statistics()
            assert (statistics.checked_out, statistics.writing, statistics.waiting) == (8, 2, 0)
        stop.set()
        await asyncio.gather(*writers)
        assert pool_of(engine).writing == 0

    async def test_the_share_is_that_of_all_loops_together(self, url: URL) -> None:
        settings = PoolSettings(pool_size=8, max_overflow=0)
        highest = 0
        running: list[int] = []

        async def write(number: int) -> None:
            nonlocal highest
            engine = engine_for(url, settings)
            async with writing(engine), connection(engine) as driver:
                running.append(number)
                highest = max(highest, len(running))
                await driver.execute("SELECT pg_sleep(0.002)")
                running.remove(number)

        async def many() -> None:
            await asyncio.gather(*(write(number) for number in range(10)))

        errors, _ = await asyncio.gather(asyncio.to_thread(on_threads, 3, many), many())
        assert errors == []
        assert highest == 2

    @pytest.mark.parametrize(("capacity", "beside"), [(1, 0), (3, 0), (4, 1), (10, 1)])
    async def test_an_index_is_built_beside_the_writers_where_there_is_room(
        self, url: URL, capacity: int, beside: int
    ) -> None:
        engine = engine_for(url, PoolSettings(pool_size=capacity, max_overflow=0, pool_timeout_s=0.05))
        async with writing(engine, building=True):
            with pytest.raises(PoolTimeout, match="1 others build an index"):
                async with writing(engine, building=True):
                    pass
            written = 0
            with contextlib.suppress(PoolTimeout):
                async with writing(engine):
                    written = 1
        assert written == beside

    async def test_with_a_single_connection_writers_and_readers_take_turns(self, url: URL) -> None:
        engine = engine_for(url, PoolSettings(pool_size=1, max_overflow=0))
        order: list[str] = []

        async def read(name: str) -> None:
            async with connection(engine):
                order.append(name)

        async def write(name: str) -> None:
            async with writing(engine), connection(engine):
                order.append(name)

        async with connection(engine):
            tasks = []
            for count, each in enumerate((write("w1"), read("r1"), write("w2"), read("r2")), 1):
                tasks.append(asyncio.create_task(each))
                await until(lambda count=count: pool_of(engine).waiting == min(count, 3) - (count == 3))  # type: ignore[misc]
        await asyncio.gather(*tasks)
        assert order == ["w1", "r1", "r2", "w2"]

    async def test_a_writer_cancelled_while_waiting_or_writing_gives_its_place_back(self, url: URL) -> None:
        engine = engine_for(url, PoolSettings(pool_size=2, max_overflow=0))

        async def write() -> None:
            async with writing(engine), connection(engine) as driver:
                await driver.execute("SELECT pg_sleep(30)")

        first = asyncio.create_task(write())
        await until(lambda: pool_of(engine).checkedout() == 1)
        second = asyncio.create_task(write())
        await until(lambda: pool_of(engine).budget.writes.waiting == 1)
        for task in (second, first):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert pool_of(engine).writing == 0
        assert pool_of(engine).is_idle

    async def test_a_writers_place_on_a_loop_that_closes_comes_back(self, url: URL) -> None:
        settings = PoolSettings(pool_size=2, max_overflow=0)
        held: list[object] = []

        def run() -> None:
            loop = asyncio.new_event_loop()

            async def hold() -> None:
                held.append(writing(engine_for(url, settings)))
                await held[0].__aenter__()  # type: ignore[attr-defined]

            loop.run_until_complete(hold())
            loop.close()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

        async def write() -> None:
            async with writing(engine_for(url, settings)):
                pass

        await asyncio.wait_for(write(), 10)
        await held[0].__aexit__(None, None, None)  # type: ignore[attr-defined]
        assert pool_of(engine_for(url, settings)).writing == 0
