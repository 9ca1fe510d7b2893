from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langflow_sluice.errors import DatabaseError, InvalidInput
from langflow_sluice.postgres import failures, schema
from langflow_sluice.postgres.documents import DocumentRow
from langflow_sluice.postgres.engines import engine_for, pool_of
from langflow_sluice.postgres.layout import layouts
from langflow_sluice.postgres.search import CollectionSearch
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url
from langflow_sluice.postgres.writer import CollectionWriter

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from langflow_sluice.embedded.postgres import EmbeddedPostgres

ODD_NAMES = [
    'a"; DROP TABLE bystander; --',
    "o'clock %s %(x)s %",
    "Üñïcødé 表 🐘",
    "select",
    "a.b",
    "$1 {0} \\ /*",
    "x" * 63,
]


@pytest.fixture
async def engine(database_url: str) -> AsyncEngine:
    return engine_for(parse_database_url(database_url), PoolSettings(pool_size=3, max_overflow=2))


def rows(count: int, dimensions: int = 3, seed: int = 0) -> list[DocumentRow]:
    numbers = random.Random(seed)  # noqa: S311 - any numbers do
    return [
        DocumentRow(f"document {i}", {"i": i, "even": i % 2 == 0}, [numbers.uniform(-1, 1) for _ in range(dimensions)])
        for i in range(count)
    ]


def ask(database_url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def nearest(stored: list[DocumentRow], query: list[float]) -> list[str]:
    def similarity(row: DocumentRow) -> float:
        dot = sum(a * b for a, b in zip(row.embedding, query, strict=True))
        return dot / (sum(a * a for a in row.embedding) ** 0.5 * sum(a * a for a in query) ** 0.5)

    return [row.content for row in sorted(stored, key=similarity, reverse=True)]


class TestWriting:
    async def test_writing_the_same_twice_stores_it_once(self, engine: AsyncEngine, database_url: str) -> None:
        writer = CollectionWriter(engine, "docs")
        first = await writer.write(rows(25), batch_size=10)
        again = await writer.write(rows(30), batch_size=10)
        assert (first.written, first.skipped, first.failed) == (25, 0, ())
        assert (again.written, again.skipped, again.failed) == (5, 25, ())
        assert ask(database_url, "SELECT count(*) FROM docs") == [(30,)]
        assert first.seconds > 0

    async def test_the_table_has_typed_columns_and_its_indexes(self, engine: AsyncEngine, database_url: str) -> None:
        await CollectionWriter(engine, "docs").write(rows(5, 7))
        columns = ask(
            database_url,
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = 'docs'::regclass AND attnum > 0",
        )
        assert dict(columns) == {
            "content_hash": "bytea",
            "content": "text",
            "metadata": "jsonb",
            "embedding": "vector(7)",
            "content_tsv": "tsvector",
        }
        indexes = ask(
            database_url,
            "SELECT am.amname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " JOIN pg_am am ON am.oid = c.relam WHERE i.indrelid = 'docs'::regclass",
        )
        assert sorted(indexes) == [("btree", True), ("gin", True), ("gin", True), ("hnsw", True)]

    async def test_more_dimensions_than_a_vector_can_index_are_kept_as_halfvec(
        self, engine: AsyncEngine, database_url: str
    ) -> None:
        stored = rows(5, 2001)
        await CollectionWriter(engine, "big").write(stored)
        kind = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'big'::regclass"
        assert ("halfvec(2001)",) in ask(database_url, kind)
        (hit,) = await CollectionSearch(engine, "big").similarity(stored[3].embedding, k=1)
        assert hit.content == "document 3"

    async def test_update_replaces_an_embedding_only_where_it_differs(self, engine: AsyncEngine) -> None:
        writer = CollectionWriter(engine, "docs")
        stored = rows(3)
        await writer.write(stored)
        turned = DocumentRow(stored[1].content, stored[1].metadata, [-x for x in stored[1].embedding])
        skipped = await writer.write([turned])
        assert (skipped.written, skipped.skipped) == (0, 1)
        (before,) = await CollectionSearch(engine, "docs").similarity(stored[1].embedding, k=1)
        assert before.content == "document 1"
        updated = await writer.write([stored[0], turned, stored[2]], on_conflict="update")
        assert (updated.written, updated.skipped) == (1, 2)
        (after,) = await CollectionSearch(engine, "docs").similarity(turned.embedding, k=1)
        assert after.content == "document 1"

    @pytest.mark.parametrize("batch_size", [2, 100])
    async def test_error_stores_nothing_if_one_row_exists(
        self, engine: AsyncEngine, database_url: str, batch_size: int
    ) -> None:
        writer = CollectionWriter(engine, "docs")
        stored = rows(10)
        await writer.write([stored[7]])
        with pytest.raises(failures.Conflict, match="number 7") as conflict:
            await writer.write(stored, on_conflict="error", batch_size=batch_size)
        assert "on_conflict" in conflict.value.hint
        with pytest.raises(failures.Conflict, match="number 2"):
            await writer.write([stored[0], stored[1], stored[0]], on_conflict="error", batch_size=batch_size)
        assert ask(database_url, "SELECT count(*) FROM docs") == [(1,)]
        assert (await writer.write(stored[:7], on_conflict="error", batch_size=batch_size)).written == 7

    async def test_rows_that_stand_twice_are_stored_once(self, engine: AsyncEngine) -> None:
        report = await CollectionWriter(engine, "docs").write(rows(4) + rows(4))
        assert (report.written, report.skipped) == (4, 4)

    async def test_bad_rows_are_reported_and_the_others_stored(self, engine: AsyncEngine) -> None:
        bad = [
            DocumentRow("odd length", {}, [1.0, 2.0]),
            DocumentRow("nul \0", {}, [1.0, 2.0, 3.0]),
            DocumentRow("no json", {"x": {1, 2}}, [1.0, 2.0, 3.0]),
            DocumentRow("no number", {}, [1.0, float("nan"), 3.0]),
        ]
        report = await CollectionWriter(engine, "docs").write(bad[:2] + rows(5) + bad[2:])
        assert report.written == 5
        assert [failure.index for failure in report.failed] == [0, 1, 7, 8]
        assert len({failure.reason for failure in report.failed}) == 4

    async def test_a_row_that_only_the_database_refuses_fails_by_itself(
        self, engine: AsyncEngine, database_url: str
    ) -> None:
        writer = CollectionWriter(engine, "docs")
        await writer.write(rows(1))
        ask(database_url, "ALTER TABLE docs ADD CONSTRAINT no_five CHECK (metadata->>'i' NOT IN ('5', '11'))")
        report = await writer.write(rows(20), on_conflict="update")
        assert (report.written, report.skipped) == (17, 1)
        assert [failure.index for failure in report.failed] == [5, 11]
        assert all("no_five" in failure.reason and "document" not in failure.reason for failure in report.failed)
        strict = await writer.write(rows(24)[20:] + rows(6)[5:], on_conflict="error")
        assert (strict.written, [failure.index for failure in strict.failed]) == (4, [4])

    async def test_first_writes_at_the_same_time_do_not_collide(
        self,
        postgres_server: EmbeddedPostgres,
        reachable: None,  # noqa: ARG002
    ) -> None:
        database = postgres_server.create_database(vector=False)
        with psycopg.connect(postgres_server.admin_url.rsplit("/", 1)[0] + "/" + database.rsplit("/", 1)[1]) as admin:
            admin.execute("ALTER ROLE sluice SUPERUSER")
        try:
            settings = PoolSettings(pool_size=8, max_overflow=0)
            engine = engine_for(parse_database_url(database), settings)
            parts = [rows(8)[i:] for i in range(8)]
            reports = await asyncio.gather(*(CollectionWriter(engine, "docs").write(part) for part in parts))
        finally:
            with psycopg.connect(postgres_server.admin_url) as admin:
                admin.execute("ALTER ROLE sluice NOSUPERUSER")
        assert sum(report.written for report in reports) == 8
        assert not any(report.failed for report in reports)

    async def test_progress_is_told_after_each_batch(self, engine: AsyncEngine) -> None:
        told: list[tuple[int, int]] = []
        await CollectionWriter(engine, "docs").write(
            rows(25), batch_size=10, progress=lambda done, total: told.append((done, total))
        )
        assert told == [(10, 25), (20, 25), (25, 25)]

    async def test_an_interrupted_write_keeps_its_batches_and_can_be_done_again(
        self, engine: AsyncEngine, database_url: str
    ) -> None:
        writer = CollectionWriter(engine, "docs")

        def stop(done: int, total: int) -> None:  # noqa: ARG001 - the signature of progress
            if done == 20:
                raise KeyError(done)

        with pytest.raises(KeyError):
            await writer.write(rows(50), batch_size=10, progress=stop)
        assert ask(database_url, "SELECT count(*) FROM docs") == [(20,)]
        assert (await writer.write(rows(50))).written == 30
        assert pool_of(engine).is_idle

    async def test_an_index_that_was_left_half_built_is_built_anew(
        self, engine: AsyncEngine, database_url: str, postgres_server: EmbeddedPostgres
    ) -> None:
        writer = CollectionWriter(engine, "docs")
        await writer.write(rows(5))
        name = schema.index_name("public", "docs", "hnsw")
        admin_url = postgres_server.admin_url.rsplit("/", 1)[0] + "/" + database_url.rsplit("/", 1)[1]
        ask(admin_url, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", name)
        await writer.write(rows(6))
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = %s::regclass"
        assert ask(database_url, valid, name) == [(True,)]

    async def test_the_index_may_wait_for_the_last_call(self, engine: AsyncEngine, database_url: str) -> None:
        writer = CollectionWriter(engine, "docs")
        name = schema.index_name("public", "docs", "hnsw")
        await writer.write(rows(5), build_index=False)
        assert ask(database_url, "SELECT to_regclass(%s)", name) == [(None,)]
        await writer.write(rows(6))
        assert ask(database_url, "SELECT to_regclass(%s)::text", name) == [(name,)]

    async def test_no_rows_create_nothing(self, engine: AsyncEngine, database_url: str) -> None:
        assert (await CollectionWriter(engine, "docs").write([])).written == 0
        bad = await CollectionWriter(engine, "docs").write([DocumentRow("a", {}, [])])
        assert len(bad.failed) == 1
        assert ask(database_url, "SELECT to_regclass('docs')") == [(None,)]

    async def test_vectors_that_none_of_which_fits_are_an_error(self, engine: AsyncEngine) -> None:
        writer = CollectionWriter(engine, "docs")
        await writer.write(rows(3, 3))
        with pytest.raises(failures.DimensionMismatch, match=r"holds vectors of 3 dimensions.* has 4"):
            await writer.write(rows(3, 4))

    async def test_a_table_that_is_something_else_is_left_alone(self, engine: AsyncEngine, database_url: str) -> None:
        ask(database_url, "CREATE TABLE docs (id int)")
        with pytest.raises(DatabaseError, match="lacks content"):
            await CollectionWriter(engine, "docs").write(rows(3))
        assert ask(database_url, "SELECT count(*) FROM docs") == [(0,)]

    @pytest.mark.parametrize("arguments", [{"on_conflict": "replace"}, {"batch_size": 0}, {"batch_size": "5"}])
    async def test_wrong_arguments_are_told(self, engine: AsyncEngine, arguments: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput, match=next(iter(arguments))):
            await CollectionWriter(engine, "docs").write(rows(1), **arguments)


class TestSearching:
    async def test_the_nearest_come_first_with_their_cosine_similarity(self, engine: AsyncEngine) -> None:
        stored = rows(40)
        await CollectionWriter(engine, "docs").write(stored)
        query = [0.3, -0.5, 0.9]
        hits = await CollectionSearch(engine, "docs").similarity(query, k=7)
        assert [hit.content for hit in hits] == nearest(stored, query)[:7]
        assert hits == sorted(hits, key=lambda hit: -hit.score)
        (same,) = await CollectionSearch(engine, "docs").similarity(stored[4].embedding, k=1)
        assert same.score == pytest.approx(1.0)
        assert same.metadata == {"i": 4, "even": True}

    async def test_a_threshold_leaves_out_what_is_less_similar(self, engine: AsyncEngine) -> None:
        await CollectionWriter(engine, "docs").write(rows(40))
        search = CollectionSearch(engine, "docs")
        everything = await search.similarity([1.0, 0.0, 0.0], k=40)
        some = await search.similarity([1.0, 0.0, 0.0], k=40, score_threshold=0.5)
        assert some == [hit for hit in everything if hit.score >= 0.5]
        assert 0 < len(some) < 40

    async def test_a_filter_returns_all_that_match_though_the_index_stops_before(
        self, engine: AsyncEngine, database_url: str
    ) -> None:
        stored = [DocumentRow(r.content, {"rare": i % 200 == 0, "i": i}, r.embedding) for i, r in enumerate(rows(3000))]
        await CollectionWriter(engine, "docs").write(stored)
        # Leave the planner nothing but the HNSW index, which by itself gives ef_search (40) candidates.
        ask(database_url, f"DROP INDEX {schema.index_name('public', 'docs', 'metadata')}")
        ask(database_url, f"ALTER DATABASE {database_url.rsplit('/', 1)[1]} SET enable_seqscan = off")
        query = [0.3, -0.5, 0.9]
        hits = await CollectionSearch(engine, "docs").similarity(query, k=15, filter={"rare": True})
        assert [hit.content for hit in hits] == nearest([row for row in stored if row.metadata["rare"]], query)
        assert len(await CollectionSearch(engine, "docs").similarity(query, k=100)) == 100

    @pytest.mark.parametrize(
        ("filter_", "found"),
        [({"i": 3}, 1), ({"even": True}, 5), ({"even": True, "i": 3}, 0), ({"none": None}, 0), ({}, 10), (None, 10)],
    )
    async def test_a_filter_is_equality_of_all_its_values(
        self, engine: AsyncEngine, filter_: dict[str, Any] | None, found: int
    ) -> None:
        await CollectionWriter(engine, "docs").write(rows(10))
        hits = await CollectionSearch(engine, "docs").similarity([1.0, 0.0, 0.0], k=50, filter=filter_)
        assert len(hits) == found

    @pytest.mark.parametrize("name", ODD_NAMES)
    async def test_a_collections_name_is_only_ever_a_name(
        self, engine: AsyncEngine, database_url: str, name: str
    ) -> None:
        ask(database_url, "CREATE TABLE bystander ()")
        with pytest.raises(failures.MissingCollection):
            await CollectionSearch(engine, name).similarity([1.0, 2.0, 3.0])
        for mode in ("skip", "update"):
            await CollectionWriter(engine, name).write(rows(3), on_conflict=mode)
        with pytest.raises(failures.Conflict):
            await CollectionWriter(engine, name).write(rows(3), on_conflict="error")
        hits = await CollectionSearch(engine, name).similarity([1.0, 2.0, 3.0], filter={"i": 1})
        assert [hit.content for hit in hits] == ["document 1"]
        tables = ask(
            database_url, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        )
        assert sorted(tables) == sorted([("bystander",), (name,)])

    async def test_values_of_a_filter_are_only_ever_values(self, engine: AsyncEngine) -> None:
        odd = "'; DROP TABLE docs; --%s\"\\"
        await CollectionWriter(engine, "docs").write([DocumentRow(odd, {odd: odd}, [1.0, 2.0, 3.0]), *rows(3)])
        (hit,) = await CollectionSearch(engine, "docs").similarity([1.0, 2.0, 3.0], filter={odd: odd})
        assert (hit.content, hit.metadata) == (odd, {odd: odd})

    async def test_a_missing_collection_is_told_and_not_created(self, engine: AsyncEngine, database_url: str) -> None:
        with pytest.raises(failures.MissingCollection, match="nothing") as missing:
            await CollectionSearch(engine, "nothing").similarity([1.0])
        assert "collection_name" in missing.value.hint
        tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        assert ask(database_url, tables) == [(0,)]

    async def test_a_missing_extension_is_told_and_not_created(
        self,
        postgres_server: EmbeddedPostgres,
        reachable: None,  # noqa: ARG002
    ) -> None:
        url = postgres_server.create_database(vector=False)
        engine = engine_for(parse_database_url(url))
        with pytest.raises(failures.MissingExtension, match="pgvector") as missing:
            await CollectionSearch(engine, "docs").similarity([1.0])
        assert "CREATE EXTENSION vector" in missing.value.hint
        with pytest.raises(failures.AccessDenied):
            await CollectionWriter(engine, "docs").write(rows(1))

    async def test_a_vector_of_another_length_is_told_before_the_search(self, engine: AsyncEngine) -> None:
        await CollectionWriter(engine, "docs").write(rows(3))
        with pytest.raises(failures.DimensionMismatch, match=r"3 dimensions.* has 2") as mismatch:
            await CollectionSearch(engine, "docs").similarity([1.0, 2.0])
        assert "embedding model" in mismatch.value.hint

    async def test_a_collection_written_anew_by_somebody_else_is_looked_at_again(
        self, engine: AsyncEngine, database_url: str
    ) -> None:
        search = CollectionSearch(engine, "docs")
        await CollectionWriter(engine, "docs").write(rows(3))
        assert await search.similarity([1.0, 2.0, 3.0])
        ask(database_url, "DROP TABLE docs")
        with pytest.raises(failures.MissingCollection):
            await search.similarity([1.0, 2.0, 3.0])
        await CollectionWriter(engine, "docs").write(rows(3, 4))
        assert await search.similarity([1.0, 2.0, 3.0, 4.0])
        # Behind our back, with other dimensions, while we remember four.
        ask(database_url, "DROP TABLE docs")
        variant = (True, None, "")
        known = layouts.get(search._key, variant)
        await CollectionWriter(engine, "docs").write(rows(3, 3))
        assert known is not None
        layouts.put(search._key, known, variant)
        with pytest.raises(failures.DimensionMismatch):
            await search.similarity([1.0, 2.0, 3.0, 4.0])
        assert await search.similarity([1.0, 2.0, 3.0])

    async def test_a_session_that_the_server_ended_is_replaced_unnoticed(
        self, engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await CollectionWriter(engine, "docs").write(rows(3))
        search = CollectionSearch(engine, "docs")
        # The look at the socket would find out by itself; here it is the search that does.
        monkeypatch.setattr("langflow_sluice.postgres.sessions.is_alive", lambda driver: True)  # noqa: ARG005
        kill = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'sluice'"
        ask(database_url, kill + " AND datname = current_database()")
        assert await search.similarity([1.0, 2.0, 3.0])

    async def test_a_cancelled_search_is_cancelled_on_the_server_and_leaks_nothing(
        self, engine: AsyncEngine, database_url: str, postgres_server: EmbeddedPostgres
    ) -> None:
        await CollectionWriter(engine, "docs").write(rows(3))
        search = CollectionSearch(engine, "docs")
        await search.similarity([1.0, 2.0, 3.0])
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE docs IN ACCESS EXCLUSIVE MODE")
            task = asyncio.create_task(search.similarity([1.0, 2.0, 3.0]))
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while ask(postgres_server.admin_url, waiting) == [(0,)]:  # noqa: ASYNC110 - the server has no event for us
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ask(postgres_server.admin_url, waiting) == [(0,)]
        assert pool_of(engine).is_idle
        assert await search.similarity([1.0, 2.0, 3.0])

    async def test_a_search_that_takes_too_long_is_an_error_of_its_kind(self, database_url: str) -> None:
        engine = engine_for(parse_database_url(database_url), PoolSettings(statement_timeout_s=0.1))
        await CollectionWriter(engine_for(parse_database_url(database_url)), "docs").write(rows(3))
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE docs IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(failures.StatementTimeout, match="statement_timeout"):
                await CollectionSearch(engine, "docs").similarity([1.0, 2.0, 3.0])

    async def test_two_hundred_searches_at_once_stay_within_the_pool(
        self, engine: AsyncEngine, database_url: str, postgres_server: EmbeddedPostgres
    ) -> None:
        stored = rows(50)
        await CollectionWriter(engine, "docs").write(stored)
        database = database_url.rsplit("/", 1)[1]
        with postgres_server.watch(interval_s=0.005) as watch:
            found = await asyncio.gather(
                *(CollectionSearch(engine, "docs").similarity(stored[i % 50].embedding, k=1) for i in range(200))
            )
        assert [hits[0].content for hits in found] == [f"document {i % 50}" for i in range(200)]
        assert watch.peak("sluice", database) <= 5

    async def test_pgbouncer_mode_gives_the_same_without_prepared_statements(
        self, engine: AsyncEngine, database_url: str
    ) -> None:
        pooled = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1, max_overflow=0, pgbouncer=True))
        report = await CollectionWriter(pooled, "docs").write(rows(100))
        assert report.written == 100
        for _ in range(10):
            there = await CollectionSearch(pooled, "docs").similarity([1.0, 2.0, 3.0], k=60)
        assert there == await CollectionSearch(engine, "docs").similarity([1.0, 2.0, 3.0], k=60)
        from langflow_sluice.postgres.engines import connection

        async with connection(pooled) as driver:
            prepared = await driver.execute("SELECT count(*) FROM pg_prepared_statements")
            assert await prepared.fetchone() == (0,)

    @pytest.mark.parametrize("k", [0, -1, 2.0, True, "4", 10_001, None])
    async def test_a_wrong_number_of_results_is_told(self, engine: AsyncEngine, k: Any) -> None:
        with pytest.raises(InvalidInput, match="number_of_results"):
            await CollectionSearch(engine, "docs").similarity([1.0], k=k)

    @pytest.mark.parametrize("threshold", [2, -1.5, float("nan"), "0.5", True])
    async def test_a_wrong_threshold_is_told(self, engine: AsyncEngine, threshold: Any) -> None:
        with pytest.raises(InvalidInput, match="score_threshold"):
            await CollectionSearch(engine, "docs").similarity([1.0], score_threshold=threshold)

    @pytest.mark.parametrize("embedding", [[], [0.0], [float("nan")], "vector", None, ["a"], [1e39]])
    async def test_a_wrong_vector_is_told(self, engine: AsyncEngine, embedding: Any) -> None:
        await CollectionWriter(engine, "docs").write([DocumentRow("a", {}, [1.0])])
        with pytest.raises(InvalidInput, match="embedding"):
            await CollectionSearch(engine, "docs").similarity(embedding)


class Directions(Embeddings):
    """An embedding model for which a text is the direction it spells."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [float(number) for number in text.split()]


@pytest.mark.filterwarnings("ignore")  # LangChain deprecates its own class while it is used
class TestStockCollections:
    @pytest.fixture
    def stock(self, database_url: str) -> str:
        from langchain_community.vectorstores import PGVector

        texts = ["1 0 0", "0 1 0", "0 0 1", "1 1 0"]
        documents = [Document(page_content=text, metadata={"i": i}) for i, text in enumerate(texts)]
        for name, chosen in (("stock", documents), ("other", documents[:1])):
            PGVector.from_documents(
                chosen, Directions(), collection_name=name, connection_string=database_url
            )._bind.dispose()
        return database_url

    async def test_a_collection_of_stock_pgvector_is_read_as_it_is(self, stock: str) -> None:
        engine = engine_for(parse_database_url(stock))
        hits = await CollectionSearch(engine, "stock").similarity([1.0, 0.1, 0.0], k=2)
        assert [(hit.content, hit.metadata) for hit in hits] == [("1 0 0", {"i": 0}), ("1 1 0", {"i": 3})]
        assert hits[0].score == pytest.approx(0.995, abs=0.001)
        (filtered,) = await CollectionSearch(engine, "stock").similarity([1.0, 0.0, 0.0], k=4, filter={"i": 2})
        assert filtered.content == "0 0 1"
        assert len(await CollectionSearch(engine, "other").similarity([1.0, 0.0, 0.0])) == 1

    async def test_what_is_wrong_with_it_is_told_before_the_search(self, stock: str) -> None:
        engine = engine_for(parse_database_url(stock))
        with pytest.raises(failures.DimensionMismatch):
            await CollectionSearch(engine, "stock").similarity([1.0, 0.0])
        with pytest.raises(failures.MissingCollection):
            await CollectionSearch(engine, "neither").similarity([1.0, 0.0, 0.0])

    async def test_our_writer_does_not_hide_it(self, stock: str) -> None:
        engine = engine_for(parse_database_url(stock))
        with pytest.raises(DatabaseError, match="only reads"):
            await CollectionWriter(engine, "stock").write(rows(3))
        assert len(await CollectionSearch(engine, "stock").similarity([1.0, 0.0, 0.0])) == 4

    async def test_our_own_table_beside_it_is_another_collection(self, stock: str) -> None:
        engine = engine_for(parse_database_url(stock))
        await CollectionWriter(engine, "ours").write(rows(2))
        assert len(await CollectionSearch(engine, "ours").similarity([1.0, 0.0, 0.0])) == 2
