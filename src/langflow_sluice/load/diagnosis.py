"""What a flow's stages say: where throughput ends, whether it is the load or a bug, and what gives way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from langflow_sluice.load.blame import blamed, failures
from langflow_sluice.load.causes import NO_ANSWER
from langflow_sluice.load.plan import spread_s

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Sequence

    from langflow_sluice.load.results import Cause, Sample, Stage

GROWTH: Final = 1.1
"""A level grows if its throughput is a tenth above the best of the levels below it."""

COLLAPSE: Final = 0.5
"""A level collapses if its throughput is less than half of the best of the levels below it."""

BEHIND: Final = 1.25
"""An open loop falls behind if it takes a quarter longer than its calls were spread over and one call takes alone."""

FEW: Final = 0.05
"""Of so many of its calls a stage may run out of time and has finished all the same."""

# One call may use several, and a pool keeps a few.
_WITHOUT_WORRY = 4
# What grows with the calls has grown by so much of the whole in each half of them; a pool that fills has not.
_STILL_GROWS = 0.25

HOLDS, SCALING, BUG, SILENT = "holds", "scaling problem", "bug", "no answer"
NOT_FINISHED = "not finished"


@dataclass(frozen=True, slots=True)
class Finding:
    """The fields of ``FlowResult`` of the same names."""

    knee: int | None
    verdict: str
    explanation: str
    dependency: str


def find(stages: Sequence[Stage], samples: Sequence[Sample], max_connections: int | None) -> Finding:
    """What there is to say of one flow.

    Args:
        stages: In the order in which they ran; one at least, the first one call at a time.
        samples: Of all stages.
        max_connections: Of the database; None where it was not asked.
    """
    alone, loaded = stages[0], stages[1:]
    knee = knee_of(stages)
    if _failed(alone) or not alone.succeeded:
        return _not_even_alone(alone, knee, _left_open(alone, loaded, samples))
    giving_way = [stage for stage in loaded if _gives_way(stage, alone, stages)]
    unfinished = [stage for stage in stages if stage not in giving_way and _is_unfinished(stage)]
    whole = [stage for stage in loaded if stage not in giving_way and stage not in unfinished]
    told = [_holding(alone, "One at a time"), _left_open(alone, loaded, samples)]
    if not giving_way:
        if whole:
            told.append(_holding(max(whole, key=lambda stage: (stage.rate_per_s, stage.concurrency)), "At most"))
        if unfinished:
            told += [*map(_did_not_finish, unfinished), _MORE_TIME]
        told.append(_knee_told(knee, stages))
        return Finding(knee, NOT_FINISHED if unfinished else HOLDS, " ".join(filter(None, told)), "")
    first = giving_way[0]
    held = [stage for stage in whole if stage.begins_s < first.begins_s]
    if held:
        told.append(_holding(held[-1], "Still right"))
    told += [_did_not_finish(stage) for stage in unfinished if stage.begins_s < first.begins_s]
    blame = blamed(giving_way, samples, max_connections)
    told += [_gave_way(first), *([] if len(giving_way) == 1 else [_gave_way(giving_way[-1])])]
    told += [blame.why, blame.fix, _knee_told(knee, stages)]
    return Finding(knee, SCALING, " ".join(filter(None, told)), blame.dependency)


def knee_of(stages: Iterable[Stage]) -> int | None:
    """The largest concurrency at which throughput still grew by a tenth over the best before it.

    None if it grew up to the largest one that there was, or in an open loop, where callers decide on the concurrency.
    """
    levels = [stage for stage in stages if stage.kind != "open loop"]
    best, knee = 0.0, None
    for stage in levels:
        if stage.throughput_per_s > best * GROWTH:
            best, knee = stage.throughput_per_s, stage.concurrency
    return None if knee is None or knee == levels[-1].concurrency else knee


def level(stage: Stage) -> str:
    """What a stage was, as part of a sentence."""
    if stage.kind == "open loop":
        return f"at {stage.rate_per_s:g} calls a second"
    return "one at a time" if stage.kind == "one at a time" else f"with {stage.concurrency} at once"


def figures_of(stage: Stage) -> str:
    """What came of a stage, as part of a sentence; how long calls took is told of those that were answered."""
    answered = f"{stage.succeeded} of {stage.requests} calls answered"
    if not stage.succeeded:
        return answered
    return f"{answered}, {stage.throughput_per_s:.2g} a second, p95 of these {stage.success_latency.p95_s:.2g} s"


def _failed(stage: Stage) -> int:
    """Calls that failed by themselves, and not because the run had no more time for them."""
    return sum(cause.count for cause in stage.causes if cause.code != "cut_off")


def _given_up(stage: Stage) -> int:
    return sum(cause.count for cause in stage.causes if cause.code == "cut_off")


def _is_unfinished(stage: Stage) -> bool:
    return bool(stage.unsent) or _given_up(stage) > FEW * stage.requests


def _gives_way(stage: Stage, alone: Stage, stages: Sequence[Stage]) -> bool:
    if _failed(stage) or (stage.requests and not stage.succeeded):
        return True
    if stage.kind == "open loop":
        return _is_behind(stage, alone)
    below = [each.throughput_per_s for each in stages if each.begins_s < stage.begins_s]
    return bool(stage.requests) and stage.throughput_per_s < COLLAPSE * max(below, default=0.0)


def _is_behind(stage: Stage, alone: Stage) -> bool:
    # Of one that was ended all were due before the first that was not sent.
    due = stage.requests + 1 if stage.unsent else stage.requests
    return stage.seconds > BEHIND * (spread_s(due, stage.rate_per_s) + alone.latency.max_s)


def _left_open(alone: Stage, loaded: Sequence[Stage], samples: Sequence[Sample]) -> str:
    """Says it if calls that are made one at a time leave more and more connections open."""
    until = min((stage.begins_s for stage in loaded), default=math.inf)
    counted = [each.connections for each in samples if each.connections is not None and each.at_s < until]
    if not counted:
        return ""
    halfway = counted[len(counted) // 2]
    left = counted[-1] - counted[0]
    if left <= _WITHOUT_WORRY or min(halfway - counted[0], counted[-1] - halfway) < _STILL_GROWS * left:
        return ""
    return (
        f"These {alone.requests} calls alone left {left} more connections to the database open than there were, and"
        " their number grew from call to call: with enough calls it runs out of them at any level."
    )


def _not_even_alone(alone: Stage, knee: int | None, left_open: str) -> Finding:
    causes = failures([alone])
    if not alone.succeeded and all(cause.code in NO_ANSWER for cause in causes):
        what = f"None of {alone.requests} calls, made one at a time, was answered."
        more = " ".join(f"{cause.text} {cause.fix}" for cause, _ in causes.most_common(1))
        return Finding(knee, SILENT, f"{what} {more}".strip(), "langflow")
    main, _ = max(causes.items(), key=lambda item: (item[0].code != "cut_off", item[1]))
    told = [
        f"It fails one at a time too: {_failed(alone)} of {alone.requests} calls, so it is not the load.",
        left_open,
        _causes_told(causes),
        f"{'' if len(causes) == 1 else 'Above all: '}{main.text.rstrip('.')}.",
    ]
    if main.is_load:
        told.append("Other load of the same service, or a limit below what one call needs, could bring it about too.")
    told.append(f"Change: {main.fix}" if main.fix else _LOOK)
    return Finding(knee, BUG, " ".join(filter(None, told)), main.dependency)


_LOOK = "Run the flow on the canvas with the same input, and look at the node that fails."


def _holding(stage: Stage, where: str) -> str:
    what = "" if stage.kind == "one at a time" else f" {level(stage)}"
    return f"{where}{what}: {figures_of(stage)}."


_MORE_TIME = "Raise --max-seconds, or make fewer calls, to see whether it holds."


def _did_not_finish(stage: Stage) -> str:
    planned, answered = stage.requests + stage.unsent, stage.succeeded
    return f"{level(stage).capitalize()} it did not finish: of {planned} calls {answered} were answered{_left(stage)}."


def _left(stage: Stage) -> str:
    """What became of those that had no more time, as the end of a sentence."""
    told = [f"{_given_up(stage)} given up"] if _given_up(stage) else []
    told += [f"{stage.unsent} not sent"] if stage.unsent else []
    return f", {' and '.join(told)}" if told else ""


def _gave_way(stage: Stage) -> str:
    failed = _failed(stage)
    if failed:
        own = failures([stage])
        return f"{level(stage).capitalize()} {failed} of {stage.requests} calls failed ({_counts(own)}){_left(stage)}."
    if stage.kind == "open loop":
        late = f"the last of {stage.requests} calls was answered after {stage.seconds:.3g} s"
        return f"{level(stage).capitalize()} it falls behind: {late}{_left(stage)}."
    return f"{level(stage).capitalize()} it collapses to {stage.throughput_per_s:.2g} answers a second{_left(stage)}."


def _counts(causes: Counter[Cause]) -> str:
    return ", ".join(f"{count} {cause.code}" for cause, count in causes.most_common() if cause.code != "cut_off")


def _causes_told(causes: Counter[Cause]) -> str:
    return f"Causes: {_counts(causes)}."


def _knee_told(knee: int | None, stages: Sequence[Stage]) -> str:
    levels = [stage for stage in stages if stage.kind != "open loop"]
    if len(levels) <= 1:
        return ""
    if knee is None:
        return f"Throughput grew up to the largest level, {levels[-1].concurrency} at once."
    return f"Above {knee} at once throughput no longer grows."
