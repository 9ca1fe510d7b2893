"""What a load run found out: plain figures, the same for the terminal, the report's pages and JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

# Changes when a reader of older reports could no longer understand what is written.
FORMAT = 1

StageKind = Literal["one at a time", "closed loop", "open loop"]


@dataclass(frozen=True, slots=True)
class Latency:
    """Of all calls of a stage, failed ones included, in seconds, by nearest rank and exact; all 0 where there are none.

    In an open loop a call's time runs from when it was due, not from when it could be sent, so that a server that
    stalls cannot hide the calls that it kept from being sent (G. Tene, "How NOT to Measure Latency", 2015).
    """

    mean_s: float = 0.0
    p50_s: float = 0.0
    p90_s: float = 0.0
    p95_s: float = 0.0
    p99_s: float = 0.0
    max_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Cause:
    """Failed calls that have one diagnosed cause; see ``explain``.

    Attributes:
        code: Short and stable; ``unknown`` where nothing is known.
        dependency: Which service it is: database, provider, langflow, ...; ``unknown`` where nothing is known.
        text: The cause in one sentence.
        fix: What to change; empty where nothing is known.
        is_load: Whether calls that come at once bring it about; None where that is not known.
        count: How many calls failed so.
        example: The first such error, shortened and without secrets.
    """

    code: str
    dependency: str
    text: str
    fix: str
    is_load: bool | None
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class Split:
    """Where the time of a mean call went, in seconds; None where nothing could be measured.

    Attributes:
        queue_s: In the queues of guards and pools.
        provider_s: At model providers, behind guards.
        database_s: The database's own time for statements.
        langflow_s: The rest of the call, Langflow's own work above all.
    """

    queue_s: float | None
    provider_s: float | None
    database_s: float | None
    langflow_s: float | None


@dataclass(frozen=True, slots=True)
class Stage:
    """One level of load on one flow.

    Attributes:
        kind: Of what shape.
        concurrency: Calls in flight at once at most; in an open loop the most that were.
        rate_per_s: Calls started a second, in an open loop; else 0.
        requests: Calls sent, without those of the warm-up.
        succeeded: Answers with a result.
        unsent: Calls that were planned and not sent, because the time or the calls allowed had run out.
        seconds: From the first call to the last answer.
        latency: Of all calls.
        success_latency: Of those that succeeded.
        causes: Of those that failed, most frequent first.
        split: Where the time went.
        connections: The most connections to the database seen, other clients' included; None where it was not asked.
        begins_s: When it began, on the time axis of the flow's samples.
    """

    kind: StageKind
    concurrency: int
    rate_per_s: float
    requests: int
    succeeded: int
    unsent: int
    seconds: float
    latency: Latency
    success_latency: Latency
    causes: tuple[Cause, ...]
    split: Split
    connections: int | None
    begins_s: float

    @property
    def failed(self) -> int:
        """Calls that brought no result."""
        return self.requests - self.succeeded

    @property
    def throughput_per_s(self) -> float:
        """Results a second."""
        return self.succeeded / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at everything while calls were under way.

    Attributes:
        at_s: Since the flow's first call.
        calls: Calls in flight.
        connections: To the database, other clients' included; None where it was not asked or did not answer.
        active: Of them, those that were running a statement.
        guard_in_flight: Permits of all guards in use.
        guard_waiting: Callers in the queues of all guards and pools.
        loop_lag_s: The longest time that an event loop took to come round.
    """

    at_s: float
    calls: int
    connections: int | None
    active: int | None
    guard_in_flight: int | None
    guard_waiting: int | None
    loop_lag_s: float | None


@dataclass(frozen=True, slots=True)
class FlowResult:
    """All about one flow.

    Attributes:
        flow: Its name on the server.
        stages: In the order in which they ran; the first is one call at a time.
        samples: In the order of time, over all stages.
        knee: The concurrency above which throughput no longer grows; None where it was not reached.
        verdict: In a word or two: ``holds``, ``scaling problem``, ``bug`` (fails one at a time, too), ``no answer``,
            ``not finished`` (too slow for the time allowed), ``stopped`` (by somebody, before it was seen under load).
        explanation: The verdict in sentences, with the dependency that gives way and what to change.
        dependency: The one that gives way first; empty where none does.
    """

    flow: str
    stages: tuple[Stage, ...]
    samples: tuple[Sample, ...]
    knee: int | None
    verdict: str
    explanation: str
    dependency: str


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A whole run; holds no key, no password and nothing of what was asked.

    Attributes:
        target: The server's address, without credentials.
        started_at: In ISO 8601 with the time zone.
        server: Langflow's version; empty where it did not tell.
        max_connections: Of the database, less those reserved for superusers; None where it was not asked.
        flows: One, or two to compare.
        comparison: The two flows against each other, in sentences; empty for one.
    """

    target: str
    started_at: str
    server: str
    max_connections: int | None
    flows: tuple[FlowResult, ...]
    comparison: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON; with each stage's failed calls and throughput."""
        told = {"format": FORMAT, **dataclasses.asdict(self)}
        for flow, result in zip(told["flows"], self.flows, strict=True):
            for written, stage in zip(flow["stages"], result.stages, strict=True):
                written["failed"] = stage.failed
                written["throughput_per_s"] = stage.throughput_per_s
        return told
