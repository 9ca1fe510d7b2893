"""Two flows under the same load against each other, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.load.diagnosis import HOLDS, figures_of, level

if TYPE_CHECKING:
    from langflow_sluice.load.results import FlowResult, Stage


def compared(one: FlowResult, other: FlowResult) -> str:
    """What sets the two flows apart: their verdicts, their figures at the highest level that both had, their needs."""
    told = [_verdicts(one, other)]
    pair = _highest_common(one, other)
    if pair is not None:
        told.append(_figures(one.flow, other.flow, *pair))
    most = [_most_connections(each) for each in (one, other)]
    if None not in most:
        told.append(f"Connections to the database, at most: {most[0]} with {one.flow}, {most[1]} with {other.flow}.")
    return " ".join(told)


def _verdicts(one: FlowResult, other: FlowResult) -> str:
    if one.verdict == other.verdict:
        where = ""
        if one.dependency and one.dependency == other.dependency:
            where = f" ({one.dependency})"
        return f"Of both the verdict is the same: {one.verdict}{where}."
    holding = [each for each in (one, other) if each.verdict == HOLDS]
    if not holding:
        return f"{_verdict(one)}; {_verdict(other)}."
    broken = other if holding[0] is one else one
    return f"{holding[0].flow} holds; {_verdict(broken)}."


def _verdict(flow: FlowResult) -> str:
    return f"{flow.flow}: {flow.verdict}{f' in the {flow.dependency}' if flow.dependency else ''}"


def _highest_common(one: FlowResult, other: FlowResult) -> tuple[Stage, Stage] | None:
    levels = {(stage.kind, _height(stage)): stage for stage in one.stages}
    common = [(levels[key], stage) for stage in other.stages if (key := (stage.kind, _height(stage))) in levels]
    return max(common, key=lambda pair: (pair[0].kind != "one at a time", _height(pair[0])), default=None)


def _height(stage: Stage) -> float:
    # In an open loop the concurrency is what came of it.
    return stage.rate_per_s if stage.kind == "open loop" else stage.concurrency


def _figures(one: str, other: str, mine: Stage, others: Stage) -> str:
    where = level(mine).capitalize()
    return f"{where}: {_line(one, mine)}; {_line(other, others)}."


def _line(flow: str, stage: Stage) -> str:
    return f"{flow} {figures_of(stage)}"


def _most_connections(flow: FlowResult) -> int | None:
    return max((stage.connections for stage in flow.stages if stage.connections is not None), default=None)
