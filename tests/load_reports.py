"""Made-up reports of load runs, with figures like those of real ones."""

from __future__ import annotations

from dataclasses import replace

from langflow_sluice.load.results import Cause, FlowResult, Latency, LoadReport, Sample, Split, Stage

NO_CONNECTION = Cause(
    code="too_many_connections",
    dependency="database",
    text="PostgreSQL has no free connection: every search of a stock PGVector node opens connections of its own.",
    fix="Replace the PGVector node by Pooled PG Retriever, or lower how many runs may search at once.",
    is_load=True,
    count=9,
    example='OperationalError: connection to server at "127.0.0.1", port 5432 failed: FATAL:  sorry, too many clients'
    " already",
)
THROTTLED = Cause(
    code="rate_limited",
    dependency="provider",
    text="The provider turned calls away with 429, and the node gave up.",
    fix="Put the model behind Rate-Limited LLM with requests_per_minute of the provider's tier.",
    is_load=True,
    count=4,
    example="openai.RateLimitedError: Error code: 429 - {'error': {'code': 'rate_limit_exceeded'}}",
)
STRANGE = Cause(
    "unknown", "unknown", "Nothing is known of this error.", "", None, 1, "ValueError: boat without a harbour"
)


def latency(p50_s: float, tail: float = 2.0) -> Latency:
    """Percentiles around a median, with a longer or shorter tail."""
    return Latency(p50_s * 1.2, p50_s, p50_s * tail * 0.7, p50_s * tail * 0.85, p50_s * tail, p50_s * tail * 1.3)


def stage(
    concurrency: int,
    requests: int,
    p50_s: float,
    *causes: Cause,
    begins_s: float = 0.0,
    seconds: float | None = None,
    split: tuple[float | None, ...] = (0.0, 0.4, 0.1, 0.5),
    connections: int | None = 12,
    tail: float = 2.0,
    unsent: int = 0,
) -> Stage:
    """A closed-loop stage, or one call at a time; the parts of ``split`` are shares of the mean call."""
    failed = sum(cause.count for cause in causes)
    whole = latency(p50_s, tail)
    parts = [None if share is None else share * whole.mean_s for share in split]
    return Stage(
        kind="closed loop" if concurrency > 1 else "one at a time",
        concurrency=concurrency,
        rate_per_s=0.0,
        requests=requests,
        succeeded=requests - failed,
        unsent=unsent,
        seconds=seconds if seconds is not None else requests / concurrency * whole.mean_s,
        latency=whole,
        success_latency=whole if requests > failed else Latency(),
        causes=causes,
        split=Split(*parts),
        connections=connections,
        begins_s=begins_s,
    )


def open_stage(rate_per_s: float, requests: int, p50_s: float, *causes: Cause, begins_s: float = 0.0) -> Stage:
    """A stage whose calls start at a rate."""
    closed = stage(round(rate_per_s * p50_s) + 2, requests, p50_s, *causes, begins_s=begins_s, seconds=20.0, unsent=7)
    return replace(closed, kind="open loop", rate_per_s=rate_per_s)


def in_a_row(*stages: Stage) -> tuple[Stage, ...]:
    """Stages one after the other, two seconds apart."""
    placed, at_s = [], 0.0
    for each in stages:
        placed.append(replace(each, begins_s=at_s))
        at_s += each.seconds + 2
    return tuple(placed)


def samples(stages: tuple[Stage, ...], per_call: float, most: int, guard: int | None) -> tuple[Sample, ...]:
    """Looks every half second: connections grow with the calls up to ``most``; ``guard`` calls pass a guard at once."""
    looks = []
    for each in stages:
        for number in range(max(int(each.seconds * 2), 1)):
            at_s = each.begins_s + number / 2
            ripple = (number * 7) % 4
            connections = min(most, 8 + int(each.concurrency * per_call) + ripple)
            looks.append(
                Sample(
                    at_s=at_s,
                    calls=each.concurrency,
                    connections=connections,
                    active=connections // 3,
                    guard_in_flight=None if guard is None else min(guard, each.concurrency),
                    guard_waiting=None if guard is None else max(0, each.concurrency - guard - ripple),
                    loop_lag_s=0.004 * each.concurrency,
                )
            )
    return tuple(looks)


def unsafe(name: str = "RAG with stock nodes (unsafe twin)") -> FlowResult:
    """Runs out of database connections with 20 calls at once."""
    stages = in_a_row(
        stage(1, 20, 0.62, tail=1.5),
        stage(5, 40, 0.81, connections=41),
        stage(20, 80, 2.9, replace(NO_CONNECTION, count=22), THROTTLED, connections=97, tail=3.0),
        stage(50, 120, 5.4, replace(NO_CONNECTION, count=81), STRANGE, connections=97, tail=4.5, unsent=30),
    )
    return FlowResult(
        flow=name,
        stages=stages,
        samples=samples(stages, 6.2, 97, None),
        knee=5,
        verdict="scaling problem",
        explanation="One call at a time always succeeds; with 20 at once 26 of 80 fail. The database gives way first:"
        " all 97 connections that it allows are in use. Replace the PGVector node by Pooled PG Retriever.",
        dependency="database",
    )


def safe(name: str = "RAG with pooled Postgres") -> FlowResult:
    """Holds: calls wait for their turn."""
    stages = in_a_row(
        stage(1, 20, 0.58, tail=1.4, split=(0.0, 0.45, 0.08, 0.47)),
        stage(5, 40, 0.7, split=(0.02, 0.43, 0.1, 0.45), connections=14),
        stage(20, 80, 1.7, split=(0.35, 0.25, 0.06, 0.34), connections=18),
        stage(50, 120, 4.2, split=(0.62, 0.12, 0.03, 0.23), connections=18, tail=1.6),
    )
    return FlowResult(
        flow=name,
        stages=stages,
        samples=samples(stages, 0.5, 18, 8),
        knee=20,
        verdict="holds",
        explanation="All 260 calls succeed, up to 50 at once. From 20 at once on calls wait in the guard's queue and"
        " throughput stays as it is.",
        dependency="",
    )


def report(*flows: FlowResult, max_connections: int | None = 97) -> LoadReport:
    """A run; by default the unsafe flow against the safe one."""
    flows = flows or (unsafe(), safe())
    return LoadReport(
        target="http://127.0.0.1:7860",
        started_at="2026-03-02T10:15:00+01:00",
        server="1.12.3",
        max_connections=max_connections,
        flows=flows,
        comparison=""
        if len(flows) < 2
        else "With 50 calls at once the first flow loses 82 of 120 calls, the second none. The first holds 97 database"
        " connections, all that there are; the second never more than 18.",
    )


def unmeasured() -> FlowResult:
    """A flow without guards on a server whose database was not asked."""
    flow = unsafe("Nothing measured")
    stages = tuple(
        replace(each, connections=None, split=Split(None, None, None, None), causes=(), succeeded=each.requests)
        for each in flow.stages
    )
    looks = tuple(
        replace(each, connections=None, active=None, guard_in_flight=None, guard_waiting=None, loop_lag_s=None)
        for each in flow.samples
    )
    return replace(flow, stages=stages, samples=looks, verdict="holds", explanation="All succeed.", dependency="")


def all_failed() -> FlowResult:
    """A flow none of whose calls ever succeeds."""
    stages = in_a_row(
        stage(1, 5, 0.05, replace(STRANGE, count=5), split=(None, None, 0.2, 0.8)),
        stage(5, 5, 0.05, replace(STRANGE, count=5), split=(None, None, None, None)),
    )
    return FlowResult("Always fails", stages, (), None, "bug", "Fails one at a time, too.", "langflow")


def one_stage() -> FlowResult:
    """A flow that was only run one at a time, without a look at anything."""
    return FlowResult("One stage", (stage(1, 3, 0.4),), (), None, "holds", "All 3 calls succeed.", "")


def open_loop() -> FlowResult:
    """A flow whose calls start at a rate."""
    stages = in_a_row(
        stage(1, 5, 0.6),
        open_stage(0.5, 10, 0.6),
        open_stage(2, 40, 0.7),
        open_stage(7.5, 150, 6.5, replace(THROTTLED, count=31)),
    )
    return FlowResult("Open loop", stages, samples(stages, 1, 40, 6), None, "scaling problem", "Slow.", "provider")


def nothing_sent() -> FlowResult:
    """A flow whose first call was never sent."""
    empty = replace(stage(1, 0, 0.0, seconds=0.0), unsent=20)
    return FlowResult("Nothing sent", (empty,), (), None, "no answer", "The server did not answer.", "")


def hostile() -> FlowResult:
    """A flow whose every text comes from somebody who means ill, or who writes a lot."""
    evil = "<script>alert('load')</script>\"'&{{ 7 * 7 }}$\\frac{1}{$"
    cause = replace(NO_CONNECTION, dependency=evil, text=evil, fix=evil, code=evil, example=evil + "y" * 900)
    stages = in_a_row(stage(1, 20, 0.6), stage(20, 40, 2.0, cause), stage(50, 40, 2.0, replace(cause, dependency="港")))
    return FlowResult(
        evil + "港口 " + "x" * 300, stages, samples(stages, 1, 30, 4), 20, "scaling problem", evil + "z" * 400, evil
    )


def many_stages() -> FlowResult:
    """A flow with more stages than labels fit."""
    stages = in_a_row(*(stage(3 * number + 1, 20, 0.3 + number / 4, STRANGE) for number in range(14)))
    return FlowResult("Many stages", stages, samples(stages, 1, 60, 30), 20, "holds", "Holds.", "")
