"""What a run is to do: its stages, their bounds, and what is asked."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from langflow_sluice.load.results import StageKind

Arrival = Literal["poisson", "even"]

MOST_AT_ONCE = 1000
MOST_REQUESTS = 100_000
MOST_PER_S = 1000.0
# Of one call at a time, where nobody has asked for more: enough to see whether the flow works.
ALONE = 10
# The same arrivals each time, so that two flows can be compared.
_SEED = 20150601


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One level of load.

    Attributes:
        kind: Of what shape.
        concurrency: Calls in flight at once at most.
        requests: Calls to make.
        rate_per_s: Calls to start a second, in an open loop.
        arrival: How they are spread, in an open loop.
    """

    kind: StageKind
    concurrency: int
    requests: int
    rate_per_s: float = 0.0
    arrival: Arrival = "poisson"

    @property
    def label(self) -> str:
        """For people."""
        if self.kind == "open loop":
            return f"{self.rate_per_s:g} calls/s"
        return "one at a time" if self.kind == "one at a time" else f"{self.concurrency} at once"

    def due_s(self) -> list[float] | None:
        """When each call is due, from the stage's start; None where each follows the end of another."""
        if self.kind != "open loop":
            return None
        if self.arrival == "even":
            return [spread_s(number + 1, self.rate_per_s) for number in range(self.requests)]
        source = random.Random(_SEED)  # noqa: S311 - no secret
        passed = [0.0, *accumulate(source.expovariate(1.0) for _ in range(self.requests - 1))]
        # As drawn they come to another rate than was asked for: of few calls to one that is far off.
        unit_s = spread_s(self.requests, self.rate_per_s) / passed[-1] if passed[-1] else 0.0
        return [each * unit_s for each in passed]


def spread_s(requests: int, rate_per_s: float) -> float:
    """When the last call of an open loop is due, from the first one."""
    return (requests - 1) / rate_per_s


def stages_of(
    concurrency: str | None, rate: str | None, *, requests: int, max_in_flight: int, arrival: Arrival = "poisson"
) -> tuple[StagePlan, ...]:
    """The stages of a run; the first is always one call at a time.

    Args:
        concurrency: Levels of a closed loop as on the command line, such as ``1,5,20``; or None.
        rate: Levels of an open loop, such as ``2,5.5``, in calls a second; or None.
        requests: Calls of each stage.
        max_in_flight: Calls in flight at once at most in an open loop.
        arrival: How the calls of an open loop are spread.

    Raises:
        InvalidInput: These are no levels; names the option.
    """
    if concurrency is not None and rate is not None:
        fix = "Give one of the two: --concurrency for callers that wait for their answer, --rate for ones that do not."
        raise InvalidInput.of("rate", rate, "--concurrency is given as well", fix=fix)
    _within("requests", requests, MOST_REQUESTS)
    _within("max-in-flight", max_in_flight, MOST_AT_ONCE)
    first = StagePlan("one at a time", 1, min(requests, ALONE))
    if rate is not None:
        rates = _numbers("rate", rate, "a number above 0", MOST_PER_S)
        more = tuple(StagePlan("open loop", max_in_flight, requests, each, arrival) for each in rates)
        return (first, *more)
    text, fitting = "1" if concurrency is None else concurrency, "a whole number from 1"
    levels = [int(each) for each in _numbers("concurrency", text, fitting, MOST_AT_ONCE, whole=True)]
    if levels[-1] > requests:
        fix = f"Give --requests {levels[-1]} or more, or fewer calls at once."
        raise InvalidInput.of("requests", requests, f"{levels[-1]} calls at once need as many", fix=fix)
    closed = tuple(StagePlan("closed loop", level, requests) for level in levels if level > 1)
    # Who asks for one call at a time wants as many of them as of the others.
    alone = StagePlan("one at a time", 1, requests) if levels[0] == 1 else first
    return (alone, *closed)


def _within(option: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise InvalidInput.of(option, value, "it is out of range", fix=f"Give 1 to {most}.")


def _numbers(option: str, text: str, fitting: str, most: float, *, whole: bool = False) -> list[float]:
    fix = f"Give {fitting} to {most:g}, or several that rise, with commas: 1,5,20."
    found: list[float] = []
    for part in text.split(","):
        try:
            number = float(int(part)) if whole else float(part)
        except ValueError:
            raise InvalidInput.of(option, text, f"{part.strip()!r} is not {fitting}", fix=fix) from None
        if not math.isfinite(number) or not 0 < number <= most:
            raise InvalidInput.of(option, text, f"{part.strip()} is out of range", fix=fix)
        if found and number <= found[-1]:
            raise InvalidInput.of(option, text, "each level must lie above the one before it", fix=fix)
        found.append(number)
    return found


@dataclass(frozen=True, slots=True)
class Asked:
    """What calls carry; shows none of it.

    Attributes:
        inputs: Texts, used in turn.
        tweaks: Values for nodes, by node.
    """

    inputs: tuple[str, ...] = field(repr=False)
    tweaks: Mapping[str, Any] = field(default_factory=dict, repr=False)


def asked(text: str | None, inputs: Path | None, tweaks: Path | None) -> Asked:
    """Reads what calls carry.

    Args:
        text: One input for all calls.
        inputs: A file of inputs, one a line.
        tweaks: A file with a JSON object of values for nodes.

    Raises:
        InvalidInput: One of the files is none, or both kinds of input are given; names the option.
    """
    if text is not None and inputs is not None:
        raise InvalidInput.of("inputs", str(inputs), "--input is given as well", fix="Give one of the two.")
    texts: tuple[str, ...] = (text if text is not None else "Hello",)
    if inputs is not None:
        texts = tuple(line.strip() for line in _read("inputs", inputs).splitlines() if line.strip())
        if not texts:
            raise InvalidInput.of("inputs", str(inputs), "there is nothing in it", fix="Write one question a line.")
    values: Any = {}
    if tweaks is not None:
        fix = 'Write an object such as {"ChatInput-1": {"sender_name": "Load"}}.'
        try:
            values = json.loads(_read("tweaks", tweaks))
        except ValueError:
            # Not the reader's own words: they could quote a key.
            raise InvalidInput.of("tweaks", str(tweaks), "it is no JSON", fix=fix) from None
        if not isinstance(values, dict):
            raise InvalidInput.of("tweaks", str(tweaks), "it is no JSON object", fix=fix)
    return Asked(texts, values)


def _read(option: str, path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InvalidInput.of(option, str(path), f"it cannot be read ({reason})", fix="Name a text file.") from None
