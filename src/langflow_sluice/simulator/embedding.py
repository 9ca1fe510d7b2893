"""Embeddings without a model: a hashed bag of words.

Each word is hashed into one of the buckets with a sign (the hashing trick of Weinberger et al., 2009), repeated words
count by 1 + log(n), and the vector gets unit length. Texts that share words are therefore near by cosine, the same
text always gives the same vector on every machine, and no table has to be downloaded.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from functools import lru_cache

from langflow_sluice.simulator.words import words


@lru_cache(maxsize=65_536)
def _hash(word: str) -> int:
    # blake2, not hash(): Python's own differs from process to process.
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def embed(text: str, dimensions: int) -> list[float]:
    """Embeds one text.

    Args:
        text: The text; not empty.
        dimensions: Number of buckets, that is the length of the vector.

    Returns:
        A vector of unit length.
    """
    vector = [0.0] * dimensions
    counts = Counter(words(text))
    for word, count in counts.items():
        hashed = _hash(word)
        sign = 1.0 if hashed & 1 else -1.0
        vector[(hashed >> 1) % dimensions] += sign * (1.0 + math.log(count))
    norm = math.sqrt(sum(value * value for value in vector))
    if norm == 0.0:
        # Two words met in one bucket with opposite signs and nothing else is left: cosine needs a direction.
        vector[_hash(text) % dimensions] = norm = 1.0
    return [value / norm for value in vector]
