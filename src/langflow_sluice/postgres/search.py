"""Searching a collection: one statement on the driver's connection, and nothing created on the way."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from langflow_sluice.errors import DatabaseError, InvalidInput
from langflow_sluice.postgres import engines, failures, vectors
from langflow_sluice.postgres.layout import Layout, checked_name, containment, find_layout, layouts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg import AsyncConnection
    from sqlalchemy.ext.asyncio import AsyncEngine

MAX_RESULTS = 10_000
# A session that ended under us (restart, failover, idle timeout of a proxy): a read may safely be done again.
_SESSION_ENDED = frozenset({None, "57P01", "57P02", "57P05", "08000", "08003", "08006"})
# What a collection answers that was dropped, or written anew in another shape, since we looked at it.
_LAYOUT_CHANGED = frozenset({"42P01", "42703", "42704", "42883", "22000"})


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One row found.

    Attributes:
        content: The document's text.
        metadata: The document's metadata.
        score: Cosine similarity, from -1 to 1 (the same direction).
    """

    content: str
    metadata: dict[str, Any]
    score: float


class CollectionSearch:
    """Searches one collection, written by us or by LangChain's stock PGVector.

    Cheap to make; make one for each run. What is known of the collection's layout is shared by all of the process. May
    be used by any number of tasks of the engine's loop at once; a task that is cancelled has its statement cancelled
    on the server, too.

    Args:
        engine: From ``engine_for``, on the running loop.
        collection: Name of the collection; any characters, it is only ever used as a quoted name or a value.
        schema: Schema its table lies in.

    Raises:
        InvalidInput: PostgreSQL cannot store such a name.
    """

    def __init__(self, engine: AsyncEngine, collection: str, *, schema: str = "public") -> None:
        self._engine = engine
        self._pool = engines.pool_of(engine)
        self._collection = checked_name("collection_name", collection)
        self._schema = checked_name("schema", schema)
        self._key = (self._pool.fingerprint, schema, collection)

    async def similarity(
        self,
        embedding: Sequence[float],
        *,
        k: int = 4,
        score_threshold: float | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word that LangChain's users know
    ) -> list[SearchHit]:
        """The rows whose embedding points most nearly where the given one does, the nearest first.

        Uses the HNSW index where there is one (which is approximate), else looks at all rows. A filter never makes it
        return too few rows while more match: the index is read on until enough are found (up to pgvector's
        ``hnsw.max_scan_tuples``).

        Args:
            embedding: The query's vector, as long as the collection's.
            k: The most rows to return, from 1 to 10,000.
            score_threshold: Rows with a lower score are left out.
            filter: Metadata that rows must have, each equal; ``None`` or empty lets all pass.

        Raises:
            InvalidInput: An argument is wrong.
            PoolTimeout: No connection came free in time.
            DatabaseError: The subclass says what: ``MissingCollection``, ``MissingExtension``, ``DimensionMismatch``,
                ``StatementTimeout``, ``DatabaseUnavailable``, ``AccessDenied``, ``TooManyClients``.
        """
        problem = vectors.problem_of(embedding)
        if problem:
            msg = f"The embedding of the query {problem}."
            raise InvalidInput(msg, hint="Check the embedding model that is connected.")
        _check_k(k)
        _check_threshold(score_threshold)
        wanted = containment(dict(filter)) if filter else None
        rows = await self._attempt(embedding, k, wanted)
        hits = [SearchHit(content or "", metadata or {}, _score(distance)) for content, metadata, distance in rows]
        return hits if score_threshold is None else [hit for hit in hits if hit.score >= score_threshold]

    async def _attempt(self, embedding: Sequence[float], k: int, wanted: str | None) -> list[tuple[Any, ...]]:
        """Searches, and once more if the session had ended or the layout was not what we remembered."""
        try:
            return await self._search(embedding, k, wanted)
        except psycopg.Error as exc:
            error = exc
        if error.sqlstate in _LAYOUT_CHANGED:
            layouts.forget(self._key)
        elif isinstance(error, psycopg.OperationalError) and error.sqlstate in _SESSION_ENDED:
            self._pool.drop_idle()  # their sessions ended with this one
        else:
            raise failures.translate(error, target=self._pool.label) from None
        try:
            return await self._search(embedding, k, wanted)
        except psycopg.Error as exc:
            raise failures.translate(exc, target=self._pool.label) from None

    async def _search(self, embedding: Sequence[float], k: int, wanted: str | None) -> list[tuple[Any, ...]]:
        async with engines.connection(self._engine) as connection:
            if not self._pool.settings.pgbouncer:
                return await self._run(connection, embedding, k, wanted)
            async with connection.transaction():
                await connection.execute(engines.local_settings(self._pool.settings))
                return await self._run(connection, embedding, k, wanted)

    async def _run(
        self, connection: AsyncConnection[tuple[Any, ...]], embedding: Sequence[float], k: int, wanted: str | None
    ) -> list[tuple[Any, ...]]:
        layout = layouts.get(self._key) or await self._look_up(connection)
        if layout.dimensions is not None and layout.dimensions > 0 and layout.dimensions != len(embedding):
            layouts.forget(self._key)  # it may have been written anew with another model, so look again next time
            raise failures.dimension_mismatch(
                self._pool.label, self._collection, expected=layout.dimensions, given=len(embedding)
            )
        try:
            query = vectors.encode(embedding, layout.column_type)
        except OverflowError:
            msg = f"The embedding of the query holds a number too large for {layout.column_type}."
            raise InvalidInput(msg, hint="Check the embedding model that is connected.") from None
        values: list[Any] = [query]
        if layout.kind == "stock":
            values.append(layout.stock_id)
        if wanted is not None:
            values.append(wanted)
        cursor = await connection.execute(_statement(layout, k, wanted is not None), values)
        return await cursor.fetchall()

    async def _look_up(self, connection: AsyncConnection[tuple[Any, ...]]) -> Layout:
        label = self._pool.label
        layout = await find_layout(connection, target=label, schema=self._schema, collection=self._collection)
        if layout is None:
            raise failures.missing_collection(label, self._collection)
        if layout.column_type not in {"vector", "halfvec"}:
            msg = f"The embeddings of {self._collection!r} in {label} are of type {layout.column_type}."
            raise DatabaseError(msg, hint="Sluice searches columns of type vector and halfvec.")
        layouts.put(self._key, layout)
        return layout


@functools.lru_cache(maxsize=1024)
def _statement(layout: Layout, k: int, has_filter: bool) -> bytes:  # noqa: FBT001 - a key of the cache
    # The limit stands in the text: with a parameter the server's generic plan assumes a tenth of all rows and does not
    # touch the index.
    vector = f"%s::{layout.extension_schema}.{layout.column_type}"
    stock = layout.kind == "stock"
    content, metadata = ("document", "cmetadata") if stock else ("content", "metadata")
    conditions = []
    if stock:
        conditions.append("collection_id = %s::uuid")
    if has_filter:
        conditions.append(f"{metadata}{'::jsonb' if stock else ''} @> %s::jsonb")
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    return (
        f"SELECT {content}, {metadata}, embedding OPERATOR({layout.extension_schema}.<=>) {vector} AS distance"  # noqa: S608 - names are quoted, values bound
        f" FROM {layout.relation} {where}ORDER BY distance LIMIT {k:d}"
    ).encode()


def _check_k(k: Any) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_RESULTS:
        problem = f"it is not a whole number from 1 to {MAX_RESULTS}"
        raise InvalidInput.of("number_of_results", k, problem, fix="Set it to how many results you want.")


def _check_threshold(threshold: Any) -> None:
    if threshold is None:
        return
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not -1 <= threshold <= 1:
        problem = "a cosine similarity lies between -1 and 1"
        raise InvalidInput.of("score_threshold", threshold, problem, fix="Set it between them, or leave it empty.")


def _score(distance: float | None) -> float:
    # A stored vector of zeros has no direction: PostgreSQL gives NaN, which JSON cannot carry.
    return 0.0 if distance is None or math.isnan(distance) else 1.0 - distance
