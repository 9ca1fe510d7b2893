from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import types
from typing import TYPE_CHECKING

import psycopg
import pytest
from lfx.utils.async_helpers import run_until_complete

from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.errors import PoolTimeout
from langflow_sluice.postgres import engines, failures
from langflow_sluice.postgres.engines import connection, dispose_all, engine_for, pool_of, pool_statistics
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

SMALL = PoolSettings(pool_size=1, max_overflow=1)


async def until(condition: Callable[[], bool]) -> None:
    async def look() -> None:
        while not condition():  # noqa: ASYNC110 - the server has no event for us
            await asyncio.sleep(0.005)

    await asyncio.wait_for(look(), 10)


async def one(engine: AsyncEngine) -> object:
    async with connection(engine) as driver:
        row = await (await driver.execute("SELECT 1")).fetchone()
    return row[0] if row else None


async def test_one_engine_serves_all_who_ask_for_the_same(database_url: str) -> None:
    first = engine_for(parse_database_url(database_url), SMALL)
    assert engine_for(parse_database_url(database_url.replace("postgresql://", "postgres://")), SMALL) is first
    assert engine_for(parse_database_url(database_url), PoolSettings()) is not first
    assert engine_for(parse_database_url(database_url + "?connect_timeout=3"), SMALL) is not first


async def test_source_that_is_executed_twice_shares_the_engine(database_url: str) -> None:
    source = (
        "from langflow_sluice.postgres.engines import engine_for\ndef make(url, s):\n    return engine_for(url, s)\n"
    )
    made = []
    for _ in range(2):
        module = types.ModuleType("node")
        exec(source, module.__dict__)  # noqa: S102 - as Langflow does with a node's source
        made.append(module.make(parse_database_url(database_url), SMALL))
    assert made[0] is made[1]


async def test_the_database_sees_no_more_connections_than_the_pool_may_have(
    database_url: str, postgres_server: EmbeddedPostgres
) -> None:
    engine = engine_for(parse_database_url(database_url), PoolSettings(pool_size=3, max_overflow=2))
    database = database_url.rsplit("/", 1)[1]

    async def slow() -> None:
        async with connection(engine) as driver:
            await driver.execute("SELECT pg_sleep(0.005)")

    with postgres_server.watch(interval_s=0.005) as watch:
        for _ in range(3):
            await asyncio.gather(*(slow() for _ in range(200)))
    assert watch.peak("sluice", database) == 5
    assert pool_of(engine).checkedout() == 0


async def test_another_loop_uses_the_connections_that_this_one_has_opened(
    database_url: str, postgres_server: EmbeddedPostgres
) -> None:
    database = database_url.rsplit("/", 1)[1]
    mine = engine_for(parse_database_url(database_url), SMALL)
    async with connection(mine) as driver:
        # Two tasks on one connection: its lock is now bound to this loop.
        await asyncio.gather(driver.execute("SELECT 1"), driver.execute("SELECT 2"))
    seen: list[tuple[object, ...]] = []

    async def elsewhere() -> None:
        engine = engine_for(parse_database_url(database_url), SMALL)
        async with connection(engine) as there:
            await asyncio.gather(there.execute("SELECT 1"), there.execute("SELECT 2"))
            seen.append((engine is mine, there is driver, postgres_server.connections(database=database)))

    for _ in range(3):
        run_until_complete(elsewhere())
        gc.collect()
    assert seen == [(True, True, 1)] * 3
    assert await one(mine) == 1
    assert len(pool_statistics()) == 1


def hold_on_a_loop_that_closes(database_url: str) -> list[object]:
    """A connection lent, and never given back, on a loop of a thread that has ended."""
    held: list[object] = []

    def run() -> None:
        loop = asyncio.new_event_loop()

        async def hold() -> None:
            engine = engine_for(parse_database_url(database_url), SMALL)
            held.append(engine)
            lent = connection(engine)
            held.append(lent)
            held.append(await lent.__aenter__())

        loop.run_until_complete(hold())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return held


async def test_connections_in_use_when_their_loop_closes_are_closed_too(
    database_url: str, postgres_server: EmbeddedPostgres
) -> None:
    database = database_url.rsplit("/", 1)[1]
    engine, lent, _ = hold_on_a_loop_that_closes(database_url)
    assert postgres_server.connections(database=database) == 1
    pool_statistics()  # like any call, it finds out
    await until(lambda: postgres_server.connections(database=database) == 0)
    with contextlib.suppress(Exception):
        await lent.__aexit__(None, None, None)  # type: ignore[attr-defined]
    assert pool_of(engine).is_idle  # type: ignore[arg-type]
    assert await one(engine) == 1  # type: ignore[arg-type]


async def test_who_has_to_wait_gets_what_closed_loops_have_left_behind(database_url: str) -> None:
    held = [hold_on_a_loop_that_closes(database_url) for _ in range(2)]
    engine = engine_for(parse_database_url(database_url), SMALL)
    assert pool_of(engine).checkedout() == 2
    assert await asyncio.wait_for(one(engine), 10) == 1
    for _, lent, _ in held:
        with contextlib.suppress(Exception):
            await lent.__aexit__(None, None, None)  # type: ignore[attr-defined]
    assert pool_of(engine).is_idle


async def test_a_full_pool_names_its_limits_and_what_to_change(database_url: str) -> None:
    settings = PoolSettings(pool_size=1, max_overflow=0, pool_timeout_s=0.05)
    engine = engine_for(parse_database_url(database_url), settings)
    async with connection(engine):
        with pytest.raises(PoolTimeout) as full:
            await one(engine)
    assert "pool_timeout (0.05 s)" in full.value.message
    assert "pool_size 1, max_overflow 0" in full.value.message
    assert "pool_size" in full.value.hint
    assert parse_database_url(database_url).password not in str(full.value)
    assert await one(engine) == 1


async def test_too_many_waiters_are_turned_away_at_once(database_url: str) -> None:
    engine = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1, max_overflow=0, max_waiting=1))
    async with connection(engine):
        waiter = asyncio.create_task(one(engine))
        await until(lambda: pool_of(engine).waiting == 1)
        assert pool_statistics()[0].waiting == 1
        with pytest.raises(PoolTimeout, match="max_waiting"):
            await one(engine)
    assert await waiter == 1


async def test_callers_are_served_in_the_order_they_came(database_url: str) -> None:
    engine = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1, max_overflow=0))
    served: list[int] = []

    async def caller(number: int) -> None:
        async with connection(engine):
            served.append(number)

    async with connection(engine):
        callers = []
        for number in range(5):
            callers.append(asyncio.create_task(caller(number)))
            await until(lambda waiting=number: pool_of(engine).waiting == waiting + 1)
    await asyncio.gather(*callers)
    assert served == [0, 1, 2, 3, 4]


async def test_a_caller_cancelled_while_it_waits_leaks_nothing(database_url: str) -> None:
    engine = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1, max_overflow=0))
    async with connection(engine):
        waiter = asyncio.create_task(one(engine))
        await until(lambda: pool_of(engine).waiting == 1)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert pool_of(engine).waiting == 0
    assert pool_of(engine).is_idle
    assert await one(engine) == 1


async def test_a_caller_cancelled_in_the_moment_it_is_served_passes_the_connection_on(database_url: str) -> None:
    engine = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1, max_overflow=0))
    async with connection(engine):
        first, second = asyncio.create_task(one(engine)), asyncio.create_task(one(engine))
        await until(lambda: pool_of(engine).waiting == 2)
    # The connection is the first one's now, and the first has not run since.
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == 1
    assert pool_of(engine).is_idle


async def test_callers_cancelled_at_any_point_leak_nothing(
    database_url: str, postgres_server: EmbeddedPostgres
) -> None:
    engine = engine_for(parse_database_url(database_url), PoolSettings(pool_size=2, max_overflow=1))

    async def caller() -> None:
        async with connection(engine) as driver:
            await driver.execute("SELECT pg_sleep(0.002)")

    for steps in range(40):
        callers = [asyncio.create_task(caller()) for _ in range(8)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in callers[::2]:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        assert pool_of(engine).is_idle
    assert await one(engine) == 1
    database = database_url.rsplit("/", 1)[1]
    await until(lambda: postgres_server.connections(database=database) == pool_of(engine).checkedin())


async def test_a_connection_with_an_open_transaction_does_not_go_back(database_url: str) -> None:
    engine = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1, max_overflow=0))
    async with connection(engine) as driver:
        await driver.execute("BEGIN")
    async with connection(engine) as other:
        assert other is not driver
        assert driver.closed


async def test_a_wrong_password_is_told_without_showing_it(database_url: str) -> None:
    url = parse_database_url(database_url).set(password="canary-s3cr3t")
    with pytest.raises(failures.AccessDenied) as denied:
        await one(engine_for(url))
    assert "canary-s3cr3t" not in str(denied.value) + repr(denied.value)
    assert denied.value.__suppress_context__
    assert f"{url.host}:{url.port}/{url.database}" in denied.value.message


async def test_a_server_that_is_not_there_is_told(reachable: None) -> None:  # noqa: ARG001
    url = parse_database_url("postgresql://u:canary@127.0.0.1:1/d")
    with pytest.raises(failures.DatabaseUnavailable, match=r"127\.0\.0\.1:1/d") as unavailable:
        await one(engine_for(url))
    assert "canary" not in str(unavailable.value)
    dispose_all()


async def test_a_connection_that_cannot_be_opened_frees_its_place_for_the_next_in_line(database_url: str) -> None:
    url = parse_database_url(database_url).set(password="wrong")
    engine = engine_for(url, PoolSettings(pool_size=1, max_overflow=0, pool_timeout_s=60))
    errors = await asyncio.wait_for(asyncio.gather(*(one(engine) for _ in range(20)), return_exceptions=True), 30)
    assert {type(error) for error in errors} == {failures.AccessDenied}
    assert pool_of(engine).is_idle


async def test_callers_that_wait_for_the_first_connection_share_its_failure(reachable: None) -> None:  # noqa: ARG001
    accepted: list[object] = []

    async def never_answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        engine = engine_for(
            parse_database_url(f"postgresql://u:p@127.0.0.1:{port}/d"), PoolSettings(connect_timeout_s=2)
        )
        errors = await asyncio.gather(*(one(engine) for _ in range(8)), return_exceptions=True)
        assert {type(error) for error in errors} == {failures.DatabaseUnavailable}
        assert len(accepted) == 1
        for writer in accepted:
            writer.close()  # type: ignore[attr-defined]
    dispose_all()


async def test_a_server_without_a_connection_to_spare_is_told(reachable: None) -> None:  # noqa: ARG001
    with EmbeddedPostgres(max_connections=5) as server, contextlib.ExitStack() as others:
        for _ in range(2):  # three are reserved for the superuser
            others.enter_context(psycopg.connect(server.url))
        with pytest.raises(failures.TooManyClients, match="max_connections"):
            await one(engine_for(parse_database_url(server.url)))


async def test_a_restart_of_the_server_fails_nobody_who_comes_after_it(reachable: None) -> None:  # noqa: ARG001
    with EmbeddedPostgres() as server:
        engine = engine_for(parse_database_url(server.url), PoolSettings(pool_size=3, max_overflow=0))
        await asyncio.gather(*(one(engine) for _ in range(10)))
        assert pool_of(engine).checkedin() == 3
        server.restart("immediate")
        assert await asyncio.gather(*(one(engine) for _ in range(10))) == [1] * 10
        dispose_all()


async def test_a_statement_that_takes_too_long_is_ended(database_url: str) -> None:
    engine = engine_for(parse_database_url(database_url), PoolSettings(statement_timeout_s=0.05))
    async with connection(engine) as driver:
        with pytest.raises(psycopg.errors.QueryCanceled):
            await driver.execute("SELECT pg_sleep(30)")


async def test_a_connection_beyond_the_pool_size_is_closed_when_it_is_not_needed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langflow_sluice.postgres.pool.OVERFLOW_IDLE_S", 0.01)
    engine = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1, max_overflow=4))
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(connection(engine))
        assert pool_of(engine).overflow() == 4
    await until(lambda: pool_of(engine).overflow() == 0)
    assert pool_of(engine).checkedin() == 1


async def test_after_dispose_all_nothing_is_open_and_the_next_call_works(
    database_url: str, postgres_server: EmbeddedPostgres
) -> None:
    url = parse_database_url(database_url)
    async with connection(engine_for(url)) as driver:
        dispose_all()
        await driver.execute("SELECT 1")
    database = database_url.rsplit("/", 1)[1]
    await until(lambda: postgres_server.connections(database=database) == 0)
    assert await one(engine_for(url)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_child_leaves_the_connections_of_its_parent_alone(database_url: str) -> None:
    engine = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1, max_overflow=0))
    async with connection(engine) as driver:
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                gc.collect()
                code = len(engines._engines.roster.pools())
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # noqa: ASYNC222 - it ends at once
        assert await (await driver.execute("SELECT 1")).fetchone() == (1,)


async def test_statistics_hold_no_credential(database_url: str) -> None:
    url = parse_database_url(database_url)
    engine = engine_for(url, SMALL)
    async with connection(engine):
        (statistics,) = pool_statistics()
    assert (statistics.pool_size, statistics.max_overflow, statistics.checked_out, statistics.waiting) == (1, 1, 1, 0)
    assert url.password not in repr(statistics)
    assert url.username not in statistics.label


async def test_sqlalchemys_own_ways_work_on_the_same_pool(database_url: str) -> None:
    from sqlalchemy import text

    engine = engine_for(parse_database_url(database_url), SMALL)
    async with engine.connect() as sql:
        assert (await sql.execute(text("SELECT 2"))).scalar() == 2
    await engine.dispose()
    assert await one(engine) == 1
    await engine.dispose()
