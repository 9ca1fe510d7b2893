"""From texts to rows: embedded and written part by part, so that what is done stays done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from langflow_sluice.postgres.documents import DocumentRow, RowFailure, WriteReport
from langflow_sluice.postgres.engines import engine_for
from langflow_sluice.postgres.writer import CollectionWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_core.embeddings import Embeddings

    from langflow_sluice.nodes.database_inputs import Database
    from langflow_sluice.postgres.writer import OnConflict

# Texts embedded before they are written: a failure half-way through a large ingestion loses at most this many
# embeddings, and no more than this many vectors are held in memory.
PART = 1000


async def ingest(
    database: Database,
    collection: str,
    embedding: Embeddings,
    texts: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    on_conflict: OnConflict,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> WriteReport:
    """Embeds texts and writes them to a collection.

    Args:
        database: Address, pool and guard.
        collection: The collection's name.
        embedding: Embeds the texts.
        texts: Content and metadata of each.
        on_conflict: What to do with a text that is there already.
        batch_size: Rows a transaction.
        progress: Called with the number of texts done and of all.

    Returns:
        What became of all of them; indexes of failed rows count from the first text.

    Raises:
        SluiceError: Nothing more can be done; what was written so far stays, and the same texts can be given again.
    """
    started = time.perf_counter()
    written = skipped = 0
    failed: list[RowFailure] = []
    for start in range(0, len(texts), PART):
        part = texts[start : start + PART]
        vectors = await embedding.aembed_documents([content for content, _ in part])
        rows = [
            DocumentRow(content, metadata, vector) for (content, metadata), vector in zip(part, vectors, strict=True)
        ]
        async with database.guard.slot(priority=database.priority):
            writer = CollectionWriter(engine_for(database.url, database.settings), collection)
            last = start + PART >= len(texts)
            report = await writer.write(rows, on_conflict=on_conflict, batch_size=batch_size, build_index=last)
        written += report.written
        skipped += report.skipped
        failed += [RowFailure(start + failure.index, failure.reason) for failure in report.failed]
        progress(start + len(part), len(texts))
    return WriteReport(written, skipped, tuple(failed), time.perf_counter() - started)
