"""From texts to rows: embedded and written part by part, so that what is done stays done."""

from __future__ import annotations

import asyncio
import copy
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from langflow_sluice.errors import (
    CircuitOpen,
    DeadlineExceeded,
    InvalidInput,
    SluiceError,
    UpstreamError,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from langflow_sluice.failures import diagnose_http
from langflow_sluice.guard.retry import sleep
from langflow_sluice.postgres.batches import conflict
from langflow_sluice.postgres.documents import DocumentRow, PreparedRow, RowFailure, prepare
from langflow_sluice.postgres.engines import engine_for
from langflow_sluice.postgres.failures import DatabaseUnavailable
from langflow_sluice.postgres.guarding import guarded
from langflow_sluice.postgres.writer import CollectionWriter, check_arguments
from langflow_sluice.side_by_side import side_by_side

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from langchain_core.embeddings import Embeddings

    from langflow_sluice.nodes.database_inputs import Database
    from langflow_sluice.postgres.batches import OnConflict

T = TypeVar("T")

# Texts embedded before they are written: a failure half-way through a large ingestion loses at most twice as many
# embeddings (one part is written while the next is embedded), and no more vectors are held in memory.
PART = 1000
# Rows hashed at a stretch; then other tasks of the loop have their turn.
_ROWS_A_TURN = 50
# What a provider answers when it refuses the texts themselves: too long, empty, not allowed.
_OF_THE_TEXTS = frozenset({400, 413, 422})
# So many texts refused, each by itself, before any was accepted: it is not the texts.
_HOPELESS = 3
# Failures of the provider that may be over by the next part; two parts in a row, and they are not.
_PASSING = (UpstreamThrottled, UpstreamUnavailable, UpstreamTimeout, DeadlineExceeded)
# Seconds before a batch is written again that met a database that is away; a restart takes less than all of them.
_PAUSES_S = (0.1, 0.4, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """How far an ingestion has come.

    Attributes:
        done: Texts dealt with, whatever became of them.
        total: All texts.
        written: Rows that are new or were changed.
        skipped: Texts that were there already, or stand twice in what was given.
        failed: Texts that cannot be stored.
        seconds: Since the start.
    """

    done: int
    total: int
    written: int
    skipped: int
    failed: int
    seconds: float

    def __str__(self) -> str:
        parts = [f"{self.done} of {self.total} texts: {self.written} written, {self.skipped} there already"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        rate = self.done / self.seconds if self.seconds > 0 else 0.0
        if rate:
            parts.append(f"{rate:.3g} texts/s")
        if rate and self.done < self.total:
            parts.append(f"about {(self.total - self.done) / rate:.0f} s left")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of all texts; ``written + skipped + len(failed)`` is their number.

    Attributes:
        written: Rows that are new, or whose embedding was updated.
        skipped: Texts that were there already, or stand twice in what was given.
        failed: Texts that were not stored, in the order given.
        seconds: How long it took, the index included.
        warning: Why searches are slower than they could be: there is no index. Empty if there is one.
    """

    written: int
    skipped: int
    failed: tuple[RowFailure, ...]
    seconds: float
    warning: str = ""


async def ingest(
    database: Database,
    collection: str,
    embedding: Embeddings,
    texts: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    on_conflict: OnConflict,
    batch_size: int,
    progress: Callable[[IngestProgress], None],
    language: str = "",
) -> IngestReport:
    """Embeds texts and writes them to a collection, part by part.

    Texts that are stored already are not embedded again (unless ``on_conflict`` is ``update``, which is about their
    embeddings), so an ingestion that was interrupted goes on where it was if it is given the same texts. A text that
    cannot be stored, or that the provider refuses, fails by itself; a provider that fails for a whole part fails that
    part, and ends the ingestion if it fails for the next one too. A database that restarts is waited for.

    With ``on_conflict="error"`` all texts are looked up before any is embedded.

    Args:
        database: Address, pool and guard.
        collection: The collection's name.
        embedding: Embeds the texts.
        texts: Content and metadata of each.
        on_conflict: What to do with a text that is there already.
        batch_size: Rows a transaction.
        progress: Called on the loop after each part.
        language: Text search configuration of a collection that has to be created; empty for English.

    Returns:
        What became of all of them; indexes of failed texts count from the first one, which is 0.

    Raises:
        SluiceError: Nothing more can be done; says how many rows were written before. They stay, and the same texts can
            be given again.
    """
    check_arguments(on_conflict, batch_size)
    engine = engine_for(database.url, database.settings)
    writer = CollectionWriter(engine, collection, language=language, admission=lambda: guarded(database))
    return await _Ingestion(database, writer, embedding, texts, on_conflict, batch_size, progress).run()


def in_ranges(failed: Sequence[RowFailure]) -> list[str]:
    """Failures as lines, those of neighbours for the same reason in one: ``rows 3-17: ...``."""
    lines = []
    numbered = enumerate(failed)
    for (_, reason), group in itertools.groupby(numbered, key=lambda each: (each[1].index - each[0], each[1].reason)):
        indexes = [failure.index for _, failure in group]
        which = f"row {indexes[0]}" if len(indexes) == 1 else f"rows {indexes[0]}-{indexes[-1]}"
        lines.append(f"{which}: {reason}")
    return lines


@dataclass(slots=True)
class _Part:
    """Texts up to ``end``, looked up and embedded, and what became of those that are not among ``rows``."""

    end: int
    rows: list[PreparedRow] = field(default_factory=list)
    skipped: int = 0
    failed: list[RowFailure] = field(default_factory=list)


class _Ingestion:
    """One call of ``ingest`` and what it has counted."""

    def __init__(
        self,
        database: Database,
        writer: CollectionWriter,
        embedding: Embeddings,
        texts: Sequence[tuple[str, Mapping[str, Any]]],
        on_conflict: OnConflict,
        batch_size: int,
        progress: Callable[[IngestProgress], None],
    ) -> None:
        self._database = database
        self._writer = writer
        self._embedding = embedding
        self._texts = texts
        self._on_conflict = on_conflict
        self._batch_size = batch_size
        self._progress = progress
        self._started = time.perf_counter()
        self._written = 0
        self._skipped = 0
        self._failed: list[RowFailure] = []
        self._accepted = 0
        self._refused = 0
        self._broken_parts = 0
        # Rows of the part before, which may not be stored yet.
        self._on_their_way: set[bytes] = set()

    async def run(self) -> IngestReport:
        total = len(self._texts)
        try:
            if self._on_conflict == "error":
                await self._refuse_what_exists()
            elif self._on_conflict == "update" and total:
                # What is wrong with the database or the collection shows before anything is embedded.
                await self._patiently(lambda: self._writer.stored(()))
            await self._all_parts()
        except SluiceError as error:
            raise self._with_account(error) from None
        warning = await self._index() if total else ""
        failed = tuple(sorted(self._failed, key=lambda failure: failure.index))
        return IngestReport(self._written, self._skipped, failed, time.perf_counter() - self._started, warning)

    async def _all_parts(self) -> None:
        """Writes part after part; while one is written, the next is looked up and embedded."""
        starts = range(0, len(self._texts), PART)
        ahead: asyncio.Task[_Part] | None = None
        try:
            for start in starts:
                part = await (ahead or self._embedded_part(start))
                ahead = asyncio.ensure_future(self._embedded_part(part.end)) if part.end < len(self._texts) else None
                self._skipped += part.skipped
                self._failed += part.failed
                await self._store(part.rows)
                self._tell(part.end)
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    def _tell(self, done: int) -> None:
        seconds = time.perf_counter() - self._started
        failed = len(self._failed)
        self._progress(IngestProgress(done, len(self._texts), self._written, self._skipped, failed, seconds))

    def _with_account(self, error: SluiceError) -> SluiceError:
        if not self._written and not self._skipped:
            return error
        # A copy, since the error may have been raised to others too.
        told = copy.copy(error)
        told.message += (
            f" Before that, {self._written} of {len(self._texts)} texts were written and {self._skipped} were there"
            " already; that stays."
        )
        again = "Give the same texts again to go on: those that are stored are not embedded a second time."
        told.hint = (
            f"{told.hint} {again}" if self._on_conflict == "skip" else f"{told.hint} {again} (on_conflict: skip)"
        )
        return told

    async def _refuse_what_exists(self) -> None:
        """Finds conflicts before anything is embedded, so that nothing is written, or paid for, in vain."""
        seen: set[bytes] = set()
        for start in range(0, len(self._texts), PART):
            rows = [row async for row in self._identified(start, start + PART) if isinstance(row, PreparedRow)]
            known = await self._patiently(lambda rows=rows: self._writer.stored([row.content_hash for row in rows]))  # type: ignore[misc]
            clashing = []
            for row in rows:
                if row.content_hash in known or row.content_hash in seen:
                    clashing.append(row.index)
                seen.add(row.content_hash)
            if clashing:
                where = "the collection, or twice in what was given"
                raise conflict(where, clashing)

    async def _identified(self, start: int, end: int) -> AsyncIterator[PreparedRow | RowFailure]:
        """Rows with their identity, for which any vector will do."""
        for index, (content, metadata) in enumerate(self._texts[start:end], start):
            if not index % _ROWS_A_TURN:
                await asyncio.sleep(0)
            yield prepare(index, DocumentRow(content, metadata, (1.0,)), dimensions=1, column_type="vector")

    async def _embedded_part(self, start: int) -> _Part:
        part = _Part(min(start + PART, len(self._texts)))
        wanted: dict[bytes, PreparedRow] = {}
        async for row in self._identified(start, part.end):
            if isinstance(row, RowFailure):
                part.failed.append(row)
            elif row.content_hash in wanted or row.content_hash in self._on_their_way:
                part.skipped += 1
            else:
                wanted[row.content_hash] = row
        self._on_their_way = set()
        if self._on_conflict == "skip" and wanted:
            known = await self._patiently(lambda: self._writer.stored(wanted.keys()))
            part.skipped += len(known)
            wanted = {identity: row for identity, row in wanted.items() if identity not in known}
        rows = list(wanted.values())
        try:
            vectors = await self._embedded(rows, part) if rows else []
        except _PASSING as error:
            self._broken_parts += 1
            if self._broken_parts > 1:
                raise
            part.failed += [RowFailure(row.index, f"It was not embedded: {error.message}") for row in rows]
            return part
        self._broken_parts = 0
        pairs = [(row, vector) for row, vector in zip(rows, vectors, strict=True) if vector is not None]
        rows, embeddings = [row for row, _ in pairs], [vector for _, vector in pairs]
        for row in await self._patiently(lambda: self._writer.encode(rows, embeddings)) if rows else []:
            (part.failed if isinstance(row, RowFailure) else part.rows).append(row)  # type: ignore[arg-type]
        self._on_their_way = {row.content_hash for row in part.rows}
        return part

    async def _store(self, rows: list[PreparedRow]) -> None:
        batches = [rows[first : first + self._batch_size] for first in range(0, len(rows), self._batch_size)]
        while batches:
            lanes = self._writer.lanes if self._on_conflict != "error" else 1
            now, batches = batches[:lanes], batches[lanes:]
            await side_by_side([self._write(batch) for batch in now])

    async def _write(self, batch: list[PreparedRow]) -> None:
        report = await self._patiently(lambda: self._writer.write_batch(batch, on_conflict=self._on_conflict))
        self._written += report.written
        self._skipped += report.skipped
        self._failed += report.failed

    async def _embedded(self, rows: Sequence[PreparedRow], part: _Part) -> list[Sequence[float] | None]:
        """Vectors of the texts; if the provider refuses them, halves them until the one at fault stands alone."""
        contents = [row.content for row in rows]
        try:
            vectors: list[Sequence[float] | None] = [*await self._embedding.aembed_documents(contents)]
        except Exception as exc:  # noqa: BLE001 - told apart below, by what the provider answered
            failure = None if isinstance(exc, SluiceError) else diagnose_http(exc, "The embedding model")
            error = exc if failure is None else failure.error
            if not _is_of_the_texts(exc):
                raise error from None
        else:
            if len(vectors) != len(contents):
                msg = f"The embedding model gave {len(vectors)} vectors for {len(contents)} texts."
                raise UpstreamError(msg, hint="Check the embedding model that is connected.")
            self._accepted += len(vectors)
            return vectors
        if len(rows) == 1:
            self._refused += 1
            if not self._accepted and self._refused >= min(_HOPELESS, len(self._texts)):
                raise error
            reason = error.message if isinstance(error, SluiceError) else type(error).__name__
            part.failed.append(RowFailure(rows[0].index, f"It was not embedded: {reason}"))
            return [None]
        middle = len(rows) // 2
        return [*await self._embedded(rows[:middle], part), *await self._embedded(rows[middle:], part)]

    async def _index(self) -> str:
        """Builds the index; the rows are safe by now, so what goes wrong is a warning."""
        try:
            if await self._patiently(self._writer.build_index):
                return ""
        except SluiceError as error:
            return f"The index could not be built, so searches are slow; the next write tries again. {error}"
        return (
            "The collection has no index, so searches are slow: this pool's one connection would be taken away from"
            " readers while it is built. Raise pool_size and write again."
        )

    async def _patiently(self, use: Callable[[], Awaitable[T]]) -> T:
        """Uses the database, again if it is away: all that is done here may be done twice."""
        for pause_s in _PAUSES_S:
            try:
                return await use()
            except DatabaseUnavailable:  # noqa: PERF203 - the loop is there for it
                await sleep(self._database.guard.clock, pause_s)
            except CircuitOpen as error:
                await sleep(self._database.guard.clock, max(pause_s, error.retry_in_s))
        return await use()


def _is_of_the_texts(error: Exception) -> bool:
    """Whether a provider, or its guard, refused the texts themselves, so that others may do."""
    status = getattr(error, "status", None) or getattr(error, "status_code", None)
    return status in _OF_THE_TEXTS or isinstance(error, InvalidInput)
