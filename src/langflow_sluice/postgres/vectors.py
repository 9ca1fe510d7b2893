"""Embeddings on their way to PostgreSQL: checked, and in pgvector's binary form."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

from psycopg.adapt import Dumper
from psycopg.pq import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import AsyncConnection

# pgvector: an HNSW index takes this many dimensions of a vector, and twice as many of a halfvec.
MAX_VECTOR_DIMENSIONS = 2000
MAX_HALFVEC_DIMENSIONS = 4000
_LARGEST_HALF = 65504.0


class EncodedVector:
    """A vector in the form that ``vector_recv`` or ``halfvec_recv`` of pgvector read.

    Four bytes of header (dimensions, zero), then one number a dimension, big-endian. Sending it costs a fifth of
    formatting and parsing text. Its dumper declares no type, so that a cast in the statement decides, and no look-up
    of pgvector's type numbers is needed on each connection.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class _EncodedVectorDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: EncodedVector) -> bytes:
        return obj.data


def register(connection: AsyncConnection[Any]) -> None:
    """Lets a connection send ``EncodedVector``; needs no round trip."""
    connection.adapters.register_dumper(EncodedVector, _EncodedVectorDumper)


def column_type(dimensions: int) -> str:
    """Which of pgvector's types a new collection uses for its embeddings: ``vector`` or ``halfvec``."""
    return "vector" if dimensions <= MAX_VECTOR_DIMENSIONS else "halfvec"


def problem_of(embedding: Any) -> str:
    """What keeps a value from being searched by cosine distance, as the rest of a sentence; empty if nothing does."""
    if isinstance(embedding, (str, bytes)) or not hasattr(embedding, "__len__") or not hasattr(embedding, "__iter__"):
        return "is not a list of numbers"
    if not 1 <= len(embedding) <= MAX_HALFVEC_DIMENSIONS:
        return f"has {len(embedding)} dimensions instead of 1 to {MAX_HALFVEC_DIMENSIONS}"
    try:
        # One sum instead of a look at each: what is not finite makes it so, too.
        finite = math.isfinite(sum(embedding))
    except (TypeError, ValueError, OverflowError):
        return "holds something that is not a number"
    if not finite:
        return "holds a number that is not finite"
    if not any(embedding):
        return "is all zeros, which has no direction"
    return ""


def encode(embedding: Sequence[float], kind: str) -> EncodedVector:
    """Puts a vector without problems into binary form.

    Args:
        embedding: Numbers, checked by ``problem_of``.
        kind: ``vector`` (32 bits each) or ``halfvec`` (16 bits each).

    Raises:
        OverflowError: A number is too large for the type.
    """
    size = len(embedding)
    try:
        return EncodedVector(struct.pack(f">HH{size}{'f' if kind == 'vector' else 'e'}", size, 0, *embedding))
    except struct.error as exc:
        raise OverflowError(str(exc)) from None
