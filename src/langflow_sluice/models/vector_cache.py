"""Vectors of texts that were embedded before, kept for all nodes and flows of the process."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import sys
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, SecretBytes, SecretStr

from langflow_sluice.cache import Packing
from langflow_sluice.single_flight import SingleFlightCache

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from langchain_core.embeddings import Embeddings

# Vectors of 1536 dimensions take 6 KB each: 10,000 of them fit.
MAX_VECTORS = 20_000
MAX_BYTES = 64 * 2**20

VectorCache = SingleFlightCache[list[float], "array[float]"]


def _pack(vector: list[float]) -> array[float]:
    """Four bytes a number where that is exact, as it is for what most services send, else eight."""
    exact = array("d", vector)
    single = array("f", exact)
    return single if single.tolist() == exact.tolist() else exact


def vector_cache_of(*, max_vectors: int = MAX_VECTORS, max_bytes: int = MAX_BYTES, **options: Any) -> VectorCache:
    """A new cache of vectors; nodes use the one of ``vector_cache``.

    Args:
        max_vectors: Vectors kept at most.
        max_bytes: Their bytes added up, at most.
        **options: Passed on to ``SingleFlightCache``.
    """
    packing: Packing[list[float], array[float]] = Packing(_pack, array.tolist, sys.getsizeof)
    return SingleFlightCache(packing, max_entries=max_vectors, max_bytes=max_bytes, **options)


_cache = vector_cache_of()


def vector_cache() -> VectorCache:
    """The cache of this process; a forked child's is empty."""
    return _cache


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """The vectors that are interchangeable: of one model with one set of parameters, at one service.

    Attributes:
        identity: Equal for equal models, whichever node, flow or build they come from; holds no secret.
        ttl_s: Seconds for which a vector is taken from the cache; 0 for never.
        cache: Where they are kept.
    """

    identity: Hashable
    ttl_s: float
    cache: VectorCache = field(default_factory=vector_cache)


def key_of(text: str, purpose: Literal["query", "document"]) -> tuple[str, bytes]:
    """Tells a text apart without keeping it; models may embed a question otherwise than a document."""
    # With lone surrogates, which broken files bring along; the service may refuse them, the cache need not.
    return purpose, hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def identity_of(embeddings: Embeddings) -> Hashable:
    """What makes the vectors of any embeddings what they are: class and parameters, the credential included, hashed.

    Returns:
        The same for embeddings that were made alike; for those that cannot be compared (a class that some node's
        source defines, a parameter that is a function) something equal to nothing else, so that no vector of one model
        is ever taken for another's.
    """
    try:
        told = "\n".join(_parts(embeddings))
    except _NotComparableError:
        return object()
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class _NotComparableError(Exception):
    pass


_PLAIN = (type(None), bool, int, float, str, bytes)


def _parts(embeddings: object) -> Iterator[str]:
    yield _name(type(embeddings))
    if not hasattr(embeddings, "__dict__"):
        raise _NotComparableError
    extra = getattr(embeddings, "__pydantic_extra__", None) or {}
    private = getattr(embeddings, "__pydantic_private__", None) or {}
    for name, value in sorted({**vars(embeddings), **extra, **private}.items()):
        # A client tells how to send, and whereto: its address and key are parameters beside it.
        with contextlib.suppress(_NotComparableError) if "client" in name else contextlib.nullcontext():
            yield f"{name}={_told(value)}"


def _told(value: Any) -> str:  # noqa: PLR0911 - one line for each kind
    if type(value) in _PLAIN:
        return repr(value)
    if isinstance(value, (SecretStr, SecretBytes)):
        return repr(value.get_secret_value())
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{_told(key)}: {_told(each)}' for key, each in value.items()))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_told, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(_told, value)))}}}"
    if isinstance(value, type):
        return _name(value)
    if isinstance(value, enum.Enum):
        return f"{_name(type(value))}.{value.name}"
    if isinstance(value, BaseModel):
        return f"({', '.join(_parts(value))})"
    raise _NotComparableError


def _name(kind: type) -> str:
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is not kind:
        # Of a node's source, which is executed afresh for each build: another one may use the same name.
        raise _NotComparableError
    return f"{kind.__module__}.{kind.__qualname__}"
