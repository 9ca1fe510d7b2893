"""Adaptive concurrency: finds out how much the service really takes."""

from __future__ import annotations

import math

START = 10
DECREASE = 0.8
# Seconds before a limit that has just failed is tried again.
PROBE_EVERY_S = 10.0


class AdaptiveLimit:
    """A concurrency limit that falls when the service is overloaded and climbs back. Not thread-safe.

    Additive increase, multiplicative decrease (Chiu and Jain, Analysis of the Increase and Decrease Algorithms for
    Congestion Avoidance in Computer Networks, 1989): after each round, a limit's worth of successes with at least half
    of the limit in use, the limit grows by one step; an overload takes a fifth off it. The steps are those of BIC (Xu,
    Harfoush, Rhee, Binary Increase Congestion Control, INFOCOM 2004): half of the way to a limit that has failed, and
    doubling from round to round where nothing is known to have failed. Three rules beside it:

    * A burst of refusals is one event. Requests that left before the limit fell say nothing about the limit after it:
      each permit carries the epoch of its grant, and only refusals of the present epoch count.
    * An overload right after a step goes back to the limit of the round before, which held, and not lower.
    * A limit that has just failed is not tried again before ``PROBE_EVERY_S``: the limit stays right below it, at the
      cost of one refusal for each probe. With a Retry-After of 1 s that is a tenth of the throughput; a longer time
      would lose more where the service's capacity rises.

    Args:
        ceiling: The cap set by people; the limit never exceeds it.

    Attributes:
        limit: Calls that may be in flight now, from 1 to the ceiling.
        epoch: Given to each permit on its grant.
    """

    __slots__ = ("_ceiling", "_failed_at", "_held", "_probe_at", "_step", "_successes", "epoch", "limit")

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._failed_at = math.inf
        self._probe_at = -math.inf
        self._held = 0
        self._step = 1
        self._successes = 0
        self.limit = min(START, ceiling)
        self.epoch = 0

    def change_ceiling(self, ceiling: int) -> None:
        """Puts another cap in force."""
        self._ceiling = ceiling
        self.limit = min(self.limit, ceiling)

    def succeeded(self, now: float, in_flight: int, epoch: int) -> None:
        """Notes an answer in time.

        Args:
            now: The time.
            in_flight: Calls in flight, this one included.
            epoch: Of the call's permit.
        """
        if epoch != self.epoch or 2 * in_flight < self.limit:
            return
        self._successes += 1
        if self._successes >= self.limit:
            self._successes = 0
            self._held = self.limit
            self._grow(now)

    def _grow(self, now: float) -> None:
        if self._failed_at == math.inf:
            self.limit = min(self.limit + self._step, self._ceiling)
            self._step *= 2
            return
        room = int(self._failed_at) - 1 - self.limit
        if room > 0:
            self.limit = min(self.limit + (room + 1) // 2, self._ceiling)
        elif now >= self._probe_at:
            self._failed_at = math.inf
            self._step = 1
            self._grow(now)

    def overloaded(self, now: float, epoch: int) -> bool:
        """Notes a refusal for too many requests, or a timeout.

        Returns:
            Whether it is the first of its burst.
        """
        if epoch != self.epoch:
            return False
        lowered = max(1, math.floor(self.limit * DECREASE))
        held = self._held if self._held < self.limit else 0
        self._failed_at = self.limit
        self._probe_at = now + PROBE_EVERY_S
        self.limit = max(lowered, held) if self.limit > 1 else 1
        self._held = 0
        self._step = 1
        self._successes = 0
        self.epoch += 1
        return True
