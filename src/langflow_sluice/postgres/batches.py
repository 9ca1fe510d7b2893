"""A batch on its way into a collection: checked rows, the transaction that stores them, and the row at fault."""

from __future__ import annotations

import asyncio
import struct
import time
from typing import TYPE_CHECKING, Any, Literal

import psycopg

from langflow_sluice.postgres import failures
from langflow_sluice.postgres import schema as ddl
from langflow_sluice.postgres.documents import DocumentRow, PreparedRow, RowFailure, WriteReport, encoded, prepare

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from psycopg import AsyncConnection

    from langflow_sluice.postgres.layout import Layout

OnConflict = Literal["skip", "update", "error"]
# Rows put into binary form at a stretch; then other tasks of the loop have their turn.
ROWS_A_TURN = 32
# A row's own fault: bad data, a violated constraint, a limit of the program. Classes of SQLSTATE.
_ROWS_FAULT = ("22", "23", "54")
_SHOWN = 5
_COPY_START = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END = b"\xff\xff"
_FIELDS = struct.pack(">h", 4)
_LENGTH = struct.Struct(">i")


class Run:
    """One call of ``write``: how it treats rows that exist, and what it has counted."""

    def __init__(self, on_conflict: OnConflict, where: str) -> None:
        self.on_conflict = on_conflict
        self.where = where
        self.written = 0
        self.skipped = 0
        self.failed: list[RowFailure] = []

    async def prepared(self, rows: Iterable[PreparedRow | RowFailure]) -> list[PreparedRow]:
        """A batch of checked and encoded rows; without a connection, since it is the processor's work alone."""
        batch: dict[bytes, PreparedRow] = {}
        for count, row in enumerate(rows, 1):
            if not count % ROWS_A_TURN:
                await asyncio.sleep(0)
            if isinstance(row, RowFailure):
                self.failed.append(row)
                continue
            if row.content_hash in batch:
                if self.on_conflict == "error":
                    raise conflict(self.where, [row.index])
                self.skipped += 1
            batch[row.content_hash] = row  # of two with the same identity the later counts
        return list(batch.values())

    def report(self, started: float) -> WriteReport:
        """The account, of a run that began at ``started`` on the performance counter."""
        failed = tuple(sorted(self.failed, key=lambda failure: failure.index))
        return WriteReport(self.written, self.skipped, failed, time.perf_counter() - started)

    async def store(
        self, connection: AsyncConnection[tuple[Any, ...]], local: bytes, batch: list[PreparedRow], layout: Layout
    ) -> None:
        """Stores a batch; if one of its rows is at fault, halves it until that row stands alone."""
        try:
            await self._store_whole(connection, local, batch, layout)
        except psycopg.Error as exc:
            if not (exc.sqlstate or "").startswith(_ROWS_FAULT):
                raise
            if len(batch) == 1:
                self.failed.append(RowFailure(batch[0].index, _reason(exc)))
                return
        else:
            return
        middle = len(batch) // 2
        await self.store(connection, local, batch[:middle], layout)
        await self.store(connection, local, batch[middle:], layout)

    async def _store_whole(
        self, connection: AsyncConnection[tuple[Any, ...]], local: bytes, batch: list[PreparedRow], layout: Layout
    ) -> None:
        async with connection.transaction():
            if local:
                await connection.execute(local)
            await connection.execute(ddl.incoming_table(layout), ())
            async with connection.cursor() as cursor:
                async with cursor.copy(ddl.COPY_INCOMING) as copy:
                    await copy.write(_COPY_START)
                    for first in range(0, len(batch), ROWS_A_TURN):
                        await copy.write(_in_copy_format(batch[first : first + ROWS_A_TURN]))
                        await asyncio.sleep(0)
                    await copy.write(_COPY_END)
                if self.on_conflict == "error":
                    await cursor.execute(ddl.existing(layout), ())
                    known = {bytes(found[0]) for found in await cursor.fetchall()}
                    if known:
                        raise conflict(self.where, [row.index for row in batch if row.content_hash in known])
                await cursor.execute(ddl.take_over(layout, update=self.on_conflict == "update"), ())
                written = cursor.rowcount
            await connection.execute(ddl.DROP_INCOMING)
        self.written += written
        self.skipped += len(batch) - written


def prepared(index: int, row: DocumentRow, layout: Layout) -> PreparedRow | RowFailure:
    """A row in the form that the collection takes."""
    return prepare(index, row, dimensions=layout.dimensions or 0, column_type=layout.column_type)


def with_embedding(row: PreparedRow, embedding: Sequence[float], layout: Layout) -> PreparedRow | RowFailure:
    """A row that was prepared with another embedding, which told its identity, with the one that it is to have."""
    vector = encoded(row.index, embedding, dimensions=layout.dimensions or 0, column_type=layout.column_type)
    if isinstance(vector, RowFailure):
        return vector
    return PreparedRow(row.index, row.content_hash, row.content, row.metadata, vector)


def _in_copy_format(batch: Sequence[PreparedRow]) -> bytes:
    """The rows as ``COPY ... (FORMAT BINARY)`` reads them: a third of the time that a call for each row takes.

    https://www.postgresql.org/docs/18/sql-copy.html, "Binary Format".
    """
    parts: list[bytes] = []
    for row in batch:
        parts.append(_FIELDS)
        for value in (row.content_hash, row.content.encode(), row.metadata.encode(), row.embedding.data):
            parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)


def conflict(where: str, indexes: Sequence[int]) -> failures.Conflict:
    """Rows exist that must not."""
    shown = ", ".join(map(str, indexes[:_SHOWN])) + (", ..." if len(indexes) > _SHOWN else "")
    return failures.Conflict(
        f"Rows to be written exist already in {where}: number {shown} (from 0). Nothing was written.",
        hint="Set on_conflict to skip or update to write the others.",
    )


def _reason(exc: psycopg.Error) -> str:
    # Of a violated constraint the primary message names the constraint; of bad data it quotes the value after a colon.
    text = (exc.diag.message_primary or type(exc).__name__).split(": ")[0]
    return f"PostgreSQL refused it ({exc.sqlstate}): {text}."
