"""What searches found, kept for a while, and found once for all who ask the same at the same time."""

from __future__ import annotations

import hashlib
import pickle
from array import array
from typing import TYPE_CHECKING, Any

from langflow_sluice.cache import Packing
from langflow_sluice.single_flight import SingleFlightCache

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

MAX_RESULTS = 10_000
MAX_BYTES = 64 * 2**20

ResultCache = SingleFlightCache[list[Any], bytes]

# Hits hold dictionaries, which callers may change; they are our own values, so unpickling them is safe.
_PACKING: Packing[list[Any], bytes] = Packing(
    lambda hits: pickle.dumps(hits, pickle.HIGHEST_PROTOCOL),
    pickle.loads,
    len,
)
_cache: ResultCache = SingleFlightCache(_PACKING, max_entries=MAX_RESULTS, max_bytes=MAX_BYTES)


def result_cache() -> ResultCache:
    """The cache of this process; a forked child's is empty."""
    return _cache


def namespace_of(database: str, schema: str, collection: str) -> Hashable:
    """What a write to a collection invalidates.

    Args:
        database: Fingerprint of the database's address and credential: rows may be shown to one user and not another.
        schema: Schema of the collection's table.
        collection: Its name.
    """
    return database, schema, collection


def key_of(question: str, vector: Sequence[float] | None) -> bytes:
    """Tells a question apart without keeping it."""
    digest = hashlib.blake2b(question.encode("utf-8", "surrogatepass"), digest_size=16)
    if vector is not None:
        digest.update(b"\0" + array("d", vector).tobytes())
    return digest.digest()
