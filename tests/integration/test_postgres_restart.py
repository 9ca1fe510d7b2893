"""PostgreSQL stops, crashes and comes back under traffic: no wrong answer, and nobody stays behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest

from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.errors import CircuitOpen, SluiceError
from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.nodes.database_inputs import Database
from langflow_sluice.postgres.documents import DocumentRow
from langflow_sluice.postgres.engines import connection, dispose_all, engine_for, pool_of
from langflow_sluice.postgres.failures import DatabaseUnavailable
from langflow_sluice.postgres.guarding import PROBE_EVERY_S, guarded
from langflow_sluice.postgres.search import CollectionSearch
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url
from langflow_sluice.postgres.writer import CollectionWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = [DocumentRow(f"document {i}", {"i": i}, [1.0, i / 10, (i % 7) / 10]) for i in range(40)]


@pytest.fixture
def server(reachable: None) -> Iterator[EmbeddedPostgres]:  # noqa: ARG001 - for its effect
    with EmbeddedPostgres(settings={"fsync": "on", "full_page_writes": "on"}) as running:
        yield running
        dispose_all()


class Traffic:
    """Twenty readers that ask and ask again, and note every answer and every error."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.right = 0
        self.wrong: list[object] = []
        self.errors: list[SluiceError] = []
        self.stopped = False

    async def ask(self, number: int) -> None:
        row = ROWS[number % len(ROWS)]
        async with guarded(self.database):
            engine = engine_for(self.database.url, self.database.settings)
            hits = await CollectionSearch(engine, "docs").similarity(row.embedding, k=1)
        if [hit.content for hit in hits] == [row.content]:
            self.right += 1
        else:
            self.wrong.append(hits)

    async def read(self, number: int) -> None:
        while not self.stopped:
            try:
                await self.ask(number)
            except SluiceError as error:  # noqa: PERF203 - errors are what is counted
                self.errors.append(error)
                await asyncio.sleep(0.01)

    async def more(self, count: int) -> None:
        """Comes back when so many more answers were right."""
        target = self.right + count

        async def look() -> None:
            while self.right < target:  # noqa: ASYNC110 - answers are counted, not announced
                await asyncio.sleep(0.005)

        await asyncio.wait_for(look(), 30)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_under_traffic_only_what_is_in_flight_fails_and_all_goes_on(server: EmbeddedPostgres, mode: str) -> None:
    settings = PoolSettings(pool_size=3, max_overflow=2)
    url = parse_database_url(server.url)
    await CollectionWriter(engine_for(url, settings), "docs").write(ROWS)
    traffic = Traffic(Database(url, settings, Guard("database", GuardSettings(max_concurrency=10)), "normal"))
    readers = [asyncio.create_task(traffic.read(number)) for number in range(20)]
    await traffic.more(100)
    assert traffic.errors == []
    await asyncio.to_thread(server.stop, mode)
    while not traffic.errors:  # noqa: ASYNC110 - errors are counted, not announced
        await asyncio.sleep(0.005)
    await asyncio.to_thread(server.start)
    await traffic.more(20)
    # The breaker has closed with the first answer: from now on nobody fails.
    so_far = len(traffic.errors)
    await traffic.more(200)
    traffic.stopped = True
    await asyncio.gather(*readers)
    assert traffic.wrong == []
    assert len(traffic.errors) == so_far
    assert {type(error) for error in traffic.errors} <= {DatabaseUnavailable, CircuitOpen}
    assert all(error.retry_in_s <= PROBE_EVERY_S for error in traffic.errors if isinstance(error, CircuitOpen))
    pool = pool_of(engine_for(url, settings))
    assert pool.is_idle
    assert pool.checkedin() <= 5


async def test_without_traffic_a_restart_is_not_noticed_at_all(server: EmbeddedPostgres) -> None:
    engine = engine_for(parse_database_url(server.url), PoolSettings(pool_size=5, max_overflow=0))
    await CollectionWriter(engine, "docs").write(ROWS)
    search = CollectionSearch(engine, "docs")
    before = await asyncio.gather(*(search.similarity(row.embedding) for row in ROWS))
    for mode in ("fast", "immediate"):
        await asyncio.to_thread(server.restart, mode)
        assert await asyncio.gather(*(search.similarity(row.embedding) for row in ROWS)) == before


async def test_callers_that_wait_through_an_outage_are_told_and_do_not_sit_out_their_timeout(
    server: EmbeddedPostgres,
) -> None:
    engine = engine_for(parse_database_url(server.url), PoolSettings(pool_size=1, max_overflow=0, pool_timeout_s=600))

    async def use() -> None:
        async with connection(engine) as driver:
            await driver.execute("SELECT 1")

    async with connection(engine) as holder:
        waiting = [asyncio.create_task(use()) for _ in range(20)]
        while pool_of(engine).waiting < 20:  # noqa: ASYNC110 - the pool has no event for us
            await asyncio.sleep(0.005)
        await asyncio.to_thread(server.stop, "immediate")
        with pytest.raises(psycopg.OperationalError):
            await holder.execute("SELECT 1")
    errors = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 60)
    assert {type(error) for error in errors} == {DatabaseUnavailable}
    await asyncio.to_thread(server.start)
    await use()


async def test_an_ingestion_waits_for_a_server_that_comes_back(server: EmbeddedPostgres) -> None:
    from langchain_core.embeddings import DeterministicFakeEmbedding

    from langflow_sluice.postgres.ingestion import ingest

    url, settings = parse_database_url(server.url), PoolSettings(pool_size=2, max_overflow=0)
    database = Database(url, settings, Guard("database", GuardSettings()), "normal")
    starting: list[asyncio.Task[None]] = []

    def stop(_: object) -> None:
        if not starting:
            server.stop("immediate")
            starting.append(asyncio.create_task(asyncio.to_thread(server.start)))

    texts = [(f"text {number}", {}) for number in range(2500)]
    report = await ingest(
        database,
        "docs",
        DeterministicFakeEmbedding(size=8),
        texts,
        on_conflict="skip",
        batch_size=500,
        progress=stop,
    )
    await starting[0]
    assert (report.written + report.skipped, report.failed, report.warning) == (2500, (), "")
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT count(*) FROM docs").fetchone() == (2500,)
