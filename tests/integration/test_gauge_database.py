"""What the gauge tells of a real PostgreSQL: the same as its own views, over the pools' connections, and no text."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from langflow_sluice.embedded import pgbouncer
from langflow_sluice.embedded.pgbouncer import EmbeddedPgBouncer
from langflow_sluice.gauge import database as gauge_database
from langflow_sluice.gauge.database import DatabaseFigures, look_at_database
from langflow_sluice.gauge.diagnosis import diagnose
from langflow_sluice.gauge.postgres_rows import postgres_rows
from langflow_sluice.gauge.reading import Reading
from langflow_sluice.gauge.report import written
from langflow_sluice.gauge.sessions import HIDDEN
from langflow_sluice.postgres.engines import connection, dispose_all, engine_for, pool_statistics
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from langflow_sluice.embedded.postgres import EmbeddedPostgres

DEADLINE_S = 60.0
CLIENT = "holder"
CANARY = "canary-question"
PLAIN = "UPDATE answers SET text = 'canary-question'"
COMMENTED = f"/* canary-question */ {PLAIN}"
CLIENTS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Callable[..., Awaitable[psycopg.AsyncConnection[Any]]]]:
    """Opens further connections to the database, as other applications do."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(url: str = database_url, **options: Any) -> psycopg.AsyncConnection[Any]:
            made = await psycopg.AsyncConnection.connect(url, **{"application_name": CLIENT, **options})
            stack.push_async_callback(made.close)
            return made

        yield opened


async def look(url: str, *, long_running_s: float = 3600.0) -> DatabaseFigures:
    return await look_at_database(parse_database_url(url), long_running_s=long_running_s)


async def seen(url: str, condition: Callable[[DatabaseFigures], Any], **options: float) -> DatabaseFigures:
    """Looks until the server shows what is about to happen."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition(found := await look(url, **options)):
        assert time.monotonic() < deadline, found
    return found


def told(found: DatabaseFigures) -> str:
    """Everything that users get to see of it."""
    reading = Reading((), found, tuple(found.notes()))
    return "\n".join([written(reading), repr(reading), *map(repr, postgres_rows(reading)), repr(diagnose(reading))])


async def test_connections_by_state_are_those_of_pg_stat_activity(
    database_url: str, postgres_server: EmbeddedPostgres, connect: Any
) -> None:
    idle = [await connect(autocommit=True) for _ in range(3)]
    for each in idle:
        await each.execute("SELECT 1")
    await (await connect()).execute("SELECT 1")  # begins a transaction
    working = [asyncio.ensure_future((await connect()).execute("SELECT pg_sleep(600)")) for _ in range(2)]
    try:
        admin = await connect(postgres_server.admin_url, application_name="admin", autocommit=True)
        found = await seen(database_url, lambda found: found.by_state().get("active") == 3)
        row = await (await admin.execute(CLIENTS)).fetchone()
        groups = {(group.application, group.state): group.count for group in found.groups}
        assert groups[CLIENT, "idle"] == 3
        assert groups[CLIENT, "active"] == 2
        assert groups[CLIENT, "idle in transaction"] == 1
        assert groups["sluice", "active"] == 1  # the gauge itself
        assert found.used == row[0]
        assert found.available == 97
        assert found.free == 97 - found.used
        assert sum(session.is_idle_in_transaction for session in found.notable) == 1
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


async def test_who_waits_for_a_lock_is_told_with_who_holds_it_and_no_text_leaves_the_server(
    database_url: str, connect: Any
) -> None:
    holder, *others = [await connect() for _ in range(3)]
    await holder.execute("CREATE TABLE answers (id int, text text)")
    await holder.execute("INSERT INTO answers VALUES (1, 'a')")
    await holder.commit()
    await holder.execute(COMMENTED)

    async def write(each: psycopg.AsyncConnection[Any]) -> None:
        await each.execute(PLAIN)
        await each.rollback()

    waiting = [asyncio.ensure_future(write(each)) for each in others]
    found = await seen(database_url, lambda found: len(found.blocked) == 2)
    pids = {each.info.backend_pid for each in others}
    assert {session.pid for session in found.blocked} == pids
    assert {pid for session in found.blocked for pid in session.blocked_by} <= {holder.info.backend_pid, *pids}
    assert {session.command for session in found.blocked} == {"UPDATE"}
    [idle] = found.idle_in_transaction
    assert (idle.pid, idle.command) == (holder.info.backend_pid, "")
    [worst] = diagnose(Reading((), found))
    assert "2 sessions wait for locks" in worst.observed
    assert f"process {holder.info.backend_pid}, idle in transaction" in worst.observed
    assert CANARY not in told(found)
    await holder.rollback()
    await asyncio.gather(*waiting)


@pytest.mark.parametrize(
    ("statement", "command"),
    [
        ("select pg_sleep(600), 'canary-question'", "SELECT"),
        ("-- canary-question\nSELECT pg_sleep(600)", ""),
        ("  WITH x AS (SELECT 'canary-question', pg_sleep(600)) SELECT * FROM x", "WITH"),
        ("CREATE  TABLE t AS SELECT 'canary-question' AS a, pg_sleep(600) IS NULL AS b", "CREATE TABLE"),
    ],
)
async def test_a_long_query_is_told_by_its_command_alone(
    database_url: str, connect: Any, statement: str, command: str
) -> None:
    task = asyncio.ensure_future((await connect()).execute(statement))
    try:
        found = await seen(
            database_url, lambda found: any(s.application == CLIENT for s in found.long_running), long_running_s=0.0
        )
        [long] = [session for session in found.long_running if session.application == CLIENT]
        assert long.command == command
        assert CANARY not in told(found)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_deadlock_is_counted(database_url: str, connect: Any) -> None:
    one, other = await connect(), await connect()
    await one.execute("CREATE TABLE pairs AS SELECT generate_series(1, 2) AS id, 0 AS n")
    await one.commit()
    for each, first in ((one, 1), (other, 2)):
        await each.execute("UPDATE pairs SET n = 1 WHERE id = %s", (first,))
    crossed = [
        each.execute("UPDATE pairs SET n = 1 WHERE id = %s", (second,)) for each, second in ((one, 2), (other, 1))
    ]
    results = await asyncio.gather(*crossed, return_exceptions=True)
    assert sum(isinstance(result, psycopg.errors.DeadlockDetected) for result in results) == 1
    for each in (one, other):
        await each.rollback()
    found = await seen(database_url, lambda found: found.deadlocks)
    assert found.deadlocks == 1
    assert "1 deadlock" in told(found)


async def test_a_role_without_pg_monitor_counts_others_and_says_what_it_cannot_see(
    database_url: str, postgres_server: EmbeddedPostgres, connect: Any
) -> None:
    admin = await connect(postgres_server.admin_url, application_name="admin", autocommit=True)
    await (await connect(postgres_server.admin_url)).execute("SELECT 1")  # another role's, idle in transaction
    found = await look(database_url)
    assert not found.sees_all
    assert found.by_state()[HIDDEN] == 2
    assert found.used == (await (await admin.execute(CLIENTS)).fetchone())[0]
    assert "GRANT pg_monitor TO sluice" in told(found)
    await admin.execute("GRANT pg_monitor TO sluice")
    try:
        found = await look(database_url)
        assert found.sees_all
        assert HIDDEN not in found.by_state()
        assert [session.user for session in found.idle_in_transaction] == ["postgres"]
        assert found.notes() == []
    finally:
        await admin.execute("REVOKE pg_monitor FROM sluice")


@pytest.mark.skipif(pgbouncer.program() is None, reason="the program pgbouncer is not installed")
async def test_through_pgbouncer_it_tells_of_the_server_and_that_a_pooler_is_between(
    database_url: str, postgres_server: EmbeddedPostgres, connect: Any
) -> None:
    with EmbeddedPgBouncer(postgres_server, server_connections=3) as bouncer:
        url = bouncer.through(database_url)
        clients = [await connect(url, autocommit=True, prepare_threshold=None) for _ in range(10)]
        for client in clients:
            await client.execute("SELECT 1")
        looks = await asyncio.gather(*(look(url) for _ in range(6)))
        found = looks[-1]
        assert [each.problem for each in looks] == [""] * 6
        assert found.through_pooler
        assert found.available == 97
        here = sum(group.count for group in found.groups if group.database == database_url.rsplit("/", 1)[1])
        assert 1 <= here <= 3
        assert "A pooler stands in front" in told(found)
        # What it has set for its own transaction is gone with it.
        row = await (await clients[0].execute("SHOW statement_timeout")).fetchone()
        assert row == ("0",)
        dispose_all()


async def test_it_borrows_a_connection_that_a_pool_has_to_spare_and_leaves_it_as_it_was(
    database_url: str, postgres_server: EmbeddedPostgres
) -> None:
    engine = engine_for(parse_database_url(database_url), PoolSettings(statement_timeout_s=12.0))
    async with connection(engine) as driver:
        pid = driver.info.backend_pid
    before = postgres_server.connections()
    found = await look(database_url)
    assert found.problem == ""
    assert postgres_server.connections() == before
    assert [(pool.pool_size, pool.checked_out) for pool in pool_statistics()] == [(5, 0)]
    async with connection(engine) as driver:
        assert driver.info.backend_pid == pid
        assert (await (await driver.execute("SHOW statement_timeout")).fetchone()) == ("12s",)


async def test_a_full_server_is_told_of_by_who_has_a_connection_and_who_has_none(
    database_url: str, postgres_server: EmbeddedPostgres, connect: Any
) -> None:
    name = database_url.rsplit("/", 1)[1]
    async with connection(engine_for(parse_database_url(database_url))) as driver:
        await driver.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 9".encode())
    for _ in range(8):
        await (await connect(application_name="psycopg2", autocommit=True)).execute("SELECT 1")
    found = await look(database_url)
    assert (found.database_limit, found.free) == (9, 0)
    [worst] = diagnose(Reading((), found))
    assert "leaves 0, 8 idle from application `psycopg2`" in worst.observed
    dispose_all()
    deadline = time.monotonic() + DEADLINE_S
    while postgres_server.connections("sluice"):
        assert time.monotonic() < deadline
    await connect(application_name="psycopg2")
    found = await look(database_url)
    assert "has no connection left" in found.problem
    assert "connections used" not in told(found)


async def test_a_server_that_is_away_is_a_finding_and_no_error(database_url: str) -> None:
    found = await look("postgresql://anna:canary-password@127.0.0.1:9/docs")
    assert "127.0.0.1:9/docs" in found.problem
    assert "canary" not in told(found)
    found = await look(database_url.replace("postgresql://sluice:", "postgresql://sluice:canary"))
    assert "denies access" in found.problem
    assert "canary" not in told(found)


@pytest.fixture
async def stuck(
    database_url: str, postgres_server: EmbeddedPostgres, connect: Any
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A server that does not answer the gauge, which has its connection already."""
    assert (await look(database_url)).problem == ""
    admin = await connect(postgres_server.admin_url, application_name="admin")
    watcher = await connect(postgres_server.admin_url, application_name="watcher", autocommit=True)
    await admin.execute("LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE")
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"

    async def held() -> None:
        deadline = time.monotonic() + DEADLINE_S
        while (await (await watcher.execute(waits)).fetchone())[0] == 0:
            assert time.monotonic() < deadline

    yield held
    await admin.rollback()


async def test_cancelled_while_it_looks_it_gives_its_connection_back(
    database_url: str, stuck: Callable[[], Awaitable[None]]
) -> None:
    looking = asyncio.ensure_future(look(database_url))
    await stuck()
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert [(pool.checked_out, pool.waiting) for pool in pool_statistics()] == [(0, 0)]


async def test_a_server_that_does_not_answer_in_time_is_a_finding(
    database_url: str, stuck: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauge_database, "STATEMENT_TIMEOUT_S", 0.05)
    assert stuck is not None
    found = await look(database_url)
    assert "took longer than statement_timeout" in found.problem
    assert [(pool.checked_out, pool.waiting) for pool in pool_statistics()] == [(0, 0)]


async def test_many_gauges_at_once_share_one_connection_and_one_that_leaves_holds_up_nobody(
    database_url: str, postgres_server: EmbeddedPostgres
) -> None:
    with postgres_server.watch(interval_s=0.005) as watch:
        looks = [asyncio.ensure_future(look(database_url)) for _ in range(20)]
        await asyncio.sleep(0)
        looks[7].cancel()
        results = await asyncio.gather(*looks, return_exceptions=True)
    assert sum(isinstance(result, DatabaseFigures) and not result.problem for result in results) == 19
    assert watch.peak(database=database_url.rsplit("/", 1)[1]) == 1


def test_loops_of_other_threads_look_too(database_url: str) -> None:
    found: list[DatabaseFigures] = []
    threads = [threading.Thread(target=lambda: found.append(asyncio.run(look(database_url)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.problem for each in found] == [""] * 3
