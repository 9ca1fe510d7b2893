"""The circuit breaker: leaves a service alone that has failed, and asks it now and then."""

from __future__ import annotations

import enum
import math
from collections import deque

# Of the last WINDOW answers, at least MIN_CALLS, this share must be failures of the service.
WINDOW = 20
MIN_CALLS = 5
FAILURE_SHARE = 0.5
# Seconds from opening to the first probe; doubled with each probe that fails.
OPEN_S = 5.0
MAX_OPEN_S = 60.0


class BreakerState(enum.Enum):
    """Closed lets calls pass, open none, half-open one probe at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens on failures of the service; never on refusals of a single request. Not thread-safe.

    A count-based sliding window, as in resilience4j: it opens when half of the last twenty answers, of at least five,
    were the service's own failures. While it is open nobody is admitted. After a time, one caller at a time is
    admitted as a probe: its success closes the breaker, its failure opens it for twice as long, up to a minute (M.
    Nygard, Release It!, 2nd edition 2018, "Circuit Breaker").

    Attributes:
        state: Where it stands.
        opened: How often it has opened.
        longest_s: Seconds from opening to a probe at most; a minute, unless the service is one that can be asked more
            often.
    """

    __slots__ = ("_answers", "_open_s", "_probe_at", "_probing", "longest_s", "opened", "state")

    def __init__(self) -> None:
        self._answers: deque[bool] = deque(maxlen=WINDOW)
        self._open_s = OPEN_S
        self._probe_at = -math.inf
        self._probing = False
        self.state = BreakerState.CLOSED
        self.opened = 0
        self.longest_s = MAX_OPEN_S

    def begin_open(self, probe_at: float, opened: int) -> None:
        """Begins where another breaker stands that has found the service failing.

        Args:
            probe_at: The time from which that one would have let a probe pass.
            opened: How often it has opened.
        """
        self.state = BreakerState.OPEN
        self.opened = opened
        self._probe_at = probe_at

    def opens_at(self) -> float | None:
        """The time from which a caller can be admitted; None where that is now."""
        if self.state is BreakerState.CLOSED:
            return None
        return math.inf if self._probing else self._probe_at

    def admit(self, now: float) -> bool:
        """Notes that a caller is admitted at ``now``, which ``opens_at`` has allowed.

        Returns:
            Whether the caller is a probe.
        """
        if self.state is BreakerState.CLOSED or now < self._probe_at:
            return False
        self.state = BreakerState.HALF_OPEN
        self._probing = True
        return True

    def succeeded(self, *, probe: bool) -> None:
        """Notes an answer of the service, whatever it said about the request."""
        self._answers.append(False)
        if probe and self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.CLOSED
            self._probing = False
            self._open_s = OPEN_S
            self._answers.clear()

    def failed(self, now: float, *, probe: bool) -> None:
        """Notes a failure of the service."""
        if probe and self.state is BreakerState.HALF_OPEN:
            self._probing = False
            self._open_s = min(MAX_OPEN_S, 2 * self._open_s)
            self._open(now)
            return
        self._answers.append(True)
        enough = len(self._answers) >= MIN_CALLS
        if self.state is BreakerState.CLOSED and enough and sum(self._answers) >= FAILURE_SHARE * len(self._answers):
            self._open(now)

    def unknown(self, *, probe: bool) -> None:
        """Notes that a probe ended without telling anything: it was cancelled. The next caller probes instead."""
        if probe:
            self._probing = False

    def _open(self, now: float) -> None:
        self.state = BreakerState.OPEN
        self.opened += 1
        self._probe_at = now + min(self._open_s, self.longest_s)
        self._answers.clear()
