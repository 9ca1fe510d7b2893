"""Writing a collection: idempotent, in batches, and with an account of every row."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, get_args

import psycopg

from langflow_sluice.errors import DatabaseError, InvalidInput
from langflow_sluice.postgres import engines, failures, vectors
from langflow_sluice.postgres import schema as ddl
from langflow_sluice.postgres.documents import DocumentRow, PreparedRow, RowFailure, WriteReport, prepare
from langflow_sluice.postgres.layout import Layout, checked_name, find_layout, layouts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg import AsyncConnection
    from sqlalchemy.ext.asyncio import AsyncEngine

OnConflict = Literal["skip", "update", "error"]
MAX_BATCH = 10_000
# A row's own fault: bad data, a violated constraint, a limit of the program. Classes of SQLSTATE.
_ROWS_FAULT = ("22", "23", "54")
_SHOWN = 5


class CollectionWriter:
    """Writes one collection in our own layout: one table, typed columns.

    The first write creates what is missing (the extension if the role may, the table and its indexes) under a lock, so
    that first writes at the same time do not collide. Identity of a row is the hash of its content and metadata:
    writing the same again, for instance after an interruption, stores nothing twice.

    Args:
        engine: From ``engine_for``, on the running loop; one connection is used for the whole of a write.
        collection: Name of the collection, which is the table's name; any characters, it is always quoted.
        schema: Schema the table lies in; it must exist.

    Raises:
        InvalidInput: PostgreSQL cannot store such a name.
    """

    def __init__(self, engine: AsyncEngine, collection: str, *, schema: str = "public") -> None:
        self._engine = engine
        self._pool = engines.pool_of(engine)
        self._collection = checked_name("collection_name", collection)
        self._schema = checked_name("schema", schema)
        self._key = (self._pool.fingerprint, schema, collection)
        settings = self._pool.settings
        self._local = engines.local_settings(settings).encode() if settings.pgbouncer else b""

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
        _check(on_conflict, batch_size)
        started = time.perf_counter()
        try:
            async with engines.connection(self._engine) as connection:
                run = _Run(connection, on_conflict, batch_size, progress, self._local)
                layout = await self._prepared_layout(connection, rows)
                if layout is not None:
                    await run.store(rows, layout, f"{self._collection!r} in {self._pool.label}")
                    if build_index:
                        await ddl.ensure_hnsw(
                            connection, layout, self._schema, self._collection, pgbouncer=self._pool.settings.pgbouncer
                        )
        except psycopg.Error as exc:
            raise failures.translate(exc, target=self._pool.label) from None
        failed = tuple(sorted(run.failed, key=lambda failure: failure.index))
        return WriteReport(run.written, run.skipped, failed, time.perf_counter() - started)

    async def _prepared_layout(
        self, connection: AsyncConnection[tuple[Any, ...]], rows: Sequence[DocumentRow]
    ) -> Layout | None:
        """The layout of our table, created if need be; ``None`` if there are no rows to tell what it must hold."""
        if not rows:
            return None
        # One odd row, perhaps the first, must not decide for all.
        lengths = Counter(len(row.embedding) for row in rows if not vectors.problem_of(row.embedding))
        usual = lengths.most_common(1)[0][0] if lengths else 0
        label = self._pool.label
        try:
            layout = await self._find(connection)
        except failures.MissingExtension:
            layout = None
        if layout is None and not usual:
            return Layout("own", "", "vector", 1, "")  # nothing fits any table, so none is created
        if layout is None:
            await ddl.create(connection, self._schema, self._collection, usual, self._local)
            layouts.forget(self._key)
            layout = await self._find(connection)
        if layout is None or layout.dimensions is None:
            raise failures.missing_collection(label, self._collection)
        if layout.kind == "stock":
            msg = f"{self._collection!r} in {label} is a collection of LangChain's PGVector, which Sluice only reads."
            raise DatabaseError(msg, hint="Choose another collection_name to write to.")
        if lengths and layout.dimensions not in lengths:
            raise failures.dimension_mismatch(label, self._collection, expected=layout.dimensions, given=usual)
        return layout

    async def _find(self, connection: AsyncConnection[tuple[Any, ...]]) -> Layout | None:
        return await find_layout(connection, target=self._pool.label, schema=self._schema, collection=self._collection)


class _Run:
    """One call of ``write``: its connection, and what it has counted."""

    def __init__(
        self,
        connection: AsyncConnection[tuple[Any, ...]],
        on_conflict: OnConflict,
        batch_size: int,
        progress: Callable[[int, int], None] | None,
        local_settings: bytes,
    ) -> None:
        self.connection = connection
        self.on_conflict = on_conflict
        self.batch_size = batch_size
        self.progress = progress
        self.local_settings = local_settings
        self.written = 0
        self.skipped = 0
        self.failed: list[RowFailure] = []

    async def store(self, rows: Sequence[DocumentRow], layout: Layout, where: str) -> None:
        if self.on_conflict != "error":
            await self._batches(rows, layout, where)
            return
        async with self.connection.transaction():
            await self._batches(rows, layout, where)

    async def _batches(self, rows: Sequence[DocumentRow], layout: Layout, where: str) -> None:
        for start in range(0, len(rows), self.batch_size):
            batch: dict[bytes, PreparedRow] = {}
            for index, row in enumerate(rows[start : start + self.batch_size], start):
                prepared = prepare(index, row, dimensions=layout.dimensions or 0, column_type=layout.column_type)
                if isinstance(prepared, RowFailure):
                    self.failed.append(prepared)
                    continue
                if prepared.content_hash in batch:
                    if self.on_conflict == "error":
                        raise _conflict(where, [index])
                    self.skipped += 1
                batch[prepared.content_hash] = prepared  # of two with the same identity the later counts
            if batch:
                await self._split_until_stored(list(batch.values()), layout, where)
            if self.progress is not None:
                self.progress(min(start + self.batch_size, len(rows)), len(rows))

    async def _split_until_stored(self, batch: list[PreparedRow], layout: Layout, where: str) -> None:
        """Stores a batch; if one of its rows is at fault, halves it until that row stands alone."""
        try:
            await self._store_batch(batch, layout, where)
        except psycopg.Error as exc:
            if not (exc.sqlstate or "").startswith(_ROWS_FAULT):
                raise
            if len(batch) == 1:
                self.failed.append(RowFailure(batch[0].index, _reason(exc)))
                return
        else:
            return
        middle = len(batch) // 2
        await self._split_until_stored(batch[:middle], layout, where)
        await self._split_until_stored(batch[middle:], layout, where)

    async def _store_batch(self, batch: list[PreparedRow], layout: Layout, where: str) -> None:
        connection = self.connection
        async with connection.transaction():
            if self.local_settings:
                await connection.execute(self.local_settings)
            await connection.execute(ddl.incoming_table(layout), ())
            async with connection.cursor() as cursor:
                async with cursor.copy(ddl.COPY_INCOMING) as copy:
                    for row in batch:
                        await copy.write_row((row.content_hash, row.content, row.metadata, row.embedding))
                if self.on_conflict == "error":
                    await cursor.execute(ddl.existing(layout), ())
                    known = {bytes(found[0]) for found in await cursor.fetchall()}
                    if known:
                        raise _conflict(where, [row.index for row in batch if row.content_hash in known])
                await cursor.execute(ddl.take_over(layout, update=self.on_conflict == "update"), ())
                written = cursor.rowcount
            await connection.execute(ddl.DROP_INCOMING)
        self.written += written
        self.skipped += len(batch) - written


def _check(on_conflict: Any, batch_size: Any) -> None:
    if on_conflict not in get_args(OnConflict):
        choices = ", ".join(get_args(OnConflict))
        raise InvalidInput.of("on_conflict", on_conflict, "there is no such choice", fix=f"Choose one of {choices}.")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not 1 <= batch_size <= MAX_BATCH:
        problem = f"it is not a whole number from 1 to {MAX_BATCH}"
        raise InvalidInput.of("batch_size", batch_size, problem, fix="Set it to 500.")


def _conflict(where: str, indexes: list[int]) -> failures.Conflict:
    shown = ", ".join(map(str, indexes[:_SHOWN])) + (", ..." if len(indexes) > _SHOWN else "")
    return failures.Conflict(
        f"Rows to be written exist already in {where}: number {shown} (from 0). Nothing was written.",
        hint="Set on_conflict to skip or update to write the others.",
    )


def _reason(exc: psycopg.Error) -> str:
    # Of a violated constraint the primary message names the constraint; of bad data it quotes the value after a colon.
    text = (exc.diag.message_primary or type(exc).__name__).split(": ")[0]
    return f"PostgreSQL refused it ({exc.sqlstate}): {text}."
