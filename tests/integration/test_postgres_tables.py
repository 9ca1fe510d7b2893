"""Searching what others have made: tables and views of any shape, and collections of stock PGVector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from langflow_sluice.errors import DatabaseError, InvalidInput
from langflow_sluice.postgres import failures
from langflow_sluice.postgres.engines import engine_for
from langflow_sluice.postgres.layout import Columns
from langflow_sluice.postgres.search import CollectionSearch
from langflow_sluice.postgres.search_settings import SEARCH_TYPES
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url

from .searching import QUERY, TOWN, ask, explained, ids, settings, vectors

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


@pytest.fixture
async def engine(database_url: str) -> AsyncEngine:
    return engine_for(parse_database_url(database_url), PoolSettings(pool_size=2, max_overflow=0))


TABLE = Columns("Body %", "vec", ("facts", "lang", "year", "at", "key", "more"))


class TestAnyTable:
    @pytest.fixture
    def table(self, database_url: str) -> str:
        ask(database_url, "CREATE SCHEMA other")
        ask(
            database_url,
            'CREATE TABLE other.notes ("Body %" varchar(200), vec vector, facts json, lang text, year int,'
            " at timestamptz, key uuid, more jsonb)",
        )
        for number, (id_, text) in enumerate(TOWN.items()):
            ask(
                database_url,
                "INSERT INTO other.notes VALUES (%s, %s::vector, %s, %s, %s, %s, %s, %s)",
                text,
                str(vectors(5)[number]),
                f'{{"id": "{id_}", "year": "hidden", "shared": "facts"}}',
                "de" if number % 2 else "en",
                2000 + number,
                f"2024-01-0{number + 1}T12:00:00Z",
                f"00000000-0000-0000-0000-00000000000{number}",
                '{"shared": "more", "n": 1.5}' if number else "[1, 2]",
            )
        ask(database_url, "INSERT INTO other.notes VALUES ('no vector', NULL, '{\"id\": \"none\"}')")
        ask(database_url, "CREATE VIEW other.seen AS SELECT * FROM other.notes")
        ask(database_url, "CREATE MATERIALIZED VIEW other.kept AS SELECT * FROM other.notes")
        return database_url

    @pytest.mark.parametrize("name", ["notes", "seen", "kept"])
    @pytest.mark.parametrize("search_type", SEARCH_TYPES)
    async def test_every_search_reads_tables_and_views(
        self, engine: AsyncEngine, table: str, name: str, search_type: str
    ) -> None:
        assert table
        search = CollectionSearch(engine, name, schema="other", columns=TABLE)
        asked = settings(search_type, number_of_results=10)
        hits = await search.find(asked, text="metres pump bills", embedding=QUERY)
        assert sorted(ids(hits)) == sorted(TOWN)
        [well] = [hit for hit in hits if hit.metadata["id"] == "well"]
        assert well.content == TOWN["well"]
        assert well.metadata == {
            "id": "well",
            "shared": "facts",
            "year": 2000,
            "lang": "en",
            "at": well.metadata["at"],
            "key": "00000000-0000-0000-0000-000000000000",
        }
        assert well.metadata["at"].startswith("2024-01-01T")
        [tower] = [hit for hit in hits if hit.metadata["id"] == "tower"]
        assert (tower.metadata["shared"], tower.metadata["n"]) == ("more", 1.5)

    @pytest.mark.parametrize(
        ("filter_", "found"),
        [
            ({"lang": "en"}, {"well", "pump", "bill"}),
            ({"lang": {"$gt": "de"}}, {"well", "pump", "bill"}),
            ({"lang": 5}, set()),
            ({"year": "2001"}, {"tower"}),
            ({"year": {"$eq": "2001"}}, set()),
            ({"year": {"$gte": 2003}}, {"cat", "bill"}),
            ({"year": {"$gte": 2003.5}}, {"bill"}),
            ({"year": {"$gt": "2003"}}, set()),
            ({"year": {"$like": "%3"}}, {"cat"}),
            ({"year": {"$between": [2001, 2002]}}, {"tower", "pump"}),
            ({"at": {"$gte": "2024-01-04"}}, {"cat", "bill"}),
            ({"at": {"$lt": "2024-01-01T13:00:00+01:00"}}, set()),
            ({"at": {"$lte": "2024-01-01T13:00:00+01:00"}}, {"well"}),
            ({"key": "00000000-0000-0000-0000-000000000003"}, {"cat"}),
            ({"key": {"$in": ["nonsense"]}}, set()),
            ({"id": {"$in": ["cat", "bill"]}}, {"cat", "bill"}),
            ({"shared": "facts"}, {"well"}),
            ({"shared": "more", "n": {"$lt": 2}}, set(TOWN) - {"well"}),
            ({"n": {"$exists": False}}, {"well"}),
            ({"lang": None}, set()),
            ({"$not": {"lang": "en"}}, {"tower", "cat"}),
            ({"$or": [{"id": "cat"}, {"year": 2000}]}, {"cat", "well"}),
        ],
    )
    async def test_filters_reach_columns_and_fields_alike(
        self, engine: AsyncEngine, table: str, filter_: dict[str, Any], found: set[str]
    ) -> None:
        assert table
        search = CollectionSearch(engine, "notes", schema="other", columns=TABLE)
        assert set(ids(await search.find(settings(filter_=filter_, number_of_results=10), embedding=QUERY))) == found

    async def test_a_field_of_no_column_is_told(self, engine: AsyncEngine, table: str) -> None:
        assert table
        columns = Columns("Body %", "vec", ("lang",))
        with pytest.raises(InvalidInput, match=r"'id'.*metadata columns: lang"):
            await CollectionSearch(engine, "notes", schema="other", columns=columns).find(
                settings(filter_={"id": 1}), embedding=QUERY
            )

    @pytest.mark.parametrize(
        ("columns", "told"),
        [
            (Columns("body", "vec"), r"content_column is 'body': 'notes' in .* has no such column"),
            (Columns("Body %", "Vec"), "embedding_column is 'Vec'.* has no such column"),
            (Columns("Body %", "vec", ("lang", "none")), "metadata_columns is 'none'.* has no such column"),
            (Columns("year", "vec"), "content_column is 'year'.* type int4"),
            (Columns("vec", "vec"), "content_column is 'vec'.* type vector"),
            (Columns("Body %", "lang"), "embedding_column is 'lang'.* type text"),
        ],
    )
    async def test_a_missing_column_or_one_of_a_wrong_type_is_told_before_the_search(
        self, engine: AsyncEngine, table: str, columns: Columns, told: str
    ) -> None:
        assert table
        with pytest.raises(InvalidInput, match=told) as refused:
            await CollectionSearch(engine, "notes", schema="other", columns=columns).find(settings(), embedding=QUERY)
        assert refused.value.hint

    async def test_what_else_is_wrong_is_told_too(self, engine: AsyncEngine, table: str) -> None:
        assert table
        with pytest.raises(DatabaseError, match=r"lacks content.*content_column"):
            await CollectionSearch(engine, "notes", schema="other").find(settings(), embedding=QUERY)
        with pytest.raises(failures.MissingCollection):
            await CollectionSearch(engine, "notes", columns=TABLE).find(settings(), embedding=QUERY)
        with pytest.raises(failures.DimensionMismatch, match=r"3 dimensions.* has 1"):
            await CollectionSearch(engine, "notes", schema="other", columns=TABLE).find(settings(), embedding=[1.0])
        with pytest.raises(InvalidInput, match=r"language is 'klingon'.* no such language"):
            await CollectionSearch(engine, "notes", schema="other", columns=TABLE, language="klingon").find(
                settings("keyword"), text="a"
            )

    async def test_rows_of_a_view_are_told_apart_by_what_is_in_them(
        self, engine: AsyncEngine, database_url: str
    ) -> None:
        ask(
            database_url,
            "CREATE VIEW twice AS SELECT 'a well' AS content, '[1,0]'::vector AS embedding FROM generate_series(1,2)",
        )
        search = CollectionSearch(engine, "twice", columns=Columns())
        assert len(await search.find(settings("hybrid"), text="wells", embedding=[1.0, 0.0])) == 1
        assert len(await search.find(settings(), embedding=[1.0, 0.0])) == 2

    async def test_names_of_columns_that_statements_use_themselves_do_no_harm(
        self, engine: AsyncEngine, database_url: str
    ) -> None:
        ask(
            database_url,
            "CREATE TABLE words (content text, embedding vector(2), distance text, score text, wanted text, m0 text,"
            " r text)",
        )
        ask(
            database_url,
            "INSERT INTO words VALUES ('a well', '[1,0]', 'd', 's', 'w', 'm', 'r'), ('b', '[0,1]', '', '', '', '', '')",
        )
        columns = Columns(metadata=("distance", "score", "wanted", "m0", "r"))
        for search_type in SEARCH_TYPES:
            hits = await CollectionSearch(engine, "words", columns=columns).find(
                settings(search_type, {"r": "r"}), text="wells", embedding=[1.0, 0.0]
            )
            assert [hit.metadata for hit in hits] == [
                {"distance": "d", "score": "s", "wanted": "w", "m0": "m", "r": "r"}
            ]

    @pytest.mark.parametrize("column", ["body", "Body", "bo'dy"])
    async def test_words_that_are_indexed_are_read_from_the_index(
        self, engine: AsyncEngine, database_url: str, column: str
    ) -> None:
        ask(database_url, f'CREATE TABLE indexed (id serial, "{column}" text)')
        texts = "SELECT 'Brunnen ' || i FROM generate_series(1, 3000) i"
        ask(database_url, f'INSERT INTO indexed ("{column}") {texts}')
        ask(database_url, f"""CREATE INDEX by_words ON indexed USING gin (to_tsvector('german', "{column}"))""")
        ask(database_url, "ANALYZE indexed")
        search = CollectionSearch(engine, "indexed", columns=Columns(column, metadata=("id",)))
        hits = await search.find(settings("keyword"), text="Brunnens 77")
        assert ids(hits)[0] == 77
        assert "by_words" in explained(database_url, search, settings("keyword"), "Brunnens 77")

    async def test_a_column_of_words_is_used_in_the_language_that_it_was_made_in(
        self, engine: AsyncEngine, database_url: str
    ) -> None:
        ask(
            database_url,
            "CREATE TABLE made (body text, tsv tsvector GENERATED ALWAYS AS (to_tsvector('german', body)) STORED)",
        )
        ask(database_url, "CREATE TABLE kept (body text, words tsvector)")
        ask(database_url, "INSERT INTO made VALUES ('die Brunnen der Stadt')")
        ask(database_url, "INSERT INTO kept VALUES ('die Brunnen', to_tsvector('german', 'die Brunnen'))")
        for name, language, found in (("made", "", 1), ("made", "english", 1), ("kept", "", 0), ("kept", "german", 1)):
            search = CollectionSearch(engine, name, columns=Columns("body"), language=language)
            assert len(await search.find(settings("keyword"), text="Brunnens")) == found


@pytest.mark.filterwarnings("ignore")  # LangChain deprecates its own class while it is used
class TestStockCollections:
    @pytest.fixture(params=[False, True])
    def stock(self, database_url: str, request: pytest.FixtureRequest) -> str:
        from langchain_community.vectorstores import PGVector
        from langchain_core.documents import Document
        from langchain_core.embeddings import Embeddings

        class Fixed(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return vectors(len(texts))

            def embed_query(self, text: str) -> list[float]:
                raise NotImplementedError(text)

        documents = [Document(page_content=text, metadata={"id": id_}) for id_, text in TOWN.items()]
        for name, chosen in (("town", documents), ("other", documents[:1])):
            PGVector.from_documents(
                chosen, Fixed(), collection_name=name, connection_string=database_url, use_jsonb=request.param
            )._bind.dispose()
        return database_url

    @pytest.mark.parametrize("search_type", SEARCH_TYPES)
    async def test_every_search_reads_them_as_they_are(self, engine: AsyncEngine, stock: str, search_type: str) -> None:
        assert stock
        question = "metres pump bills"
        search = CollectionSearch(engine, "town")
        hits = await search.find(settings(search_type, number_of_results=10), text=question, embedding=QUERY)
        assert sorted(ids(hits)) == sorted(TOWN)
        asked = settings(search_type, {"id": {"$in": ["cat", "pump"]}}, number_of_results=10)
        assert sorted(ids(await search.find(asked, text=question, embedding=QUERY))) == ["cat", "pump"]
        one = await CollectionSearch(engine, "other").find(settings(search_type), text=question, embedding=QUERY)
        assert ids(one) == ["well"]
