"""Ingestion: what is stored is not embedded again, one bad text fails alone, and every error gives an account."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from langchain_core.embeddings import Embeddings

from langflow_sluice.errors import (
    CircuitOpen,
    InvalidInput,
    SluiceError,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
)
from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.guard.breaker import BreakerState
from langflow_sluice.nodes.database_inputs import Database
from langflow_sluice.postgres import failures, ingestion, schema
from langflow_sluice.postgres.documents import DocumentRow, RowFailure
from langflow_sluice.postgres.engines import engine_for, pool_of, writing
from langflow_sluice.postgres.guarding import guarded, outcome_of
from langflow_sluice.postgres.ingestion import IngestProgress, IngestReport, in_ranges, ingest
from langflow_sluice.postgres.search import CollectionSearch
from langflow_sluice.postgres.search_settings import SearchSettings
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url
from langflow_sluice.postgres.writer import CollectionWriter
from langflow_sluice.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langflow_sluice.postgres.pool import BoundedPool


class Lengths(Embeddings):
    """Embeds a text by its length, counts the texts, and fails where a test says so."""

    def __init__(self, fails: Callable[[list[str]], Exception | None] = lambda _: None) -> None:
        self.fails = fails
        self.embedded: list[str] = []
        self.calls = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        error = self.fails(texts)
        if error is not None:
            raise error
        self.embedded += texts
        return [[1.0, float(len(text)), 0.5] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.fixture
def database(database_url: str) -> Database:
    guard = Guard("database", GuardSettings(max_concurrency=10))
    settings = PoolSettings(pool_size=4, max_overflow=0)
    return Database(parse_database_url(database_url), settings, guard, "normal")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "PART", 10)


def texts(count: int) -> list[tuple[str, dict[str, Any]]]:
    return [(f"text {number}", {"i": number}) for number in range(count)]


async def run(
    database: Database,
    given: Sequence[tuple[str, dict[str, Any]]],
    embedding: Embeddings | None = None,
    progress: Callable[[IngestProgress], None] = lambda _: None,
    **options: Any,
) -> IngestReport:
    options = {"on_conflict": "skip", "batch_size": 4, **options}
    return await ingest(database, "docs", embedding or Lengths(), given, progress=progress, **options)


def count(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT count(*) FROM docs").fetchone()
    return int(row[0]) if row else 0


def refuse(word: str, status: int = 400) -> Callable[[list[str]], Exception | None]:
    def fails(given: list[str]) -> Exception | None:
        return UpstreamRefused("refused", status=status) if any(word in text for text in given) else None

    return fails


class TestResuming:
    async def test_what_is_stored_is_not_embedded_again(self, database: Database, database_url: str) -> None:
        first, again, more = Lengths(), Lengths(), Lengths()
        assert (await run(database, texts(25), first)).written == 25
        report = await run(database, texts(25), again)
        assert (report.written, report.skipped, again.calls) == (0, 25, 0)
        report = await run(database, texts(28), more)
        assert (report.written, report.skipped) == (3, 25)
        assert more.embedded == ["text 25", "text 26", "text 27"]
        assert count(database_url) == 28

    async def test_a_text_that_stands_twice_is_embedded_once(self, database: Database) -> None:
        embedding = Lengths()
        report = await run(database, texts(8) + texts(8), embedding)
        assert (report.written, report.skipped, len(embedding.embedded)) == (8, 8, 8)

    async def test_update_embeds_anew_and_replaces_what_differs(self, database: Database) -> None:
        await run(database, texts(12))

        class Other(Lengths):
            def embed_documents(self, given: list[str]) -> list[list[float]]:
                return [[2.0, 1.0, vector[1]] for vector in super().embed_documents(given)]

        embedding = Other()
        report = await run(database, texts(12), embedding, on_conflict="update")
        assert (report.written, report.skipped, len(embedding.embedded)) == (12, 0, 12)

    async def test_error_is_told_before_anything_is_embedded_or_written(
        self, database: Database, database_url: str
    ) -> None:
        await run(database, texts(25)[21:22])
        embedding = Lengths()
        with pytest.raises(failures.Conflict, match=r"number 21 .*Nothing was written"):
            await run(database, texts(25), embedding, on_conflict="error")
        with pytest.raises(failures.Conflict, match="number 20"):
            await run(database, texts(20) + texts(1), embedding, on_conflict="error")
        assert (embedding.calls, count(database_url)) == (0, 1)
        assert (await run(database, texts(20), on_conflict="error")).written == 20

    async def test_texts_that_cannot_be_stored_are_not_embedded(self, database: Database) -> None:
        embedding = Lengths()
        report = await run(database, [*texts(3), ("nul \0", {}), ("odd", {"x": {1}})], embedding)
        assert [failure.index for failure in report.failed] == [3, 4]
        assert len(embedding.embedded) == 3


class TestFailing:
    async def test_a_text_that_the_provider_refuses_fails_alone(self, database: Database, database_url: str) -> None:
        embedding = Lengths(refuse("17"))
        report = await run(database, texts(30), embedding)
        assert (report.written, [failure.index for failure in report.failed]) == (29, [17])
        assert "refused" in report.failed[0].reason
        assert "text 17" not in report.failed[0].reason
        assert sorted(embedding.embedded) == sorted(text for text, _ in texts(30) if "17" not in text)
        assert embedding.calls < 12
        assert count(database_url) == 29

    async def test_a_real_providers_refusal_of_one_text_is_understood(self, database: Database) -> None:
        from langflow_sluice.guard.retry import CallPolicy
        from langflow_sluice.http_clients import client_cache
        from langflow_sluice.models.openai_compatible import Upstream, embeddings
        from langflow_sluice.simulator import ProviderSettings, serve_in_thread

        with serve_in_thread(ProviderSettings(dimensions=8)) as provider:
            guard = Guard("provider", GuardSettings())
            upstream, policy = Upstream(provider.base_url, "key"), CallPolicy(max_retries=0)
            embedding = embeddings(upstream, guard, policy, model_name="sim-embedding", batch_size=4)
            report = await run(database, [*texts(5), ("", {"i": 5})], embedding)
            assert (report.written, [failure.index for failure in report.failed]) == (5, [5])
            assert "400" in report.failed[0].reason
            await asyncio.to_thread(provider.configure, fault="status:401")
            with pytest.raises(UpstreamRefused, match="401"):
                await run(database, texts(30)[10:], embedding)
            client_cache().close()

    async def test_a_provider_that_refuses_every_text_ends_it_after_a_few_calls(self, database: Database) -> None:
        embedding = Lengths(refuse("text"))
        with pytest.raises(UpstreamRefused):
            await run(database, texts(1000), embedding)
        assert embedding.calls < 12

    @pytest.mark.parametrize(
        "error", [UpstreamRefused("bad key", status=401), CircuitOpen("open"), UpstreamError("odd answer")]
    )
    async def test_what_is_not_about_the_texts_ends_it_with_an_account(
        self, database: Database, database_url: str, error: SluiceError
    ) -> None:
        embedding = Lengths(lambda given: error if "text 20" in given else None)
        with pytest.raises(type(error), match=r"Before that, 20 of 50 texts were written") as told:
            await run(database, texts(50), embedding)
        assert "Give the same texts again" in told.value.hint
        assert "Before that" not in error.message
        assert count(database_url) == 20
        resumed = Lengths()
        assert (await run(database, texts(50), resumed)).written == 30
        assert len(resumed.embedded) == 30

    async def test_a_part_that_the_provider_fails_for_once_is_reported_and_the_others_written(
        self, database: Database
    ) -> None:
        embedding = Lengths(lambda given: UpstreamUnavailable("down") if "text 10" in given else None)
        report = await run(database, texts(30), embedding)
        assert report.written == 20
        assert in_ranges(report.failed) == ["rows 10-19: It was not embedded: down"]

    async def test_a_provider_that_stays_away_ends_it(self, database: Database) -> None:
        embedding = Lengths(lambda given: None if "text 9" in given else UpstreamUnavailable("down"))
        with pytest.raises(UpstreamUnavailable, match="10 of 100 texts were written"):
            await run(database, texts(100), embedding)
        assert embedding.calls == 3

    async def test_vectors_that_are_too_few_are_an_error(self, database: Database) -> None:
        class Short(Lengths):
            def embed_documents(self, given: list[str]) -> list[list[float]]:
                return super().embed_documents(given)[1:]

        with pytest.raises(UpstreamError, match="2 vectors for 3 texts"):
            await run(database, texts(3), Short())

    async def test_a_table_dropped_in_between_is_told_with_the_account(
        self, database: Database, database_url: str
    ) -> None:
        def drop(progress: IngestProgress) -> None:
            if progress.done == 20:
                with psycopg.connect(database_url, autocommit=True) as connection:
                    connection.execute("DROP TABLE docs")

        with pytest.raises(failures.MissingCollection, match="20 of 50"):
            await run(database, texts(50), progress=drop)

    async def test_cancelled_it_keeps_what_is_done_and_leaks_nothing(
        self, database: Database, database_url: str
    ) -> None:
        halfway = asyncio.Event()
        task = asyncio.create_task(run(database, texts(200), progress=lambda _: halfway.set()))
        await asyncio.wait_for(halfway.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        pool = pool_of(engine_for(database.url, database.settings))
        assert pool.is_idle
        assert pool.writing == 0
        assert database.guard.statistics().in_flight == 0
        stored = count(database_url)
        assert 0 < stored < 200
        assert (await run(database, texts(200))).written == 200 - stored

    @pytest.mark.parametrize("options", [{"on_conflict": "replace"}, {"batch_size": 0}])
    async def test_wrong_arguments_are_told_before_any_text_is_embedded(
        self, database: Database, options: dict[str, Any]
    ) -> None:
        embedding = Lengths()
        with pytest.raises(InvalidInput, match=next(iter(options))):
            await run(database, texts(1), embedding, **options)
        assert embedding.calls == 0

    @pytest.mark.parametrize("on_conflict", ["skip", "update", "error"])
    async def test_a_language_that_the_database_has_not_is_told_before_any_text_is_embedded(
        self, database: Database, on_conflict: str
    ) -> None:
        embedding = Lengths()
        with pytest.raises(InvalidInput, match="language is 'klingon'"):
            await run(database, texts(1), embedding, language="klingon", on_conflict=on_conflict)
        assert embedding.calls == 0


class TestTheLanguage:
    async def test_a_new_collection_has_the_words_of_its_language(self, database: Database) -> None:
        await run(database, [("Die Brunnen sind tief.", {})], language="german")
        engine = engine_for(database.url, database.settings)
        search = CollectionSearch(engine, "docs")
        assert len(await search.find(SearchSettings(search_type="keyword"), text="Brunnens")) == 1

    async def test_a_collection_that_is_there_keeps_its_own(self, database: Database) -> None:
        await run(database, [("The wells are deep.", {})])
        await run(database, [("A well is dry.", {})], language="german")
        search = CollectionSearch(engine_for(database.url, database.settings), "docs")
        assert len(await search.find(SearchSettings(search_type="keyword"), text="well")) == 2


class TestTelling:
    async def test_progress_tells_counts_and_rate_after_each_part(self, database: Database) -> None:
        await run(database, texts(5))
        told: list[IngestProgress] = []
        await run(database, [*texts(24), ("\0", {})], progress=told.append)
        assert [(each.done, each.written, each.skipped, each.failed) for each in told] == [
            (10, 5, 5, 0),
            (20, 15, 5, 0),
            (25, 19, 5, 1),
        ]
        line = str(IngestProgress(500, 2000, 480, 15, 5, 10.0))
        assert line == "500 of 2000 texts: 480 written, 15 there already, 5 failed, 50 texts/s, about 30 s left"

    def test_neighbours_that_failed_alike_are_told_as_one(self) -> None:
        failed = [RowFailure(index, "long") for index in (1, 2, 3, 5)] + [RowFailure(6, "odd"), RowFailure(9, "odd")]
        assert in_ranges(failed) == ["rows 1-3: long", "row 5: long", "row 6: odd", "row 9: odd"]
        assert in_ranges([]) == []


class TestTheIndex:
    async def test_it_is_there_at_the_end_and_built_by_one_process(self, database: Database, database_url: str) -> None:
        assert (await run(database, texts(15))).warning == ""
        assert valid_index(database_url)

    async def test_a_build_that_fails_costs_no_rows_and_is_a_warning(
        self, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: Any, **__: Any) -> None:
            raise psycopg.errors.DiskFull

        monkeypatch.setattr(schema, "ensure_hnsw", fail)
        report = await run(database, texts(15))
        assert report.written == 15
        assert "could not be built" in report.warning
        monkeypatch.undo()
        assert (await run(database, texts(15))).warning == ""
        assert valid_index(database_url)

    async def test_a_pool_of_one_connection_makes_it_first_and_never_builds_for_long(
        self, database: Database, database_url: str
    ) -> None:
        lone = Database(database.url, PoolSettings(pool_size=1, max_overflow=0), database.guard, "normal")
        report = await run(lone, texts(15))
        assert (report.written, report.warning) == (15, "")
        assert valid_index(database_url)
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"DROP INDEX {schema.index_name('public', 'docs', 'hnsw')}".encode())
        assert "pool_size" in (await run(lone, texts(16))).warning
        assert not valid_index(database_url)


def valid_index(database_url: str) -> bool:
    with psycopg.connect(database_url) as connection:
        name = schema.index_name("public", "docs", "hnsw")
        row = connection.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (name,)
        ).fetchone()
    return bool(row and row[0])


async def all_wait(pool: BoundedPool) -> None:
    while pool.budget.writes.waiting < 4:  # noqa: ASYNC110 - the pool has no event for us
        await asyncio.sleep(0.005)


class TestSharing:
    async def test_writers_that_wait_hold_no_slot_of_the_guard(self, database: Database) -> None:
        database.guard.change(GuardSettings(max_concurrency=2))
        engine = engine_for(database.url, database.settings)
        async with writing(engine):
            waiting = [asyncio.create_task(run(database, texts(5)[i : i + 1])) for i in range(4)]
            await asyncio.wait_for(all_wait(pool_of(engine)), 20)
            assert database.guard.statistics().in_flight == 0
        assert sum(report.written for report in await asyncio.gather(*waiting)) == 4

    async def test_writing_gives_the_connection_back_between_batches(self, database_url: str) -> None:
        engine = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1, max_overflow=0))
        free: list[bool] = []
        rows = [DocumentRow(text, metadata, [1.0, 2.0]) for text, metadata in texts(20)]
        await CollectionWriter(engine, "docs").write(
            rows, batch_size=5, progress=lambda *_: free.append(pool_of(engine).is_idle)
        )
        assert free == [True] * 4


class TestWhatTheGuardLearns:
    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (failures.DatabaseUnavailable("x"), "FAULT"),
            (failures.TooManyClients("x"), "OVERLOADED"),
            (failures.StatementTimeout("x"), "OVERLOADED"),
            (failures.AccessDenied("x"), "OK"),
            (failures.MissingDatabase("x"), "OK"),
            (failures.PoolTimeout("x"), None),
            (InvalidInput("x"), None),
            (ValueError("x"), None),
        ],
    )
    def test_only_a_server_that_is_away_speaks_against_it(self, error: Exception, told: str | None) -> None:
        outcome = outcome_of(error)
        assert (outcome.name if outcome else None) == told

    async def test_a_server_that_is_away_opens_the_breaker_and_one_that_is_back_closes_it(
        self, database_url: str
    ) -> None:
        clock = ManualClock()
        guard = Guard("database", GuardSettings(), clock)
        database = Database(parse_database_url(database_url), PoolSettings(), guard, "normal")

        async def use(error: Exception | None) -> None:
            async with guarded(database):
                if error is not None:
                    raise error

        for _ in range(5):
            with pytest.raises(failures.DatabaseUnavailable):
                await use(failures.DatabaseUnavailable("away"))
        with pytest.raises(CircuitOpen) as shut:
            await use(None)
        assert shut.value.retry_in_s <= 1.0
        clock.step(1.0)
        with pytest.raises(failures.DatabaseUnavailable):
            await use(failures.DatabaseUnavailable("away"))
        clock.step(1.0)
        await use(None)
        assert guard.statistics().breaker is BreakerState.CLOSED
        for _ in range(30):
            with pytest.raises(failures.MissingCollection):
                await use(failures.MissingCollection("gone"))
        assert guard.statistics().breaker is BreakerState.CLOSED


async def test_a_crash_in_the_middle_loses_no_row_and_is_not_noticed(reachable: None) -> None:  # noqa: ARG001
    from langflow_sluice.embedded.postgres import EmbeddedPostgres
    from langflow_sluice.postgres.engines import dispose_all

    def crash(progress: IngestProgress) -> None:
        if progress.done in {20, 40}:
            server.restart("immediate")

    with EmbeddedPostgres(settings={"fsync": "on", "full_page_writes": "on"}) as server:
        guard = Guard("database", GuardSettings())
        database = Database(parse_database_url(server.url), PoolSettings(), guard, "normal")
        report = await run(database, texts(60), progress=crash)
        assert (report.written, report.failed, report.warning) == (60, (), "")
        assert count(server.url) == 60
        dispose_all()
