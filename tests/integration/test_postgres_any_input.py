"""Whatever names, filters and questions users give: they are data, never SQL, and never a crash."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from langflow_sluice.errors import InvalidInput
from langflow_sluice.postgres import failures
from langflow_sluice.postgres.documents import DocumentRow
from langflow_sluice.postgres.engines import engine_for
from langflow_sluice.postgres.filters import read_filter
from langflow_sluice.postgres.layout import Columns
from langflow_sluice.postgres.search import CollectionSearch
from langflow_sluice.postgres.search_settings import SEARCH_TYPES, SearchSettings
from langflow_sluice.postgres.url import parse_database_url
from langflow_sluice.postgres.writer import CollectionWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

SENTINEL = 'sentinel"; --'
ATTACKS = [
    'x"; DROP TABLE "sentinel""; --"; --',
    'x\'); DELETE FROM "sentinel""; --"; --',
    "%s %(x)s %% %",
    "$1 $tag$ \\' E'\\'' /* */ --",
    "{0} ' OR 1=1 --",
    '$."a" ? (@ == 1) || true',
    "' & ' | ! ( <-> :* \"",
]
texts = st.text(max_size=80) | st.sampled_from(ATTACKS)
given_examples = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class Place:
    """A database with a sentinel, and a loop to search it from within synchronous tests."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.url = url
        self.loop = loop

        async def make() -> AsyncEngine:
            return engine_for(parse_database_url(url))

        self.engine = loop.run_until_complete(make())
        self.ask(sql.SQL("CREATE TABLE {} (id int)").format(sql.Identifier(SENTINEL)))
        self.ask(sql.SQL("INSERT INTO {} VALUES (1)").format(sql.Identifier(SENTINEL)))

    def ask(self, statement: sql.Composed, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def write(self, name: str, rows: list[DocumentRow]) -> None:
        self.loop.run_until_complete(CollectionWriter(self.engine, name).write(rows))

    def find(
        self,
        name: str,
        asked: SearchSettings,
        *,
        schema: str = "public",
        columns: Columns | None = None,
        text: str = "well",
    ) -> Any:
        async def find() -> Any:
            search = CollectionSearch(self.engine, name, schema=schema, columns=columns)
            return await search.find(asked, text=text, embedding=[1.0, 0.0])

        return self.loop.run_until_complete(find())

    def check(self) -> None:
        assert self.ask(sql.SQL("SELECT * FROM {}").format(sql.Identifier(SENTINEL))) == [(1,)]


@pytest.fixture
def place(database_url: str) -> Iterator[Place]:
    loop = asyncio.new_event_loop()
    yield Place(database_url, loop)
    loop.close()


class TestNames:
    @given_examples
    @given(name=texts, schema=texts)
    @example(name=SENTINEL, schema="public")
    def test_a_collection_that_is_none_is_missing_or_refused(self, place: Place, name: str, schema: str) -> None:
        for columns in (None, Columns()):
            with pytest.raises((InvalidInput, failures.DatabaseError)):
                place.find(name, SearchSettings(), schema=schema, columns=columns)
        place.check()

    @settings(given_examples, max_examples=12)
    @given(name=texts)
    @example(name=ATTACKS[0])
    def test_a_collection_can_have_any_name(self, place: Place, name: str) -> None:
        try:
            place.write(name, [DocumentRow("a well", {"a": 1}, [1.0, 0.0])])
        except InvalidInput:
            return
        for search_type in SEARCH_TYPES:
            asked = SearchSettings(search_type=search_type, filter=read_filter({"a": 1}))
            assert [hit.content for hit in place.find(name, asked)] == ["a well"]
        place.check()
        place.ask(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))

    @settings(given_examples, max_examples=20)
    @given(names=st.lists(texts, min_size=4, max_size=4, unique=True))
    @example(names=ATTACKS[:4])
    def test_columns_can_have_any_name(self, place: Place, names: list[str]) -> None:
        table = "odd"
        try:
            columns = Columns(names[0], names[1], tuple(names[2:]))
        except InvalidInput:
            return
        types = (sql.SQL(each) for each in ("text", "vector(2)", "int", "jsonb"))
        definition = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), type_) for name, type_ in zip(names, types, strict=True)
        )
        place.ask(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(table)))
        place.ask(sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(table), definition))
        place.ask(sql.SQL("INSERT INTO odd VALUES ('a well', '[1,0]', 7, %s)"), '{"a": 1}')
        filter_ = read_filter({"a": 1} if names[2].startswith("$") else {"a": 1, names[2]: 7})
        for search_type in SEARCH_TYPES:
            [hit] = place.find(table, SearchSettings(search_type=search_type, filter=filter_), columns=columns)
            assert (hit.content, hit.metadata) == ("a well", {"a": 1, names[2]: 7})
        place.check()


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.5, 1.0, -2.5])
    | st.sampled_from(["", "a", "b", "1", "a%", "2024-01-01", *ATTACKS[:2]])
)
fields = st.sampled_from(["a", "b", ATTACKS[0]])
documents = st.dictionaries(fields, scalars | st.lists(scalars, max_size=2) | st.dictionaries(fields, scalars))
orders = st.sampled_from(["$lt", "$lte", "$gt", "$gte"])
numbers_or_texts = scalars.filter(lambda value: value is not None and not isinstance(value, bool))
tests = st.one_of(
    st.fixed_dictionaries({"$eq": scalars}),
    st.fixed_dictionaries({"$ne": scalars}),
    st.dictionaries(orders, numbers_or_texts, min_size=1, max_size=2),
    st.fixed_dictionaries({"$in": st.lists(scalars, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"$nin": st.lists(scalars, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"$between": st.tuples(numbers_or_texts, numbers_or_texts)}),
    st.fixed_dictionaries({"$exists": st.booleans()}),
    st.fixed_dictionaries({"$contains": scalars}),
    st.fixed_dictionaries({"$like": st.sampled_from(["a%", "%", "_", "1"])}),
    scalars,
)
filters = st.recursive(
    st.dictionaries(fields, tests | st.dictionaries(fields, tests, min_size=1), min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=4,
)
_ABSENT = object()


def passes(filter_: Any, document: Any) -> bool:
    """What a filter means, said a second time."""
    return all(_entry(name, value, document) for name, value in filter_.items())


def _entry(name: str, value: Any, document: Any) -> bool:
    if name == "$and":
        return all(passes(each, document) for each in value)
    if name == "$or":
        return any(passes(each, document) for each in value)
    if name == "$not":
        return not passes(value, document)
    held = document.get(name, _ABSENT) if isinstance(document, dict) else _ABSENT
    if not isinstance(value, dict):
        number = {"1": 1}.get(value) if isinstance(value, str) else None
        return _same(held, value) or (number is not None and _same(held, number))
    if not next(iter(value)).startswith("$"):
        return passes(value, held)
    return all(_holds(operator, held, wanted) for operator, wanted in value.items())


def _holds(operator: str, held: Any, wanted: Any) -> bool:  # noqa: PLR0911 - one for each operator
    if operator in {"$eq", "$ne"}:
        return held is not _ABSENT and _same(held, wanted) == (operator == "$eq")
    if operator in {"$in", "$nin"}:
        return held is not _ABSENT and any(_same(held, each) for each in wanted) == (operator == "$in")
    if operator == "$between":
        return _holds("$gte", held, wanted[0]) and _holds("$lte", held, wanted[1])
    if operator == "$exists":
        return (held is not _ABSENT) == wanted
    if operator == "$contains":
        return isinstance(held, list) and any(_same(each, wanted) for each in held)
    if operator == "$like":
        if held is _ABSENT or held is None:
            return False
        text = held if isinstance(held, str) else json.dumps(held)
        return re.fullmatch(re.escape(wanted).replace("%", ".*").replace("_", "."), text, re.DOTALL) is not None
    if _kind(held) != _kind(wanted) or _kind(wanted) not in {"number", "text"}:
        return False
    return {"$lt": held < wanted, "$lte": held <= wanted, "$gt": held > wanted, "$gte": held >= wanted}[operator]


def _same(held: Any, wanted: Any) -> bool:
    return _kind(held) == _kind(wanted) and held == wanted


def _kind(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return {str: "text"}.get(type(value), type(value).__name__)
    return "number"


class TestFilters:
    @pytest.mark.parametrize("shape", ["own", "json", "merged"])
    @settings(given_examples, max_examples=100)
    @given(stored=st.lists(documents, min_size=1, max_size=6), asked=filters)
    @example(stored=[{"a": 1}, {"a": "1"}, {"a": True}, {}], asked={"a": "1"})
    @example(stored=[{"a": None}, {}, {"a": [1]}], asked={"a": {"$ne": 1}})
    @example(stored=[{"a": [1]}, {"a": 1}, {"a": [[1]]}], asked={"a": {"$gt": 0}})
    @example(stored=[{"a": [{"b": 1}]}, {"a": {"b": 1}}], asked={"a": {"b": {"$exists": True}}})
    def test_a_filter_means_the_same_to_the_database_and_to_us(
        self, place: Place, shape: str, stored: list[dict[str, Any]], asked: dict[str, Any]
    ) -> None:
        columns = store(place, shape, stored)
        found = place.find("docs", SearchSettings(filter=read_filter(asked), number_of_results=100), columns=columns)
        passing = [i for i, document in enumerate(stored) if passes(asked, document)]
        assert sorted(int(hit.content) for hit in found) == passing

    @given_examples
    @given(asked=st.dictionaries(texts, texts | scalars), question=texts)
    def test_no_filter_and_no_question_is_executed(self, place: Place, asked: dict[str, Any], question: str) -> None:
        if not place.ask(sql.SQL("SELECT 1 FROM pg_class WHERE relname = 'docs'")):
            place.write("docs", [DocumentRow("a well", {"a": 1}, [1.0, 0.0])])
        for search_type in SEARCH_TYPES:
            with contextlib.suppress(InvalidInput):
                wanted = SearchSettings(search_type=search_type, filter=read_filter(asked))
                place.find("docs", wanted, text=question)
        place.check()


def store(place: Place, shape: str, stored: list[dict[str, Any]]) -> Columns | None:
    """Writes documents to the collection ``docs``, in place of what was there."""
    place.ask(sql.SQL("DROP TABLE IF EXISTS docs"))
    if shape == "own":
        place.write("docs", [DocumentRow(str(i), document, [1.0, 0.0]) for i, document in enumerate(stored)])
        return None
    place.ask(sql.SQL("CREATE TABLE docs (content text, embedding vector(2), one json, two jsonb)"))
    for i, document in enumerate(stored):
        halves = [document, {}]
        if shape == "merged":  # what the first has of the second's names does not count
            odd = dict(list(document.items())[::2])
            halves = [{**document, **dict.fromkeys(odd, "hidden")}, odd]
        insert = sql.SQL("INSERT INTO docs VALUES (%s, '[1,0]', %s, %s)")
        place.ask(insert, str(i), *(json.dumps(half) for half in halves))
    return Columns(metadata=("one",) if shape == "json" else ("one", "two"))
