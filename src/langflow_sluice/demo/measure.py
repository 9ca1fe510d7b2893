"""What one side of a comparison did, and whether it kept what was promised."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Side:
    """One flow under the demo's load.

    Attributes:
        job: What was to be done.
        flow: The flow's slug.
        unsafe: Whether it is built of stock nodes.
        wanted: Rows or answers asked for.
        kept: Rows or answers that came back right.
        failures: Calls that failed, or rows that did not come back right.
        seconds: From the first call to the last answer.
        ideal_seconds: What the provider alone needs for it, with all of its slots busy.
        startup_seconds: What one run of the flow for one row takes beside the provider's own time.
        requests: Chat requests that the provider saw; None where it cannot be asked.
        throttled: Requests that it answered with 429; None where it cannot be asked.
        peak_connections: The most connections the database had from this side; None where it uses none.
        errors: The first few different errors.
    """

    job: str
    flow: str
    unsafe: bool
    wanted: int
    kept: int = 0
    failures: int = 0
    seconds: float = 0.0
    ideal_seconds: float = 0.0
    startup_seconds: float = 0.0
    requests: int | None = None
    throttled: int | None = None
    peak_connections: int | None = None
    errors: list[str] = field(default_factory=list)

    def note(self, error: str) -> None:
        """Keeps an error for the report, if it is a new one and there are few."""
        # What Langflow puts around a node's own words says nothing that the flow's name does not.
        text = " ".join(error.rpartition("Error building Component")[2].split())[:200]
        if text not in self.errors and len(self.errors) < 3:  # noqa: PLR2004
            self.errors.append(text)


@dataclass(frozen=True, slots=True)
class Claim:
    """One promise and whether it was kept.

    Attributes:
        text: What was promised.
        observed: What was seen.
        kept: Whether the two agree.
        timed: Whether it is about the clock; such claims count only where the caller asks for it.
    """

    text: str
    observed: str
    kept: bool
    timed: bool = False


def claims(sides: list[Side], pool_limit: int) -> list[Claim]:
    """What the safe sides promise; the unsafe ones promise nothing.

    Args:
        sides: All sides of the demo.
        pool_limit: Connections that the pool allows.
    """
    made: list[Claim] = []
    for side in sides:
        if side.unsafe:
            continue
        what = f"{side.flow}: "
        made.append(Claim(f"{what}all {side.wanted} kept", f"{side.kept}", side.kept == side.wanted))
        if side.requests is not None:
            made.append(
                Claim(f"{what}exactly {side.wanted} chat requests", f"{side.requests}", side.requests == side.wanted)
            )
        if side.throttled is not None:
            made.append(Claim(f"{what}no 429", f"{side.throttled}", side.throttled == 0))
        if side.peak_connections is not None:
            text = f"{what}no more than {pool_limit} connections"
            made.append(Claim(text, f"{side.peak_connections}", side.peak_connections <= pool_limit))
        else:
            limit = 1.5 * side.ideal_seconds + side.startup_seconds
            text = f"{what}within 1.5 x the ideal {side.ideal_seconds:.2f} s plus {side.startup_seconds:.2f} s start-up"
            made.append(Claim(text, f"{side.seconds:.2f} s", side.seconds <= limit, timed=True))
    return made


def as_json(sides: list[Side], made: list[Claim]) -> dict[str, Any]:
    """All of it for ``--json``."""
    return {"sides": [asdict(side) for side in sides], "claims": [asdict(claim) for claim in made]}
