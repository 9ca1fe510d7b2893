"""Which dependency gave way under load: by what the errors say, and by what was seen where they say nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langflow_sluice.load.causes import NO_ANSWER, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langflow_sluice.load.results import Cause, Sample, Stage

# Connections that may be left where there are none to be had: they come and go between two looks.
_NEARLY_ALL = 2
_LAG_S = 1.0
_MOST = 0.5

_PARTS = {
    "guard": "in the queues of guards and pools",
    "provider": "at the model provider",
    "database": "in the database",
    "langflow": "in Langflow itself",
}
_GENERAL = {
    "database": "Let fewer connections be opened: Pooled PG Retriever and Pooled PG Writer in place of stock PGVector"
    " nodes; the sum over all workers must stay below max_connections (sluice doctor does it).",
    "provider": "Put a guard in front of it: Guarded Model or Rate-Limited LLM with max_concurrency.",
    "guard": "The guards hold calls back, which is what they are for: raise max_concurrency only as far as the service"
    " behind them allows.",
    "langflow": "Send fewer calls at once, or give it more workers (LANGFLOW_WORKERS); sluice doctor checks its"
    " settings.",
}
_LOOK_AT_LOG = "Look into the server's log at that time: sluice explain --file LOG."


@dataclass(frozen=True, slots=True)
class Blame:
    """What gives way.

    Attributes:
        dependency: In one word; empty where nobody can tell.
        why: By what that is known, in sentences.
        fix: What to change, in sentences.
    """

    dependency: str
    why: str
    fix: str


def blamed(stages: Sequence[Stage], samples: Sequence[Sample], max_connections: int | None) -> Blame:
    """What gave way in these stages.

    Args:
        stages: Those in which something did, one at least.
        samples: Of the whole flow.
        max_connections: Of the database; None where it was not asked.
    """
    causes = failures(stages)
    full = _full(stages, max_connections)
    dependency, why = _by_errors(causes, full) or _by_sight(stages, samples, full) or ("", "")
    if not why and causes and all(cause.code in NO_ANSWER for cause in causes):
        dependency, why = "langflow", "Langflow gives way: it did not answer any more, and no error says why."
    return Blame(dependency, why or "Nothing that was seen says what gives way.", _fix(dependency, causes))


def failures(stages: Iterable[Stage]) -> Counter[Cause]:
    """How many calls of all these stages failed of each cause."""
    counted: Counter[Cause] = Counter()
    first: dict[str, Cause] = {}
    for stage in stages:
        for cause in stage.causes:
            counted[first.setdefault(cause.code, cause)] += cause.count
    return counted


def _full(stages: Sequence[Stage], max_connections: int | None) -> str:
    used = max((stage.connections for stage in stages if stage.connections is not None), default=None)
    if used is None or max_connections is None or used < max_connections - _NEARLY_ALL:
        return ""
    return f"{used} of {max_connections} connections to the database were taken, and one by this look at it"


def _by_errors(causes: Counter[Cause], full: str) -> tuple[str, str] | None:
    named: Counter[str] = Counter()
    for cause, count in causes.items():
        if cause.dependency != UNKNOWN and cause.code not in NO_ANSWER:
            named[cause.dependency] += count
    if not named:
        return None
    dependency, count = named.most_common(1)[0]
    of_all = f"{count} of {causes.total()} failed calls"
    if full and dependency != "database":
        # An error is often told by whoever waited in vain, and a full database makes all wait.
        if named["database"] or count < _MOST * causes.total():
            return "database", f"The database gives way: {full}."
        return dependency, f"The {dependency} gives way ({of_all}); also, {full}."
    main = next(cause for cause, _ in causes.most_common() if cause.dependency == dependency)
    seen = f"; {full}" if full else ""
    return dependency, f"The {dependency} gives way ({of_all}{seen}). {main.text.rstrip('.')}."


def _by_sight(stages: Sequence[Stage], samples: Sequence[Sample], full: str) -> tuple[str, str] | None:
    if full:
        return "database", f"The database gives way: the errors do not say so, but {full}."
    since = stages[0].begins_s
    lag = max((each.loop_lag_s or 0.0 for each in samples if each.at_s >= since), default=0.0)
    if lag > _LAG_S:
        return "langflow", f"Langflow gives way: its event loop was blocked for up to {lag:.1f} s."
    split = max(stages, key=lambda stage: stage.latency.mean_s).split
    parts = {
        "guard": split.queue_s,
        "provider": split.provider_s,
        "database": split.database_s,
        "langflow": split.langflow_s,
    }
    # Without the rest, which is Langflow's, nobody knows what the other parts are a half of.
    if split.langflow_s is None:
        return None
    known = {name: part for name, part in parts.items() if part}
    for name, part in known.items():
        if part > _MOST * sum(known.values()):
            return name, f"Most of a call's time goes there: {part:.2g} of {sum(known.values()):.2g} s {_PARTS[name]}."
    return None


def _fix(dependency: str, causes: Counter[Cause]) -> str:
    for cause, _ in causes.most_common():
        if cause.dependency == dependency and cause.fix:
            return f"Change: {cause.fix}"
    return f"Change: {_GENERAL[dependency]}" if dependency in _GENERAL else _LOOK_AT_LOG
