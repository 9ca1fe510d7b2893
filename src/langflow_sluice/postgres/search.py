"""Searching a collection: one statement on the driver's connection, and nothing created on the way."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from langflow_sluice.errors import InvalidInput
from langflow_sluice.postgres import engines, failures, statements, vectors
from langflow_sluice.postgres.conditions import conditions
from langflow_sluice.postgres.filters import read_filter
from langflow_sluice.postgres.keywords import read_keywords
from langflow_sluice.postgres.layout import Layout, find_layout, layouts
from langflow_sluice.postgres.mmr import diverse
from langflow_sluice.postgres.names import checked_name
from langflow_sluice.postgres.search_settings import SearchSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg import AsyncConnection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from langflow_sluice.postgres.layout import Columns

# A session that ended under us (restart, failover, idle timeout of a proxy): a read may safely be done again.
_SESSION_ENDED = frozenset({None, "57P01", "57P02", "57P05", "08000", "08003", "08006"})
# What a collection answers that was dropped, or written anew in another shape, since we looked at it.
_LAYOUT_CHANGED = frozenset({"42P01", "42703", "42704", "42883", "22000"})
# Multiplications that maximal marginal relevance may do on the loop, some milliseconds; more go to a thread.
_ON_THE_LOOP = 5_000_000


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One row found.

    Attributes:
        content: The document's text.
        metadata: The document's metadata.
        score: By ``similarity`` and ``mmr`` the cosine similarity, from -1 to 1 (the same direction); by ``keyword`` a
            rank between 0 and 1; by ``hybrid`` the sum of 1 / (60 + place) over both lists, from 0 to 2/61.
    """

    content: str
    metadata: dict[str, Any]
    score: float


@dataclass(frozen=True, slots=True)
class _Found:
    """What a statement gave, and how to read it."""

    layout: Layout
    rows: list[tuple[Any, ...]]


class CollectionSearch:
    """Searches one collection, written by us or by LangChain's stock PGVector, or any table or view.

    Cheap to make; make one for each run. What is known of the collection's layout is shared by all of the process. May
    be used by any number of tasks of the engine's loop at once; a task that is cancelled has its statement cancelled
    on the server, too.

    Args:
        engine: From ``engine_for``, on the running loop.
        collection: Name of the collection; any characters, it is only ever used as a quoted name or a value.
        schema: Schema its table lies in.
        columns: Which columns to read, if the table is neither ours nor stock PGVector's.
        language: Text search configuration for keyword searches of tables that do not tell theirs; empty for English.

    Raises:
        InvalidInput: PostgreSQL cannot store such a name.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        collection: str,
        *,
        schema: str = "public",
        columns: Columns | None = None,
        language: str = "",
    ) -> None:
        self._engine = engine
        self._pool = engines.pool_of(engine)
        self._collection = checked_name("collection_name", collection)
        self._schema = checked_name("schema_name", schema)
        self._columns = columns
        self._language = language
        self._key = (self._pool.fingerprint, schema, collection)

    async def similarity(
        self,
        embedding: Sequence[float],
        *,
        k: int = 4,
        score_threshold: float | None = None,
        filter: Mapping[str, Any] | str | None = None,  # noqa: A002 - the word that LangChain's users know
        exact: bool = False,
    ) -> list[SearchHit]:
        """The rows whose embedding points most nearly where the given one does; see ``find``."""
        settings = SearchSettings(
            number_of_results=k, score_threshold=score_threshold, filter=read_filter(filter), exact=exact
        )
        return await self.find(settings, embedding=embedding)

    async def find(
        self, settings: SearchSettings, *, text: str = "", embedding: Sequence[float] | None = None
    ) -> list[SearchHit]:
        """The rows that a search finds, the best first.

        Embeddings are compared by the HNSW index where there is one (which is approximate), else with all rows. A
        filter never makes it return too few rows while more match: the index is read on until enough are found, and
        where it gives up (at pgvector's ``hnsw.max_scan_tuples``) all rows are looked at.

        Args:
            settings: How to search.
            text: The question; for keyword and hybrid searches.
            embedding: Its vector, as long as the collection's; for all but keyword searches.

        Raises:
            InvalidInput: An argument is wrong, or the table lacks a column that was named.
            PoolTimeout: No connection came free in time.
            DatabaseError: The subclass says what: ``MissingCollection``, ``MissingExtension``, ``DimensionMismatch``,
                ``StatementTimeout``, ``DatabaseUnavailable``, ``AccessDenied``, ``TooManyClients``.
        """
        if settings.needs_embedding:
            problem = vectors.problem_of(embedding)
            if problem:
                msg = f"The embedding of the query {problem}."
                raise InvalidInput(msg, hint="Check the embedding model that is connected.")
        found = await self._attempt(_Query(settings, text, embedding or ()))
        if settings.search_type == "mmr":
            found = await _chosen(found, settings, embedding or ())
        return _hits(found, settings)

    async def _attempt(self, query: _Query) -> _Found:
        """Searches, and once more if the session had ended or the layout was not what we remembered."""
        try:
            return await self._search(query)
        except psycopg.Error as exc:
            error = exc
        if error.sqlstate in _LAYOUT_CHANGED:
            layouts.forget(self._key)
        elif isinstance(error, psycopg.OperationalError) and error.sqlstate in _SESSION_ENDED:
            self._pool.drop_idle()  # their sessions ended with this one
        else:
            raise failures.translate(error, target=self._pool.label) from None
        try:
            return await self._search(query)
        except psycopg.Error as exc:
            raise failures.translate(exc, target=self._pool.label) from None

    async def _search(self, query: _Query) -> _Found:
        async with engines.connection(self._engine) as connection:
            if not self._pool.settings.pgbouncer:
                return await self._run(connection, query)
            async with connection.transaction():
                await connection.execute(engines.local_settings(self._pool.settings))
                return await self._run(connection, query)

    async def _run(self, connection: AsyncConnection[tuple[Any, ...]], query: _Query) -> _Found:
        settings = query.settings
        variant = (settings.needs_embedding, self._columns, self._language)
        layout = layouts.get(self._key, variant) or await self._look_up(connection, variant)
        if settings.needs_embedding:
            self._check_dimensions(layout, len(query.embedding))
        statement, values = query.statement(layout)
        # Embeddings come back in binary, a quarter of their text.
        cursor = connection.cursor(binary=settings.search_type == "mmr")
        rows = await (await cursor.execute(statement, values)).fetchall()
        if query.may_have_missed(layout, len(rows)):
            rows = await (await cursor.execute(*query.statement(layout, exact=True))).fetchall()
        return _Found(layout, rows)

    def _check_dimensions(self, layout: Layout, given: int) -> None:
        if layout.dimensions is not None and layout.dimensions != given:
            layouts.forget(self._key)  # it may have been written anew with another model, so look again next time
            raise failures.dimension_mismatch(
                self._pool.label, self._collection, expected=layout.dimensions, given=given
            )

    async def _look_up(self, connection: AsyncConnection[tuple[Any, ...]], variant: tuple[Any, ...]) -> Layout:
        layout = await find_layout(
            connection,
            target=self._pool.label,
            schema=self._schema,
            collection=self._collection,
            columns=self._columns,
            language=self._language,
            vectors=variant[0],
        )
        if layout is None:
            raise failures.missing_collection(self._pool.label, self._collection)
        layouts.put(self._key, layout, variant)
        return layout


@dataclass(frozen=True, slots=True)
class _Query:
    """One question, ready to become a statement for any layout."""

    settings: SearchSettings
    text: str
    embedding: Sequence[float]

    def statement(self, layout: Layout, *, exact: bool = False) -> tuple[bytes, dict[str, Any]]:
        """The statement and its values; ``exact`` as in the settings."""
        settings = self.settings
        exact = exact or settings.exact
        where, values = conditions(settings.filter, layout) if settings.filter else ("", {})
        if layout.kind == "stock":
            values["stock_id"] = layout.stock_id
        if settings.needs_embedding:
            values["query"] = self._encoded(layout)
        if settings.search_type == "similarity":
            return statements.nearest(
                layout, settings.number_of_results, where, exact=exact, with_embedding=False
            ), values
        if settings.search_type == "mmr":
            return statements.nearest(layout, settings.depth, where, exact=exact, with_embedding=True), values
        words = read_keywords(self.text)
        values["wanted"] = words.wanted
        if words.unwanted:
            values["unwanted"] = words.unwanted
        excludes = bool(words.unwanted)
        if settings.search_type == "keyword":
            return statements.matching(layout, settings.number_of_results, where, excludes=excludes), values
        if settings.score_threshold is not None:
            values["farthest"] = 1.0 - settings.score_threshold
        statement = statements.fused(
            layout,
            settings.number_of_results,
            settings.depth,
            where,
            exact=exact,
            excludes=excludes,
            has_threshold=settings.score_threshold is not None,
        )
        return statement, values

    def _encoded(self, layout: Layout) -> vectors.EncodedVector:
        try:
            return vectors.encode(self.embedding, layout.column_type)
        except OverflowError:
            msg = f"The embedding of the query holds a number too large for {layout.column_type}."
            raise InvalidInput(msg, hint="Check the embedding model that is connected.") from None

    def may_have_missed(self, layout: Layout, found: int) -> bool:
        """Whether an index may have given up before it found enough rows."""
        settings = self.settings
        if settings.exact or not layout.is_approximate or settings.search_type == "keyword":
            return False
        wanted = settings.depth if settings.search_type == "mmr" else settings.number_of_results
        return found < wanted and (settings.filter is not None or layout.kind == "stock")


async def _chosen(found: _Found, settings: SearchSettings, embedding: Sequence[float]) -> _Found:
    """The rows that maximal marginal relevance chooses, in its order, of those that are similar enough."""
    rows = found.rows
    if settings.score_threshold is not None:
        rows = [row for row in rows if _similarity(row[-2]) >= settings.score_threshold]
    arguments: Any = {
        "column_type": found.layout.column_type,
        "k": settings.number_of_results,
        "relevance": settings.mmr_lambda,
    }
    candidates = [row[-1] for row in rows]
    if settings.number_of_results * len(rows) * len(embedding) <= _ON_THE_LOOP:
        chosen = diverse(embedding, candidates, **arguments)
    else:
        chosen = await asyncio.to_thread(diverse, embedding, candidates, **arguments)
    return _Found(found.layout, [rows[index][:-1] for index in chosen])


def _hits(found: _Found, settings: SearchSettings) -> list[SearchHit]:
    measure = float if settings.search_type in {"keyword", "hybrid"} else _similarity
    hits = [SearchHit(row[0] or "", _metadata(found.layout, row[1:-1]), measure(row[-1])) for row in found.rows]
    if settings.score_threshold is None or settings.search_type == "hybrid":
        return hits
    return [hit for hit in hits if hit.score >= settings.score_threshold]


def _metadata(layout: Layout, values: tuple[Any, ...]) -> dict[str, Any]:
    if layout.kind != "table":
        return values[0] if isinstance(values[0], dict) else {}
    metadata: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for column, value in zip(layout.metadata, values, strict=True):
        if not column.is_json:
            own[column.name] = value
        elif isinstance(value, dict):
            metadata.update(value)
    metadata.update(own)
    return metadata


def _similarity(distance: float | None) -> float:
    # A stored vector of zeros has no direction: PostgreSQL gives NaN, which JSON cannot carry.
    return 0.0 if distance is None or math.isnan(distance) else 1.0 - distance
