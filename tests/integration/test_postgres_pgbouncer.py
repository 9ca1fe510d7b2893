"""Through a real PgBouncer in transaction mode: the same results, and what it refuses is told with the fix."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

import psycopg
import pytest

from langflow_sluice.embedded import pgbouncer
from langflow_sluice.embedded.pgbouncer import EmbeddedPgBouncer
from langflow_sluice.errors import DatabaseError
from langflow_sluice.postgres import failures
from langflow_sluice.postgres.documents import DocumentRow
from langflow_sluice.postgres.engines import connection, engine_for, pool_of, pool_statistics
from langflow_sluice.postgres.search import CollectionSearch
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url
from langflow_sluice.postgres.writer import CollectionWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langflow_sluice.embedded.postgres import EmbeddedPostgres

pytestmark = pytest.mark.skipif(pgbouncer.program() is None, reason="the program pgbouncer is not installed")

ROWS = [DocumentRow(f"document {i}", {"i": i}, [1.0, i / 10, (i % 7) / 10]) for i in range(60)]


@pytest.fixture(scope="module")
def bouncer(postgres_server: EmbeddedPostgres) -> Iterator[EmbeddedPgBouncer]:
    with EmbeddedPgBouncer(postgres_server, server_connections=3) as running:
        yield running


@pytest.fixture
def pooled_url(bouncer: EmbeddedPgBouncer, database_url: str) -> str:
    return bouncer.through(database_url)


def many(settings: PoolSettings | None = None) -> PoolSettings:
    return dataclasses.replace(settings or PoolSettings(), pool_size=10, max_overflow=20)


@pytest.mark.parametrize("settings", [PoolSettings(), PoolSettings(pgbouncer=True)], ids=["found out", "told"])
async def test_thirty_callers_over_three_server_connections_read_and_write_as_directly(
    database_url: str, pooled_url: str, postgres_server: EmbeddedPostgres, settings: PoolSettings
) -> None:
    engine = engine_for(parse_database_url(pooled_url), many(settings))
    parts = [ROWS[start::6] for start in range(6)]
    with postgres_server.watch(interval_s=0.005) as watch:
        reports = await asyncio.gather(*(CollectionWriter(engine, "docs").write(part, batch_size=4) for part in parts))
        found = [
            await asyncio.gather(
                *(CollectionSearch(engine, "docs").similarity(ROWS[i].embedding, k=3) for i in range(30))
            )
            for _ in range(6)
        ]
    assert sum(report.written for report in reports) == 60
    assert not any(report.failed for report in reports)
    direct = engine_for(parse_database_url(database_url), PoolSettings())
    expected = [await CollectionSearch(direct, "docs").similarity(ROWS[i].embedding, k=3) for i in range(30)]
    assert found == [expected] * 6
    assert watch.peak(database=database_url.rsplit("/", 1)[1]) <= 3
    assert pool_of(engine).settings.pgbouncer
    assert [pool.pgbouncer for pool in pool_statistics()] == [True, False]


async def test_a_second_writing_finds_what_the_first_has_stored(pooled_url: str) -> None:
    writer = CollectionWriter(engine_for(parse_database_url(pooled_url)), "docs")
    await writer.write(ROWS)
    again = await writer.write(ROWS, on_conflict="update")
    assert (again.written, again.skipped) == (0, 60)
    with pytest.raises(failures.Conflict):
        await writer.write(ROWS[:1], on_conflict="error")


async def test_the_statement_timeout_holds_for_each_statement_of_ours(pooled_url: str, database_url: str) -> None:
    await CollectionWriter(engine_for(parse_database_url(database_url)), "docs").write(ROWS)
    engine = engine_for(parse_database_url(pooled_url), PoolSettings(statement_timeout_s=0.1))
    with psycopg.connect(database_url) as blocker:
        blocker.execute("LOCK TABLE docs IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(failures.StatementTimeout):
            await CollectionSearch(engine, "docs").similarity([1.0, 0.0, 0.0])


async def test_a_server_without_a_pooler_is_not_taken_for_one(database_url: str) -> None:
    engine = engine_for(parse_database_url(database_url))
    async with connection(engine):
        assert not pool_of(engine).settings.pgbouncer


async def test_a_pooler_that_drops_our_settings_is_found_all_the_same(
    postgres_server: EmbeddedPostgres, database_url: str
) -> None:
    with EmbeddedPgBouncer(postgres_server, settings={"ignore_startup_parameters": "options"}) as lenient:
        engine = engine_for(parse_database_url(lenient.through(database_url)), many())
        await asyncio.gather(*(CollectionWriter(engine, "docs").write(ROWS[i::5]) for i in range(5)))
        for _ in range(4):
            await asyncio.gather(
                *(CollectionSearch(engine, "docs").similarity([1.0, 0.0, 0.0], k=50) for _ in range(20))
            )
        assert pool_of(engine).settings.pgbouncer


async def test_where_the_mode_is_turned_off_the_refusal_names_it(pooled_url: str) -> None:
    engine = engine_for(parse_database_url(pooled_url), PoolSettings(detect_pgbouncer=False))
    with pytest.raises(DatabaseError, match="refuses settings at connect") as refused:
        async with connection(engine):
            pass
    assert "PgBouncer mode" in refused.value.hint


async def test_a_pooler_without_a_server_connection_to_spare_is_told(
    postgres_server: EmbeddedPostgres, database_url: str
) -> None:
    with EmbeddedPgBouncer(postgres_server, server_connections=1, settings={"query_wait_timeout": "1"}) as narrow:
        engine = engine_for(parse_database_url(narrow.through(database_url)))
        async with connection(engine) as holder, holder.transaction():
            await holder.execute("SELECT 1")
            with pytest.raises(failures.TooManyClients, match="query_wait_timeout") as waited:
                await CollectionSearch(engine, "docs").similarity([1.0])
        assert "default_pool_size" in waited.value.hint


async def test_what_pgbouncer_says_of_a_wrong_password_or_a_missing_database_is_understood(pooled_url: str) -> None:
    url = parse_database_url(pooled_url)
    for wrong in (url.set(password="canary"), url.set(username="nobody-known")):
        with pytest.raises(failures.AccessDenied) as denied:
            async with connection(engine_for(wrong)):
                pass
        assert "canary" not in str(denied.value)
    with pytest.raises(failures.MissingDatabase):
        async with connection(engine_for(url.set(database="none"))):
            pass
