"""What the simulated provider can do at once, how long it takes and how it misbehaves."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from langflow_sluice.errors import InvalidInput

FAULTS = ("ok", "reset", "garbage", "hang", "stream_reset", "stream_error")
_LOWEST_STATUS, _HIGHEST_STATUS = 400, 599
_MAX_DIMENSIONS = 4096


@dataclass(frozen=True)
class ProviderSettings:
    """Capacity, speed and faults of the simulated provider.

    Attributes:
        slots: Chat requests served at once, whatever the protocol; one more is answered 429 at once.
        service_s: Seconds that each chat request holds its slot; a stream spreads its chunks over them.
        retry_after_s: Seconds announced with a 429 and a simulated 503, as ``Retry-After`` (whole seconds, rounded up)
            and, to OpenAI's clients, ``retry-after-ms``; ``None`` announces nothing.
        embedding_slots: Embeddings requests served at once.
        embedding_service_s: Seconds that each embeddings request holds its slot.
        dimensions: Length of the embeddings when the request asks for none.
        models: Names listed by ``GET /v1/models``; requests may name any model.
        keys: Accepted API keys; empty accepts every request. They come as a bearer token, from Anthropic's clients as
            ``x-api-key``. Never shown in a repr, an answer or a log.
        fault: ``ok``; ``status:<code>`` answers every API request with that error; ``reset`` closes the connection
            without an answer; ``garbage`` answers 200 with invalid JSON; ``hang`` holds a slot and answers only when
            the fault is changed; ``stream_reset`` closes the connection of a stream after its first part, and
            ``stream_error`` sends an error there and ends it, while what is not streamed is served.
        record_limit: How many of the latest requests the statistics keep one by one.
    """

    slots: int = 8
    service_s: float = 0.2
    retry_after_s: float | None = 1.0
    embedding_slots: int = 256
    embedding_service_s: float = 0.0
    dimensions: int = 384
    models: tuple[str, ...] = ("sim-chat", "sim-embedding")
    keys: tuple[str, ...] = field(default=(), repr=False)
    fault: str = "ok"
    record_limit: int = 10_000

    def __post_init__(self) -> None:
        for name, least in (("slots", 0), ("embedding_slots", 0), ("dimensions", 1), ("record_limit", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidInput.of(name, value, "it must be a whole number", fix=f"Give {least} or more.")
        if self.dimensions > _MAX_DIMENSIONS:
            name, fix = "dimensions", f"Give {_MAX_DIMENSIONS} at most."
            raise InvalidInput.of(name, self.dimensions, "more than a vector may have", fix=fix)
        for name in ("service_s", "embedding_service_s", "retry_after_s"):
            value = getattr(self, name)
            if value is None and name == "retry_after_s":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InvalidInput.of(name, value, "it must be a number of seconds", fix="Give 0 or more.")
        self._check_fault()

    def _check_fault(self) -> None:
        if self.fault in FAULTS or self.fault_status is not None:
            return
        fix = f"Use one of {', '.join(FAULTS)}, or status:<code> with {_LOWEST_STATUS} to {_HIGHEST_STATUS}."
        name = "fault"
        raise InvalidInput.of(name, self.fault, "there is no such fault", fix=fix)

    @property
    def fault_status(self) -> int | None:
        """The status code of a ``status:<code>`` fault, else ``None``."""
        kind, _, code = str(self.fault).partition(":")
        if kind != "status" or not code.isascii() or not code.isdigit():
            return None
        return int(code) if _LOWEST_STATUS <= int(code) <= _HIGHEST_STATUS else None

    def changed(self, changes: dict[str, Any]) -> ProviderSettings:
        """Returns a copy with some settings changed.

        Args:
            changes: New values by name; ``keys`` and ``record_limit`` are fixed at the start.

        Raises:
            InvalidInput: If a name is unknown or a value is out of range.
        """
        changeable = set(self.public()) - {"record_limit"}
        for name, value in changes.items():
            if name not in changeable:
                fix = f"These can be changed: {', '.join(sorted(changeable))}."
                raise InvalidInput.of(name, value, "it cannot be changed while running", fix=fix)
        if "models" in changes:
            changes = {**changes, "models": tuple(changes["models"])}
        return dataclasses.replace(self, **changes)

    def public(self) -> dict[str, Any]:
        """The settings as JSON values, without the keys."""
        values = dataclasses.asdict(self)
        del values["keys"]
        values["models"] = list(self.models)
        return values
