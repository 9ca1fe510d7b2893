"""The figures of a load report in words, the same in charts, text alternatives and tables."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from langflow_sluice.load.results import FlowResult, LoadReport, Stage

NOT_MEASURED = "not measured"
NO_CALLS = "none"
SPLIT_PARTS = (("queue_s", "queue"), ("provider_s", "provider"), ("database_s", "database"), ("langflow_s", "Langflow"))
"""Fields of a split and what they are called, in the order in which they are stacked."""

_UNNAMED = {"", "unknown"}
_HUNDRED = 100


def seconds(value: float | None) -> str:
    """A duration with its unit, to three figures."""
    if value is None:
        return NOT_MEASURED
    if not value:
        return "0\u00a0s"
    if value < 0.001:  # noqa: PLR2004 - a millisecond
        return "<1\u00a0ms"
    if value < 0.9995:  # noqa: PLR2004 - what would be rounded to 1000 ms
        return f"{value * 1000:.0f}\u00a0ms"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}\u00a0s"  # noqa: PLR2004 - three figures


def number(value: float) -> str:
    """A rate without its unit, to two or three figures."""
    if not value:
        return "0"
    return f"{value:.{0 if value >= 99.5 else 1 if value >= 0.95 else 2}f}"  # noqa: PLR2004 - two figures or three


def tick(value: float) -> str:
    """A figure of a scale."""
    return f"{value:.3g}"


def tick_seconds(value: float) -> str:
    """A duration of a scale."""
    return f"{value * 1000:.3g}\u00a0ms" if 0 < value < 0.9995 else f"{value:.3g}\u00a0s"  # noqa: PLR2004 - what would be rounded to 1000 ms


def count(value: int | None) -> str:
    """A count; None is not 0."""
    return NOT_MEASURED if value is None else f"{value:,}".replace(",", "\u202f")


def percent(part: int, whole: int) -> str:
    """A share that says 0 % and 100 % only of nothing and of all."""
    if not whole:
        return NO_CALLS
    if part and part * _HUNDRED < whole:
        return "<1\u00a0%"
    return f"{part * _HUNDRED // whole}\u00a0%"


def short(text: str, most: int) -> str:
    """One line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def flow_name(flow: FlowResult) -> str:
    """The flow's name; never empty."""
    return flow.flow.strip() or "flow without a name"


def load_label(stage: Stage) -> str:
    """How much load a stage was: ``20`` calls at once, or ``2.5/s`` calls started."""
    if stage.kind == "open loop":
        return f"{stage.rate_per_s:g}/s"
    return str(stage.concurrency)


def load_words(stage: Stage) -> str:
    """How much load a stage was, in words."""
    if stage.kind == "open loop":
        return f"{stage.rate_per_s:g} calls started a second"
    return "one call at a time" if stage.concurrency == 1 else f"{stage.concurrency} calls at once"


def load_axis(stages: Iterable[Stage]) -> str:
    """What the labels of stages count."""
    is_open = {stage.kind == "open loop" for stage in stages if stage.kind != "one at a time"}
    if is_open == {True}:
        return "calls started a second; 1: one at a time"
    return "calls at once; /s: started a second" if True in is_open else "calls at once"


def dependency_name(dependency: str) -> str:
    """What a dependency is called; ``unknown`` where it is."""
    return dependency.strip() or "unknown"


def failed_by_dependency(stage: Stage) -> Counter[str]:
    """Failed calls of a stage by dependency; those of no diagnosed cause are ``unknown``."""
    failed: Counter[str] = Counter()
    for cause in stage.causes:
        failed[dependency_name(cause.dependency)] += cause.count
    missing = stage.failed - failed.total()
    if missing > 0:
        failed["unknown"] += missing
    return failed


def verdict_sentence(flow: FlowResult, most: int = 40) -> str:
    """The verdict on a flow as a short clause that begins with its name."""
    name = short(flow_name(flow), most)
    at_fault = "" if flow.dependency.strip() in _UNNAMED else f" ({short(flow.dependency, 40)})"
    return {
        "holds": f"{name} holds",
        "scaling problem": f"{name} has a scaling problem{at_fault}",
        "bug": f"{name} has a bug{at_fault}",
        "no answer": f"{name} gave no answer",
    }.get(flow.verdict, f"{name}: {flow.verdict}{at_fault}")


def headline(report: LoadReport) -> str:
    """The verdicts on all flows in one line."""
    return "; ".join(verdict_sentence(flow) for flow in report.flows) or "No flow was run"


def origin(report: LoadReport) -> str:
    """Where and when it was measured, in one line."""
    server = f"Langflow {report.server}" if report.server else "Langflow"
    return f"{server} at {report.target}, {report.started_at}"


def describe_throughput(flow: FlowResult) -> str:
    """The chart of throughput in words."""

    def told(stage: Stage) -> str:
        return f"{number(stage.throughput_per_s)} a second" if stage.requests else "no calls"

    knee = "No knee was reached."
    if flow.knee is not None:
        knee = f"Throughput no longer grows above {flow.knee} calls at once."
    return f"Results a second. {_each(flow.stages, told)} {knee}"


def describe_latency(flow: FlowResult) -> str:
    """The chart of latencies in words."""

    def told(stage: Stage) -> str:
        if not stage.requests:
            return "no calls"
        latency = stage.latency
        return f"p50 {seconds(latency.p50_s)}, p95 {seconds(latency.p95_s)}, p99 {seconds(latency.p99_s)}"

    return f"Time of a call, failed ones included. {_each(flow.stages, told)}"


def describe_outcomes(flow: FlowResult) -> str:
    """The chart of outcomes in words."""

    def told(stage: Stage) -> str:
        if not stage.requests:
            return "no calls"
        failed = failed_by_dependency(stage).most_common()
        lost = "".join(f", {lost} failed ({short(name, 40)})" for name, lost in failed)
        return f"{stage.succeeded} of {stage.requests} succeeded{lost}"

    return f"Share of calls that succeeded and failed. {_each(flow.stages, told)}"


def describe_connections(flow: FlowResult, max_connections: int | None) -> str:
    """The chart of connections in words."""
    seen = [sample.connections for sample in flow.samples if sample.connections is not None]
    allowed = "" if max_connections is None else f", of {max_connections} allowed"
    if not seen:
        return f"Connections to the database over time: {NOT_MEASURED}{allowed}."
    return f"Connections to the database over time: from {min(seen)} to {max(seen)}{allowed}."


def describe_guards(flow: FlowResult) -> str:
    """The chart of guards in words."""
    held = [sample.guard_in_flight for sample in flow.samples if sample.guard_in_flight is not None]
    waiting = [sample.guard_waiting for sample in flow.samples if sample.guard_waiting is not None]
    if not held and not waiting:
        return f"Guards over time: {NOT_MEASURED}."
    most_held, most_waiting = (str(max(seen)) if seen else NOT_MEASURED for seen in (held, waiting))
    return f"Guards over time. Most in flight: {most_held}. Most waiting: {most_waiting}."


def describe_split(flow: FlowResult) -> str:
    """The chart of the parts of a call's time in words."""

    def told(stage: Stage) -> str:
        return ", ".join(f"{name} {seconds(getattr(stage.split, field))}" for field, name in SPLIT_PARTS)

    return f"Where the time of a mean call went. {_each(flow.stages, told)}"


def _each(stages: Sequence[Stage], told: Callable[[Stage], str]) -> str:
    return " ".join(f"With {load_words(stage)}: {told(stage)}." for stage in stages) or "No stage was run."
