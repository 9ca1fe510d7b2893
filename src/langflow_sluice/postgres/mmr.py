"""Maximal marginal relevance: results that are near to the question, and not near to one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


def diverse(
    query: Sequence[float], candidates: Sequence[bytes], *, column_type: str, k: int, relevance: float
) -> list[int]:
    """Chooses among candidates, one after the other, by how near each is to the question and far from those chosen.

    Carbonell and Goldstein: The Use of MMR, Diversity-Based Reranking, SIGIR 1998. The next one is that with the
    largest ``relevance * similarity(query) - (1 - relevance) * (largest similarity to one that is chosen)``. Takes
    time in proportion to ``k * len(candidates) * dimensions``, of the calling thread.

    Args:
        query: The question's vector.
        candidates: Vectors as ``vector_send`` or ``halfvec_send`` of pgvector write them, the best first.
        column_type: Their type, ``vector`` or ``halfvec``.
        k: The most to choose.
        relevance: 1 looks at relevance only, 0 at diversity only.

    Returns:
        Places of the chosen among the candidates, in the order of choice.
    """
    import numpy as np

    count = min(k, len(candidates))
    if not count:
        return []
    number = ">f4" if column_type == "vector" else ">f2"
    rows = _directions(np.stack([np.frombuffer(each, number, offset=4) for each in candidates]))
    near_query = rows @ _directions(np.asarray(query))
    # The first is the most relevant one, whatever the weight.
    chosen = [int(np.argmax(near_query))]
    near_chosen = rows @ rows[chosen[0]]
    open_ = np.ones(len(rows), dtype=bool)
    while len(chosen) < count:
        open_[chosen[-1]] = False
        worth = np.where(open_, relevance * near_query - (1 - relevance) * near_chosen, -np.inf)
        chosen.append(int(np.argmax(worth)))
        near_chosen = np.maximum(near_chosen, rows @ rows[chosen[-1]])
    return chosen


def _directions(vectors: NDArray[np.generic]) -> NDArray[np.float64]:
    """Vectors of unit length; those without a direction stay zero."""
    import numpy as np

    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    directions: NDArray[np.float64] = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    return directions
