"""What each kind of search finds in our own collections, and with how many statements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from langflow_sluice.errors import InvalidInput
from langflow_sluice.postgres import failures, schema, statements
from langflow_sluice.postgres.documents import DocumentRow
from langflow_sluice.postgres.engines import engine_for
from langflow_sluice.postgres.layout import Columns
from langflow_sluice.postgres.search import CollectionSearch, SearchHit
from langflow_sluice.postgres.search_settings import SEARCH_TYPES
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url
from langflow_sluice.postgres.writer import CollectionWriter

from .searching import QUERY, ask, explained, ids, settings, vectors, write_town

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from langflow_sluice.embedded.postgres import EmbeddedPostgres


@pytest.fixture
async def engine(database_url: str) -> AsyncEngine:
    return engine_for(parse_database_url(database_url), PoolSettings(pool_size=2, max_overflow=0))


def set_for_all(server: EmbeddedPostgres, database_url: str, setting: str) -> None:
    """Sets a default of the database for connections made from now on; pgvector's need a superuser."""
    ask(server.admin_url, f"ALTER DATABASE {database_url.rsplit('/', 1)[1]} SET {setting}")


class TestFiltersUnderAnIndex:
    @pytest.mark.parametrize("pgbouncer", [False, True])
    async def test_one_percent_of_ten_thousand_rows_is_found_like_by_looking_at_all(
        self,
        database_url: str,
        postgres_server: EmbeddedPostgres,
        pgbouncer: bool,  # noqa: FBT001 - a parameter of the test
    ) -> None:
        engine = engine_for(parse_database_url(database_url), PoolSettings(pgbouncer=pgbouncer))
        rows = [DocumentRow(f"{i}", {"id": i, "part": i % 100}, v) for i, v in enumerate(vectors(10_000))]
        await CollectionWriter(engine, "docs").write(rows)
        # Leave the planner nothing but the HNSW index, which by itself gives ef_search (40) candidates.
        ask(database_url, f"DROP INDEX {schema.index_name('public', 'docs', 'metadata')}")
        set_for_all(postgres_server, database_url, "enable_seqscan = off")
        engine = engine_for(parse_database_url(database_url), PoolSettings(pgbouncer=pgbouncer, pool_size=1))
        search = CollectionSearch(engine, "docs")
        for filter_ in ({"part": 7}, {"part": {"$gt": 98}}, {"$or": [{"part": {"$lt": 1}}]}):
            found = await search.find(settings(filter_=filter_, number_of_results=10), embedding=QUERY)
            exact = await search.find(settings(filter_=filter_, number_of_results=10, exact=True), embedding=QUERY)
            assert len(found) == 10
            assert ids(found) == ids(exact)

    async def test_where_the_index_gives_up_all_rows_are_looked_at(
        self, engine: AsyncEngine, database_url: str, postgres_server: EmbeddedPostgres
    ) -> None:
        rows = [DocumentRow(f"{i}", {"id": i, "rare": i % 500 == 0}, v) for i, v in enumerate(vectors(3000))]
        await CollectionWriter(engine, "docs").write(rows)
        ask(database_url, f"DROP INDEX {schema.index_name('public', 'docs', 'metadata')}")
        for setting in ("enable_seqscan = off", "hnsw.max_scan_tuples = 1"):
            set_for_all(postgres_server, database_url, setting)
        fresh = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1))
        for search_type in ("similarity", "mmr", "hybrid"):
            asked = settings(search_type, {"rare": True}, number_of_results=6, fetch_k=6)
            hits = await CollectionSearch(fresh, "docs").find(asked, text="nothing", embedding=QUERY)
            assert sorted(ids(hits)) == [0, 500, 1000, 1500, 2000, 2500]

    @pytest.mark.parametrize(
        "filter_", [{"id": 7}, {"id": {"$in": [7, 8]}}, {"id": "7"}, {"tags": {"$contains": "x7"}}]
    )
    async def test_equality_is_answered_by_the_gin_index(
        self, engine: AsyncEngine, database_url: str, filter_: dict[str, Any]
    ) -> None:
        rows = [DocumentRow(f"{i}", {"id": i, "tags": [f"x{i}"]}, v) for i, v in enumerate(vectors(3000))]
        await CollectionWriter(engine, "docs").write(rows)
        search = CollectionSearch(engine, "docs")
        hits = await search.find(settings(filter_=filter_), embedding=QUERY)
        assert {7} <= set(ids(hits)) <= {7, 8}
        plan = explained(database_url, search, settings(filter_=filter_, exact=True))
        assert schema.index_name("public", "docs", "metadata") in plan


class TestExact:
    async def test_it_reads_no_index_for_distances(
        self, engine: AsyncEngine, database_url: str, postgres_server: EmbeddedPostgres
    ) -> None:
        rows = [DocumentRow(f"{i}", {"id": i}, v) for i, v in enumerate(vectors(3000, 8))]
        await CollectionWriter(engine, "docs").write(rows)
        query = vectors(1, 8, seed=1)[0]
        set_for_all(postgres_server, database_url, "hnsw.ef_search = 1")
        fresh = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1))
        search = CollectionSearch(fresh, "docs")
        exact = await search.find(settings(number_of_results=20, exact=True), embedding=query)

        def distance(row: DocumentRow) -> float:
            length = sum(x * x for x in row.embedding) ** 0.5
            return -sum(a * b for a, b in zip(row.embedding, query, strict=True)) / length

        assert ids(exact) == [row.metadata["id"] for row in sorted(rows, key=distance)[:20]]
        index = schema.index_name("public", "docs", "hnsw")
        assert index in explained(database_url, search, settings(), query=query)
        assert index not in explained(database_url, search, settings(exact=True), query=query)


class TestMmr:
    @pytest.mark.parametrize("dimensions", [3, 2001])
    async def test_the_second_result_is_unlike_the_first(self, engine: AsyncEngine, dimensions: int) -> None:
        rest = [0.0] * (dimensions - 3)
        stored = {"best": [1.0, 0.05, 0.0], "same": [1.0, 0.06, 0.0], "other": [0.7, 0.0, 0.7], "far": [-1.0, 0.0, 0.1]}
        rows = [DocumentRow(id_, {"id": id_}, [*vector, *rest]) for id_, vector in stored.items()]
        await CollectionWriter(engine, "docs").write(rows)
        search, query = CollectionSearch(engine, "docs"), [1.0, 0.0, 0.0, *rest]

        async def found(**more: Any) -> list[Any]:
            return ids(await search.find(settings("mmr", number_of_results=2, **more), embedding=query))

        assert await found(mmr_lambda=1.0) == ["best", "same"]
        assert await found(mmr_lambda=0.0) == ["best", "far"]
        assert await found(mmr_lambda=0.0, fetch_k=2) == ["best", "same"]
        assert await found(mmr_lambda=0.4, score_threshold=0.5) == ["best", "other"]
        assert await found(mmr_lambda=1.0, filter_={"id": {"$ne": "best"}}) == ["same", "other"]

    async def test_its_scores_are_similarities_to_the_question(self, engine: AsyncEngine) -> None:
        await write_town(engine)
        search = CollectionSearch(engine, "town")
        near = await search.find(settings(number_of_results=5), embedding=QUERY)
        diverse = await search.find(settings("mmr", number_of_results=5), embedding=QUERY)
        assert {hit.content: hit for hit in diverse} == {hit.content: hit for hit in near}

    async def test_much_work_leaves_the_loop_to_others(
        self, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("langflow_sluice.postgres.search._ON_THE_LOOP", 0)
        await write_town(engine)
        assert len(await CollectionSearch(engine, "town").find(settings("mmr"), embedding=QUERY)) == 4


class TestKeyword:
    @pytest.mark.parametrize(
        ("question", "first"),
        [
            ("How deep is the well of Oxbarrow, and is it old?", "well"),
            ("XK-4417", "pump"),
            ("who is called impeller", "cat"),
            ('"steam engine" pump', "pump"),
            ("billing", "bill"),
        ],
    )
    async def test_a_plain_question_finds_the_row_with_most_of_its_words(
        self, engine: AsyncEngine, question: str, first: str
    ) -> None:
        await write_town(engine)
        hits = await CollectionSearch(engine, "town").find(settings("keyword"), text=question)
        assert ids(hits)[0] == first
        assert all(0 < hit.score < 1 for hit in hits)
        assert hits == sorted(hits, key=lambda hit: -hit.score)

    async def test_a_minus_excludes_and_a_phrase_holds_together(self, engine: AsyncEngine) -> None:
        await write_town(engine)
        search = CollectionSearch(engine, "town")
        for question, found in (
            ("pump", {"pump", "cat"}),
            ("pump -cat", {"pump"}),
            ('pump -"pump house"', {"pump"}),
            ('"house pump"', set()),
            ("-cat", set()),
            ("the of and", set()),
            ("", set()),
        ):
            assert set(ids(await search.find(settings("keyword"), text=question))) == found

    async def test_a_threshold_and_a_filter_hold_for_words_too(self, engine: AsyncEngine) -> None:
        await write_town(engine)
        search = CollectionSearch(engine, "town")
        both = await search.find(settings("keyword"), text="pump house")
        assert ids(both) == ["cat", "pump"]
        assert ids(await search.find(settings("keyword", score_threshold=both[0].score), text="pump house")) == ["cat"]
        assert ids(await search.find(settings("keyword", {"id": "pump"}), text="pump house")) == ["pump"]

    async def test_the_language_is_chosen_when_the_collection_is_made_and_learnt_by_the_reader(
        self, engine: AsyncEngine, database_url: str
    ) -> None:
        with psycopg.connect(database_url, autocommit=True) as plain:
            plain.execute("""CREATE TEXT SEARCH CONFIGURATION public."o'dd %" (COPY = german)""")
            connection = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
            async with connection:
                for name, language in (("german", "german"), ("odd", "o'dd %"), ("plain", "simple")):
                    await schema.create(connection, "public", name, 3, b"", language)
                with pytest.raises(InvalidInput, match=r"language is 'klingon'") as missing:
                    await schema.create(connection, "public", "never", 3, b"", "klingon")
        assert "german" in missing.value.hint
        rows = [DocumentRow("Die Brunnen der Stadt", {"id": 1}, [1.0, 0.0, 0.0])]
        for name, found in (("german", 1), ("odd", 1), ("plain", 0)):
            await CollectionWriter(engine, name).write(rows)
            hits = await CollectionSearch(engine, name).find(settings("keyword"), text="Brunnens")
            assert len(hits) == found
        assert ask(database_url, "SELECT to_regclass('never')") == [(None,)]

    async def test_it_needs_neither_embeddings_nor_pgvector(
        self,
        postgres_server: EmbeddedPostgres,
        reachable: None,  # noqa: ARG002
    ) -> None:
        url = postgres_server.create_database(vector=False)
        ask(url, "CREATE TABLE notes (id int, body text)")
        ask(url, "INSERT INTO notes VALUES (1, 'a deep well'), (2, 'a high tower'), (3, NULL)")
        search = CollectionSearch(
            engine_for(parse_database_url(url)), "notes", columns=Columns("body", metadata=("id",))
        )
        assert await search.find(settings("keyword"), text="wells") == [
            SearchHit("a deep well", {"id": 1}, pytest.approx(0.03, abs=0.1))
        ]
        with pytest.raises(failures.MissingExtension):
            await search.find(settings(), embedding=QUERY)

    async def test_a_text_longer_than_any_index_takes_is_searched_by_its_start(
        self, engine: AsyncEngine, database_url: str
    ) -> None:
        ask(database_url, "CREATE TABLE books (body text)")
        words = " ".join(f"word{i}" for i in range(200_000))
        ask(database_url, "INSERT INTO books VALUES (%s)", words)
        search = CollectionSearch(engine, "books", columns=Columns("body"))
        assert len(await search.find(settings("keyword"), text="word7")) == 1

    @pytest.mark.parametrize("question", ["x" * 3000, "ab " * 100_000, "a & b | !( <-> :*", "\0 \ud800", '"' * 99])
    async def test_no_question_is_a_syntax_error(self, engine: AsyncEngine, question: str) -> None:
        await write_town(engine)
        search = CollectionSearch(engine, "town")
        for search_type in ("keyword", "hybrid"):
            await search.find(settings(search_type), text=question, embedding=QUERY)


class TestHybrid:
    async def test_scores_are_the_fused_places_of_both_lists(self, engine: AsyncEngine) -> None:
        await write_town(engine)
        search = CollectionSearch(engine, "town")
        near = ids(await search.find(settings(number_of_results=5), embedding=QUERY))
        words = ids(await search.find(settings("keyword", number_of_results=5), text="the pump house"))
        hits = await search.find(settings("hybrid", number_of_results=5), text="the pump house", embedding=QUERY)
        expected = {
            id_: sum(1 / (statements.RRF_K + found.index(id_) + 1) for found in (near, words) if id_ in found)
            for id_ in near
        }
        assert {hit.metadata["id"]: hit.score for hit in hits} == pytest.approx(expected)
        assert hits == sorted(hits, key=lambda hit: -hit.score)

    async def test_a_threshold_is_for_those_found_by_embedding(self, engine: AsyncEngine) -> None:
        await write_town(engine)
        search = CollectionSearch(engine, "town")
        asked = settings("hybrid", number_of_results=5, score_threshold=1.0)
        assert ids(await search.find(asked, text="impeller", embedding=QUERY)) == ["cat"]

    async def test_each_list_is_as_deep_as_is_asked(self, engine: AsyncEngine) -> None:
        await write_town(engine)
        search = CollectionSearch(engine, "town")
        asked = settings("hybrid", number_of_results=1, fetch_k=1)
        near = ids(await search.find(settings(number_of_results=1), embedding=QUERY))
        assert ids(await search.find(asked, text="nothing of all this", embedding=QUERY)) == near


class TestStatements:
    @pytest.mark.parametrize("search_type", SEARCH_TYPES)
    @pytest.mark.parametrize(("pgbouncer", "expected"), [(False, 1), (True, 2)])
    async def test_a_warm_search_is_one_statement(
        self,
        database_url: str,
        search_type: str,
        pgbouncer: bool,  # noqa: FBT001 - a parameter of the test
        expected: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        engine = engine_for(parse_database_url(database_url), PoolSettings(pgbouncer=pgbouncer))
        await write_town(engine)
        search = CollectionSearch(engine, "town")
        asked = settings(search_type, number_of_results=2)
        await search.find(asked, text="pump", embedding=QUERY)
        told: list[str] = []
        execute = psycopg.AsyncCursor.execute

        async def counting(self: Any, query: Any, *arguments: Any, **more: Any) -> Any:
            told.append(str(query))
            return await execute(self, query, *arguments, **more)

        monkeypatch.setattr(psycopg.AsyncCursor, "execute", counting)
        assert await search.find(asked, text="pump", embedding=QUERY)
        assert len(told) == expected  # with PgBouncer its settings come first, in the same transaction

    async def test_reading_works_where_nothing_can_be_written(
        self, engine: AsyncEngine, database_url: str, postgres_server: EmbeddedPostgres
    ) -> None:
        await write_town(engine)
        set_for_all(postgres_server, database_url, "default_transaction_read_only = on")
        fresh = engine_for(parse_database_url(database_url), PoolSettings(pool_size=1))
        for search_type in SEARCH_TYPES:
            hits = await CollectionSearch(fresh, "town").find(settings(search_type), text="pump", embedding=QUERY)
            assert hits
        with pytest.raises(failures.MissingCollection):
            await CollectionSearch(fresh, "none").find(settings(), embedding=QUERY)

    @pytest.mark.parametrize("search_type", ["similarity", "mmr", "hybrid"])
    async def test_vectors_of_another_length_are_told_before_the_search(
        self, engine: AsyncEngine, search_type: str
    ) -> None:
        await write_town(engine)
        with pytest.raises(failures.DimensionMismatch, match=r"3 dimensions.* has 2"):
            await CollectionSearch(engine, "town").find(settings(search_type), text="a", embedding=[1.0, 2.0])
        with pytest.raises(InvalidInput, match="embedding"):
            await CollectionSearch(engine, "town").find(settings(search_type), text="a")
