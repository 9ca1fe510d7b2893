"""Rows on their way into a collection: what a caller gives, what is stored, and what became of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langflow_sluice.postgres import vectors
from langflow_sluice.postgres.names import as_json, is_storable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langflow_sluice.postgres.vectors import EncodedVector


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One document to store.

    Attributes:
        content: Its text.
        metadata: What is known of it; anything that JSON can hold.
        embedding: Its vector.
    """

    content: str
    metadata: Mapping[str, Any]
    embedding: Sequence[float]


@dataclass(frozen=True, slots=True)
class RowFailure:
    """A row that was not stored.

    Attributes:
        index: Its place in what was given, from 0.
        reason: Why, as a sentence that does not quote the row.
    """

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What became of all rows; ``written + skipped + len(failed)`` is their number.

    Attributes:
        written: Rows that are new, or whose embedding was updated.
        skipped: Rows that were there already, or stand twice in what was given.
        failed: Rows that cannot be stored, in the order given.
        seconds: How long it took, indexes included.
    """

    written: int
    skipped: int
    failed: tuple[RowFailure, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """A row as it goes to the database.

    Attributes:
        index: Its place in what was given.
        content_hash: SHA-256 of content and metadata, which is its identity.
        content: Its text.
        metadata: Its metadata as JSON in one fixed form.
        embedding: Its vector in binary form.
    """

    index: int
    content_hash: bytes
    content: str
    metadata: str
    embedding: EncodedVector


def prepare(index: int, row: DocumentRow, *, dimensions: int, column_type: str) -> PreparedRow | RowFailure:
    """Checks a row for all that PostgreSQL would refuse, and encodes it.

    Args:
        index: Its place in what was given.
        row: The row.
        dimensions: Length of the collection's vectors.
        column_type: Their type, ``vector`` or ``halfvec``.
    """
    problem = _problem_of_content(row.content)
    if problem:
        return RowFailure(index, f"The content {problem}.")
    problem, metadata = as_json(row.metadata)
    if problem:
        return RowFailure(index, f"The metadata {problem}.")
    embedding = encoded(index, row.embedding, dimensions=dimensions, column_type=column_type)
    if isinstance(embedding, RowFailure):
        return embedding
    # The byte between cannot occur in the content, so no two rows have the same input.
    identity = hashlib.sha256(row.content.encode() + b"\0" + metadata.encode()).digest()
    return PreparedRow(index, identity, row.content, metadata, embedding)


def encoded(index: int, embedding: Sequence[float], *, dimensions: int, column_type: str) -> EncodedVector | RowFailure:
    """The part of ``prepare`` that is about the embedding."""
    problem = vectors.problem_of(embedding)
    if not problem and len(embedding) != dimensions:
        problem = f"has {len(embedding)} dimensions, those of the collection have {dimensions}"
    if problem:
        return RowFailure(index, f"The embedding {problem}.")
    try:
        return vectors.encode(embedding, column_type)
    except OverflowError:
        return RowFailure(index, f"The embedding holds a number too large for the type {column_type}.")


def _problem_of_content(content: Any) -> str:
    if not isinstance(content, str):
        return f"is of type {type(content).__name__}, not text"
    if "\0" in content:
        return "holds a NUL character, which PostgreSQL cannot store"
    return "" if is_storable(content) else "holds a lone surrogate, which is no character"
