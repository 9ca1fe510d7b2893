"""How often a time fell into which range, since the start."""

from __future__ import annotations

from bisect import bisect_left

# From a queue that is hardly one to calls that last minutes; a factor of about 2.5 between neighbours.
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 300.0)


class Histogram:
    """Counts of times by upper bound, as Prometheus wants them; one thread adds at a time, any thread reads.

    Attributes:
        counts: How many were at most the bound at the same place of ``BOUNDS_S`` and above the one before; the last
            place is for those above all bounds.
        sum_s: All of them together, in seconds.
    """

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Notes one time."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds
