"""What the tests of searches share: a small town's texts, and ways of asking."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import psycopg

from langflow_sluice.postgres.documents import DocumentRow
from langflow_sluice.postgres.filters import read_filter
from langflow_sluice.postgres.layout import layouts
from langflow_sluice.postgres.search import CollectionSearch, SearchHit, _Query
from langflow_sluice.postgres.search_settings import SearchSettings
from langflow_sluice.postgres.vectors import EncodedVector, _EncodedVectorDumper
from langflow_sluice.postgres.writer import CollectionWriter

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

QUERY = [0.3, -0.5, 0.9]
TOWN = {
    "well": "The well of Oxbarrow is forty-one metres deep.",
    "tower": "The water tower stands thirty metres above the square.",
    "pump": "The spare pump XK-4417 stands beside the old steam engine.",
    "cat": "The cat of the pump house is called Impeller.",
    "bill": "Bills are posted on the first day of the month.",
}


def ask(database_url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def settings(search_type: str = "similarity", filter_: Any = None, **more: Any) -> SearchSettings:
    return SearchSettings(search_type=search_type, filter=read_filter(filter_), **more)


def vectors(count: int, dimensions: int = 3, seed: int = 0) -> list[list[float]]:
    numbers = random.Random(seed)  # noqa: S311 - any numbers do
    return [[numbers.uniform(-1, 1) for _ in range(dimensions)] for _ in range(count)]


async def write_town(engine: AsyncEngine, name: str = "town") -> None:
    rows = [
        DocumentRow(text, {"id": id_}, vector) for (id_, text), vector in zip(TOWN.items(), vectors(5), strict=True)
    ]
    await CollectionWriter(engine, name).write(rows)


def ids(hits: list[SearchHit]) -> list[Any]:
    return [hit.metadata["id"] for hit in hits]


def explained(
    database_url: str, search: CollectionSearch, asked: SearchSettings, text: str = "", query: list[float] = QUERY
) -> str:
    """The plan of the statement that a search executes; it must have searched already."""
    layout = layouts.get(search._key, (asked.needs_embedding, search._columns, search._language))
    assert layout is not None
    statement, values = _Query(asked, text, query).statement(layout)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.adapters.register_dumper(EncodedVector, _EncodedVectorDumper)
        return "\n".join(row[0] for row in connection.execute(b"EXPLAIN " + statement, values))
