"""What a process and Redis tell each other about one guard: the script's arguments, its answer and its messages.

The script (``exchange.lua``) is the only thing that writes. Sending it twice does no harm: what a process holds is told
as totals since it joined, and what it has learnt carries a number.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langflow_sluice.guard.settings import GuardSettings

_KEYS = ("state", "leases", "joined", "interactive", "normal", "batch")
NUMBER_OF_KEYS = len(_KEYS)
_MICRO = 1_000_000
# Numbers travel as doubles in one string: that is cheaper for both sides than text, and exact up to 2**53.
_ASKED = struct.Struct(">13d")
_ANSWERED = struct.Struct(">20d")
# What is on its way in one exchange; the rest goes with the next.
MAX_EVENTS = 500
BREAKER_STATES = ("CLOSED", "OPEN", "HALF_OPEN")


@functools.lru_cache(maxsize=1)
def script() -> bytes:
    """The script's source."""
    return resources.files("langflow_sluice.cluster").joinpath("exchange.lua").read_bytes()


def digest(guard_key: str) -> str:
    """A guard's name in Redis: the same in all processes, and telling nothing of users, services and credentials."""
    return hashlib.sha256(guard_key.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def keys(prefix: str, guard: str) -> tuple[str, ...]:
    """A guard's keys; the part in braces puts all of them on one node of a Redis Cluster."""
    return tuple(f"{prefix}:{{{guard}}}:{part}" for part in _KEYS)


def channel(prefix: str, process: str = "") -> str:
    """Where a process is told of permits that others have handed over to it."""
    return f"{prefix}:to:{process}"


def limits_text(settings: GuardSettings) -> str:
    """A guard's limits as the script wants them."""
    adaptive = int(settings.adaptive)
    per_minute = f"{settings.requests_per_minute:.17g}|{settings.tokens_per_minute:.17g}"
    return f"{settings.max_concurrency:.0f}|{per_minute}|{adaptive}"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a process tells and wants.

    Attributes:
        fence: The one it was given on joining; 0 where it has none yet.
        released: Permits given back since the process began.
        known: Permits it knows to have been granted since then; those above ``released`` are in use.
        waiting: Callers that wait, for each lane.
        tokens: Of the caller in front, if tokens are metered and somebody waits.
        limits: As of ``limits_text``.
        seen: Processes that used the guard when this one last heard, itself included; 0 if it never did.
        number: Of the events and the correction; what was told before under the same number is not counted again.
        events: What calls have told about the service: see the script.
        correction: Tokens to charge, or to refund if negative.
        longest_probe_s: The longest time that the breaker leaves the service alone.
        goodbye: Whether the process leaves the guard.
    """

    fence: int
    released: int
    known: int
    waiting: tuple[int, int, int]
    tokens: tuple[float, ...]
    limits: str
    seen: int
    number: int
    events: tuple[str, ...]
    correction: float
    longest_probe_s: float
    goodbye: bool = False

    def arguments(
        self, process: str, guard: str, prefix: str, *, lease_s: float, server_run: str, uncertain_s: float
    ) -> list[Any]:
        """For the script, after its keys.

        Args:
            process: Which process this is.
            guard: ``digest`` of the guard.
            prefix: Of all keys and channels.
            lease_s: For how long the permits are this process's if it is not heard of again.
            server_run: Which run of the server this is, as it tells.
            uncertain_s: For how long from now calls of a time before the server's start may still be under way.
        """
        numbers = _ASKED.pack(
            0 if self.goodbye else round(lease_s * _MICRO),
            round(uncertain_s * _MICRO),
            self.seen,
            self.fence,
            self.released,
            self.known,
            self.number,
            self.correction,
            round(self.longest_probe_s * _MICRO),
            *self.waiting,
            self.tokens[0] if self.tokens else -1,
        )
        return [process, guard, channel(prefix), server_run, self.limits, numbers, *self.events]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the script tells.

    Attributes:
        fence: The process's; another one than before where it was taken for dead meanwhile.
        lost: Whether it was.
        granted: Permits granted to the process since it began.
        granted_now: Those of them granted in this very exchange.
        waiting: Callers of the process that wait in Redis, for each lane.
        in_flight: Permits in use in all processes.
        limit: Calls that may be in flight in all processes; 0 for any number.
        retry_s: When the next one may go, if that is a matter of time; else 0.
        members: Processes that use the guard.
        rank: This process's among them, in the order in which they joined.
        breaker: 0 closed, 1 open, 2 half open.
        probe_s: When an open breaker lets the next one pass.
        opened: How often the breaker has opened.
        probe: Number of the permit that is the probe, if it is this process's; else 0.
        paused_s: For how long the service wants to be left alone.
        epoch: Of the adaptive limit.
        cap: Calls that may be in flight at most, the tightest that a process asks for; 0 for any number.
        tokens_per_minute: Likewise.
    """

    fence: int
    lost: bool
    granted: int
    granted_now: int
    waiting: tuple[int, int, int]
    in_flight: int
    limit: int
    retry_s: float
    members: int
    rank: int
    breaker: int
    probe_s: float
    opened: int
    probe: int
    paused_s: float
    epoch: int
    cap: int
    tokens_per_minute: float

    @classmethod
    def of(cls, told: bytes) -> Answer:
        """From the script's answer."""
        fence, lost, granted, granted_now, interactive, normal, batch, in_flight, limit, retry, *more = (
            _ANSWERED.unpack(told)
        )
        members, rank, breaker, probe_in, opened, probe, paused, epoch, cap, tokens = more
        return cls(
            fence=int(fence),
            lost=bool(lost),
            granted=int(granted),
            granted_now=int(granted_now),
            waiting=(int(interactive), int(normal), int(batch)),
            in_flight=int(in_flight),
            limit=int(limit),
            retry_s=retry / _MICRO,
            members=int(members),
            rank=int(rank),
            breaker=int(breaker),
            probe_s=probe_in / _MICRO,
            opened=int(opened),
            probe=int(probe),
            paused_s=paused / _MICRO,
            epoch=int(epoch),
            cap=int(cap),
            tokens_per_minute=tokens,
        )


@dataclass(frozen=True, slots=True)
class Handover:
    """A message: another process's exchange has granted permits to this one.

    Attributes:
        fence: Of the membership to which they were granted; a process that has joined anew since must not take them.
        granted: Permits granted to the process since it began.
        lanes: Of the callers they are for, in order.
        epoch: Of the adaptive limit.
        probe: As in ``Answer``.
        tokens: What was charged for the permit: where tokens are metered a message brings one. The process cannot know
            by itself, since the message may come before the answer to what it has told last.
    """

    fence: int
    granted: int
    lanes: tuple[int, ...]
    epoch: int
    probe: int
    tokens: float

    @classmethod
    def of(cls, message: bytes) -> tuple[str, Handover | None]:
        """The guard's digest, and what was handed over; None where the process is only to ask."""
        guard, *rest = message.decode().split(" ")
        if not rest:
            return guard, None
        fence, granted, lanes, epoch, probe, tokens = rest
        return guard, cls(int(fence), int(granted), tuple(map(int, lanes)), int(epoch), int(probe), float(tokens))
