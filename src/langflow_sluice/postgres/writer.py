"""Writing a collection: idempotent, in batches, and with an account of every row."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, get_args

import psycopg

from langflow_sluice.errors import DatabaseError, InvalidInput
from langflow_sluice.postgres import engines, failures, vectors
from langflow_sluice.postgres import schema as ddl
from langflow_sluice.postgres.batches import ROWS_A_TURN, OnConflict, Run, prepared, with_embedding
from langflow_sluice.postgres.layout import DEFAULT_LANGUAGE, Layout, find_layout, layouts
from langflow_sluice.postgres.names import checked_name
from langflow_sluice.postgres.result_cache import namespace_of, result_cache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from psycopg import AsyncConnection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from langflow_sluice.postgres.documents import DocumentRow, PreparedRow, RowFailure, WriteReport

MAX_BATCH = 10_000
# While others read, writers rest after each batch: all writers together then take about one connection's time.
_READ_LATELY_S = 0.5
_PAUSE = 0.5
_LONGEST_PAUSE_S = 1.0
_LANES = 2


class CollectionWriter:
    """Writes one collection in our own layout: one table, typed columns.

    The first write creates what is missing (the extension if the role may, the table and its indexes) under a lock, so
    that first writes at the same time do not collide. Identity of a row is the hash of its content and metadata:
    writing the same again, for instance after an interruption, stores nothing twice.

    A connection is taken for a batch at a time, out of the writers' share of the pool, so readers always have the rest.
    Where the pool has but one connection they take turns with the batches, and the index is made before the first
    row: to build it afterwards would take that connection away for long.

    Args:
        engine: From ``engine_for``; a writer is for one loop.
        collection: Name of the collection, which is the table's name; any characters, it is always quoted.
        schema: Schema the table lies in; it must exist.
        language: Text search configuration of a collection that has to be created; empty for English. One that exists
            keeps its own.
        admission: Makes what is entered around each use of a connection, such as a slot of a guard.

    Raises:
        InvalidInput: PostgreSQL cannot store such a name.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        collection: str,
        *,
        schema: str = "public",
        language: str = "",
        admission: Callable[[], contextlib.AbstractAsyncContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self._engine = engine
        self._pool = engines.pool_of(engine)
        self._collection = checked_name("collection_name", collection)
        self._schema = checked_name("schema", schema)
        self._language = language
        self._key = (self._pool.fingerprint, schema, collection)
        self._admission = admission
        self._layout: Layout | None = None

    async def write(
        self,
        rows: Sequence[DocumentRow],
        *,
        on_conflict: OnConflict = "skip",
        batch_size: int = 500,
        build_index: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> WriteReport:
        """Stores rows, batch by batch, each batch in a transaction of its own.

        Cancelled or failed in between, the batches done stay, and writing the same rows again goes on from there. A
        row that cannot be stored fails by itself and stands in the report. With ``on_conflict="error"`` all rows are
        one transaction instead, so nothing is stored if one of them exists.

        Args:
            rows: What to store.
            on_conflict: What to do with a row that exists: leave it, replace its embedding if that differs, or raise.
            batch_size: Rows in a batch, from 1 to 10,000.
            build_index: Whether to build the HNSW index at the end if there is none. Whoever writes a new collection
                in several calls saves most of the time by asking for it in the last one only.
            progress: Called on the loop after each batch with the number of rows done and of all.

        Raises:
            InvalidInput: An argument is wrong.
            Conflict: A row exists (or stands twice in ``rows``) and ``on_conflict`` is ``error``.
            DimensionMismatch: No row fits the collection.
            DatabaseError: Anything else; the subclass says what.
        """
        check_arguments(on_conflict, batch_size)
        started = time.perf_counter()
        layout = await self._prepared_layout([row.embedding for row in rows])
        run = Run(on_conflict, f"{self._collection!r} in {self._pool.label}")
        if layout is not None:
            whole = self._transaction() if on_conflict == "error" else contextlib.nullcontext()
            async with whole as connection:
                for start in range(0, len(rows), batch_size):
                    numbered = enumerate(rows[start : start + batch_size], start)
                    batch = await run.prepared((prepared(index, row, layout) for index, row in numbered))
                    if batch:
                        async with contextlib.nullcontext(connection) if connection else self._connection() as lent:
                            await run.store(lent, self._local(), batch, layout)
                    if progress is not None:
                        progress(min(start + batch_size, len(rows)), len(rows))
            if build_index:
                await self.build_index()
        return run.report(started)

    async def encode(
        self, rows: Sequence[PreparedRow], embeddings: Sequence[Sequence[float]]
    ) -> list[PreparedRow | RowFailure]:
        """Gives rows whose identity is known their embeddings, in the form that the collection takes.

        Args:
            rows: The rows, with any embedding.
            embeddings: Their embeddings, which tell what the collection must hold if it has to be created.

        Raises:
            SluiceError: As for ``write``.
        """
        layout = await self._prepared_layout(embeddings)
        found: list[PreparedRow | RowFailure] = []
        if layout is None:
            return found
        for count, (row, embedding) in enumerate(zip(rows, embeddings, strict=True), 1):
            if not count % ROWS_A_TURN:
                await asyncio.sleep(0)
            found.append(with_embedding(row, embedding, layout))
        return found

    async def write_batch(self, batch: list[PreparedRow], *, on_conflict: OnConflict) -> WriteReport:
        """Stores rows of ``encode``, none twice, in one transaction; without building the index.

        Raises:
            SluiceError: As for ``write``; nothing of the batch is stored then.
        """
        started = time.perf_counter()
        run = Run(on_conflict, f"{self._collection!r} in {self._pool.label}")
        if batch and self._layout is not None:
            async with self._transaction() if on_conflict == "error" else self._connection() as connection:
                await run.store(connection, self._local(), batch, self._layout)
        return run.report(started)

    async def stored(self, hashes: Collection[bytes]) -> set[bytes]:
        """Which rows are in the collection already, by their identity; none where there is no collection yet.

        Reads, so it takes none of the writers' share.

        Raises:
            InvalidInput: The database has no such language.
            DatabaseError: The subclass says what; a table of that name is something else, for instance.
        """
        async with self._connection(reading=True) as connection:
            try:
                layout = self._layout or await self._find(connection)
            except failures.MissingExtension:  # the first write creates it
                layout = None
            if layout is None or layout.kind != "own":
                return set()
            statement = f"SELECT content_hash FROM {layout.relation} WHERE content_hash = ANY(%s::bytea[])".encode()  # noqa: S608 - quoted
            local = self._local()
            async with connection.transaction() if local else contextlib.nullcontext():
                if local:
                    await connection.execute(local)
                # As text: the driver takes milliseconds to put so many elements into binary form.
                wanted = "{" + ",".join(f'"\\\\x{each.hex()}"' for each in hashes) + "}"
                found = await connection.execute(statement, (wanted,), binary=True)
                return {bytes(row[0]) for row in await found.fetchall()}

    async def build_index(self) -> bool:
        """Builds the HNSW index unless there is one; neither readers nor writers are blocked meanwhile.

        Returns:
            Whether there is one now; a pool of a single connection has none to spare for building one afterwards.

        Raises:
            DatabaseError: The subclass says what.
        """
        lone = self._pool.limit == 1
        async with self._connection(building=not lone, reading=lone) as connection:
            layout = self._layout = self._layout or await self._find(connection)
            if layout is None or not layout.relation:
                return True
            name = ddl.index_name(self._schema, self._collection, "hnsw")
            if lone:
                state = await (await connection.execute(_VALID_INDEX, (self._schema, name))).fetchone()
                return state is not None
            await self._build(connection, layout)
        return True

    async def _build(self, connection: AsyncConnection[tuple[Any, ...]], layout: Layout) -> None:
        pgbouncer = self._pool.settings.pgbouncer
        sparing = not pgbouncer and self._is_read
        if sparing:
            # More processes would be done sooner, and take the processors away from those who read.
            await connection.execute("SET max_parallel_maintenance_workers = 0")
        try:
            await ddl.ensure_hnsw(connection, layout, self._schema, self._collection, pgbouncer=pgbouncer)
        finally:
            if sparing and not connection.closed:
                await connection.execute("RESET max_parallel_maintenance_workers")

    @contextlib.asynccontextmanager
    async def _connection(
        self, *, building: bool = False, reading: bool = False
    ) -> AsyncIterator[AsyncConnection[tuple[Any, ...]]]:
        share = contextlib.nullcontext() if reading else engines.writing(self._engine, building=building)
        # The share comes first: whoever waits for it holds no slot of the guard that a reader could use.
        async with share:
            started = time.monotonic()
            try:
                async with self._admission(), engines.connection(self._engine, for_writing=True) as connection:
                    try:
                        yield connection
                    except psycopg.Error as exc:
                        raise failures.translate(exc, target=self._pool.label) from None
            finally:
                if not reading:
                    # Also after a failure: some of the rows may be there.
                    result_cache().invalidate(namespace_of(*self._key))
            if not reading and not building and self._is_read:
                # Still within the share, or the next writer would go on in the same breath.
                others = self._pool.budget.writes.out - 1
                await asyncio.sleep(min((time.monotonic() - started) * (others + _PAUSE), _LONGEST_PAUSE_S))

    @property
    def _is_read(self) -> bool:
        return time.monotonic() - self._pool.read_at < _READ_LATELY_S

    @property
    def lanes(self) -> int:
        """Batches that may be written at the same time, so as to use more than one processor: one if others read."""
        return 1 if self._is_read else min(_LANES, self._pool.budget.writes.limit)

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection[tuple[Any, ...]]]:
        async with self._connection() as connection, connection.transaction():
            yield connection

    def _local(self) -> bytes:
        settings = self._pool.settings
        return engines.local_settings(settings).encode() if settings.pgbouncer else b""

    async def _prepared_layout(self, embeddings: Sequence[Sequence[float]]) -> Layout | None:
        """The layout of our table, created if need be; ``None`` if there are no rows to tell what it must hold."""
        if not embeddings:
            return None
        label = self._pool.label
        layout = self._layout
        if layout is not None and any(_length(each) == layout.dimensions for each in embeddings):
            return layout
        # One odd row, perhaps the first, must not decide for all.
        lengths = Counter(len(each) for each in embeddings if not vectors.problem_of(each))
        usual = lengths.most_common(1)[0][0] if lengths else 0
        if layout is None:
            async with self._connection() as connection:
                layout = await self._found_or_created(connection, usual)
        if layout.kind == "stock":
            msg = f"{self._collection!r} in {label} is a collection of LangChain's PGVector, which Sluice only reads."
            raise DatabaseError(msg, hint="Choose another collection_name to write to.")
        if lengths and layout.dimensions not in lengths:
            raise failures.dimension_mismatch(label, self._collection, expected=layout.dimensions or 0, given=usual)
        if layout.relation:
            self._layout = layout
        return layout

    async def _found_or_created(self, connection: AsyncConnection[tuple[Any, ...]], dimensions: int) -> Layout:
        try:
            layout = await self._find(connection)
        except failures.MissingExtension:
            layout = None
        if layout is None and not dimensions:
            return Layout("own", "", "vector", 1, "")  # nothing fits any table, so none is created
        if layout is None:
            language = self._language or DEFAULT_LANGUAGE
            await ddl.create(connection, self._schema, self._collection, dimensions, self._local(), language)
            layouts.forget(self._key)
            layout = await self._find(connection)
            if layout is not None and self._pool.limit == 1:
                await self._build(connection, layout)
        if layout is None or (layout.kind == "own" and layout.dimensions is None):
            raise failures.missing_collection(self._pool.label, self._collection)
        return layout

    async def _find(self, connection: AsyncConnection[tuple[Any, ...]]) -> Layout | None:
        return await find_layout(
            connection,
            target=self._pool.label,
            schema=self._schema,
            collection=self._collection,
            language=self._language,
        )


def _length(embedding: Any) -> int:
    return len(embedding) if hasattr(embedding, "__len__") else 0


def check_arguments(on_conflict: Any, batch_size: Any) -> None:
    """Refuses what ``CollectionWriter.write`` cannot do, before any work starts.

    Raises:
        InvalidInput: Names the argument.
    """
    if on_conflict not in get_args(OnConflict):
        choices = ", ".join(get_args(OnConflict))
        raise InvalidInput.of("on_conflict", on_conflict, "there is no such choice", fix=f"Choose one of {choices}.")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not 1 <= batch_size <= MAX_BATCH:
        problem = f"it is not a whole number from 1 to {MAX_BATCH}"
        raise InvalidInput.of("batch_size", batch_size, problem, fix="Set it to 500.")


_VALID_INDEX = """
SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND i.indisvalid
"""
