"""What the simulated provider saw: counts, high-water marks and the latest requests one by one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def fingerprint(content: str | bytes) -> str:
    """Returns 16 hex digits that identify a content without telling it."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(data, digest_size=8).hexdigest()


@dataclass(frozen=True)
class Call:
    """One request as the provider saw it.

    Attributes:
        endpoint: ``chat`` (in whatever protocol), ``embeddings`` or ``models``.
        arrived_at: Seconds since the epoch at which its body was complete.
        duration_s: Seconds until its last byte was handed to the network, or until its client left.
        status: The HTTP status answered; 0 when there was none (connection reset, or client gone before).
        body: Fingerprint of the whole body.
        subject: Fingerprint of the last user message (chat) or of the first input (embeddings), so that a test that
            knows the text can count how often it was seen: ``fingerprint(text)``.
        left: Whether the client went away before the end.
    """

    endpoint: str
    arrived_at: float
    duration_s: float
    status: int
    body: str
    subject: str
    left: bool


@dataclass(frozen=True)
class ProviderStats:
    """A snapshot of the statistics since the start or the last reset.

    Attributes:
        requests: Requests received, by endpoint.
        answered: Answers begun, by status.
        in_flight: Requests that hold a slot now, by endpoint.
        max_in_flight: The most slots held at once, by endpoint; never above the capacity.
        connections_opened: TCP connections that brought an API request (those of the control interface do not count).
        connections_open: Those still open.
        max_connections_open: The most of them open at once.
        disconnects: Clients that left before their answer was complete.
        prompt_tokens: Tokens of the answered prompts, as reported in ``usage``.
        completion_tokens: Tokens of the answers, as reported in ``usage``.
        calls: The latest requests that have ended, oldest first.
        calls_forgotten: How many ended requests are no longer in ``calls``.
    """

    requests: Mapping[str, int] = field(default_factory=dict)
    answered: Mapping[int, int] = field(default_factory=dict)
    in_flight: Mapping[str, int] = field(default_factory=dict)
    max_in_flight: Mapping[str, int] = field(default_factory=dict)
    connections_opened: int = 0
    connections_open: int = 0
    max_connections_open: int = 0
    disconnects: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: tuple[Call, ...] = ()
    calls_forgotten: int = 0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ProviderStats:
        """Builds the snapshot from the answer of ``GET /_sim/stats``."""
        answered = {int(status): count for status, count in values["answered"].items()}
        calls = tuple(Call(**call) for call in values["calls"])
        return cls(**{**values, "answered": answered, "calls": calls})

    def to_json(self) -> dict[str, Any]:
        """Returns the snapshot as JSON values."""
        return dataclasses.asdict(self)

    def subjects(self, *, status: int | None = None) -> Counter[str]:
        """Counts the ended requests by subject.

        Args:
            status: Only those answered with this status.
        """
        return Counter(call.subject for call in self.calls if status is None or call.status == status)


class Recorder:
    """Collects the statistics; used on the server's loop only.

    Args:
        record_limit: How many ended requests are kept one by one.
    """

    def __init__(self, record_limit: int) -> None:
        self._record_limit = record_limit
        self._held: Counter[str] = Counter()
        self._connections_open = 0
        self.reset()

    def reset(self) -> None:
        """Starts counting afresh; requests under way keep their slots but no longer count."""
        self.generation = object()
        self._requests: Counter[str] = Counter()
        self._answered: Counter[int] = Counter()
        self._max_held: Counter[str] = Counter(self._held)
        self._connections_opened = self._connections_open
        self._max_connections_open = self._connections_open
        self._disconnects = self._prompt_tokens = self._completion_tokens = self._ended = 0
        self._calls: deque[Call] = deque(maxlen=self._record_limit)

    def take_slot(self, endpoint: str, slots: int) -> bool:
        """Takes a slot of an endpoint, or returns ``False`` when all are held.

        Nothing is awaited between the look and the taking, so that on one loop the capacity is exact.
        """
        if self._held[endpoint] >= slots:
            return False
        self._held[endpoint] += 1
        self._max_held[endpoint] = max(self._max_held[endpoint], self._held[endpoint])
        return True

    def give_slot(self, endpoint: str) -> None:
        """Gives a slot back."""
        self._held[endpoint] -= 1

    def connection_opened(self) -> None:
        """Counts a connection on its first API request."""
        self._connections_opened += 1
        self._connections_open += 1
        self._max_connections_open = max(self._max_connections_open, self._connections_open)

    def connection_closed(self) -> None:
        """Counts the end of a connection that was counted as opened."""
        self._connections_open -= 1

    def begin(self, endpoint: str) -> None:
        """Counts a request whose body is complete."""
        self._requests[endpoint] += 1

    def answer(self, status: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Counts the beginning of an answer."""
        self._answered[status] += 1
        self._prompt_tokens += prompt_tokens
        self._completion_tokens += completion_tokens

    def end(self, call: Call) -> None:
        """Keeps a request that has ended."""
        self._ended += 1
        self._disconnects += call.left
        self._calls.append(call)

    def snapshot(self) -> ProviderStats:
        """Returns the statistics as they are now."""
        return ProviderStats(
            requests=dict(self._requests),
            answered=dict(self._answered),
            in_flight={name: count for name, count in self._held.items() if count},
            max_in_flight=dict(self._max_held),
            connections_opened=self._connections_opened,
            connections_open=self._connections_open,
            max_connections_open=self._max_connections_open,
            disconnects=self._disconnects,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            calls=tuple(self._calls),
            calls_forgotten=self._ended - len(self._calls),
        )
