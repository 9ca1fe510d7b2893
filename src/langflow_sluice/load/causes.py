"""Groups failed calls by what is known to bring their errors about."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from langflow_sluice.explain.masking import MASK, masked
from langflow_sluice.load.printable import on_a_line, printable
from langflow_sluice.load.quotes import quotes, runs_of, without
from langflow_sluice.load.results import Cause

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from langflow_sluice.explain.diagnosis import Diagnosis
    from langflow_sluice.load.call import Failure, Kind
    from langflow_sluice.load.plan import Asked

UNKNOWN: Final = "unknown"
# Of these a report says nothing but that there was no answer.
NO_ANSWER: Final = frozenset({"client_timeout", "unreachable", "broke_off", "cut_off"})

_SHOWN = 240
_SHORTEST_SECRET = 4
_SECRET_NAME = re.compile(r"key|passw|secret|token|credential|auth", re.IGNORECASE)
_NETWORK = frozenset({"certificate_or_tls", "name_resolution", "connection_refused"})
# Of our own errors those that speak for a pool, not for a guard.
_OF_DATABASE = frozenset({"pool_timeout"})

_LOG = "Look into the server's log at that time, and ask sluice doctor about its settings."
# Dependency, what happened, what to do.
_OWN: dict[Kind, tuple[str, str, str]] = {
    "no_result": (
        "flow",
        "Langflow answered without a result.",
        "Run the flow on the canvas with the same input: it needs an output node that gets something.",
    ),
    "client_timeout": (
        "langflow",
        "Langflow did not answer within --timeout.",
        f"{_LOG} Raise --timeout if the flow is meant to take so long.",
    ),
    "unreachable": ("langflow", "Nobody took the connection to Langflow.", _LOG),
    "broke_off": (
        "langflow",
        "The connection to Langflow broke before there was an answer: a worker may have been killed.",
        f"{_LOG} LANGFLOW_WORKER_TIMEOUT and the machine's memory are the usual limits.",
    ),
    "cut_off": (
        UNKNOWN,
        "Given up while under way, since the stage's time was over or the run was stopped.",
        "Raise --max-seconds, or make fewer calls.",
    ),
}


@dataclass(frozen=True, slots=True)
class Hidden:
    """What no report may show, though a server's error may quote it.

    Attributes:
        texts: Short ones, hidden where they stand as a whole; the longest first.
        runs: Of long ones, which are hidden where a part of them stands; see ``quotes``.
    """

    texts: tuple[str, ...]
    runs: frozenset[str] = frozenset()

    @classmethod
    def of(cls, what: Asked, *secrets: str) -> Hidden:
        """Of what calls carry, and the secrets that were given."""
        tweaks = list(_texts_in(what.tweaks))
        plain = {*what.inputs, *(text for name, text in tweaks if _SECRET_NAME.search(name)), *secrets}
        runs = frozenset[str]().union(*map(runs_of, plain), *(runs_of(text) for _, text in tweaks))
        # A short value of a tweak may be the name of a model, which an error has to name.
        short = {part.strip() for text in plain for part in (text, *text.splitlines()) if not runs_of(part)}
        forms = {form for text in short for form in (*_escaped(text), *_escaped(" ".join(text.split())))}
        kept = {form for form in forms if len(form) >= _SHORTEST_SECRET}
        return cls(tuple(sorted(kept, key=len, reverse=True)), runs)

    def out_of(self, text: str) -> str:
        """The text without all that, without what looks like a credential, and fit to be shown."""
        text = printable(text)
        text = without(text, quotes(text, self.runs), MASK)
        for each in self.texts:
            text = text.replace(each, MASK)
        return masked(text)


def _escaped(text: str) -> tuple[str, str, str]:
    return text, json.dumps(text)[1:-1], repr(text)[1:-1]


def _texts_in(tweaks: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All texts among the values, each with the name that it goes by."""
    if isinstance(tweaks, str):
        yield name, tweaks
    elif isinstance(tweaks, (list, tuple)):
        for each in tweaks:
            yield from _texts_in(each, name)
    elif isinstance(tweaks, dict):
        for key, value in tweaks.items():
            yield from _texts_in(value, str(key))


def causes_of(failures: Iterable[Failure], hidden: Hidden) -> tuple[Cause, ...]:
    """The causes of failed calls, most frequent first; of the same frequency, the one that came first.

    Args:
        failures: In the order in which they came.
        hidden: What must not be shown.
    """
    # Under load the same error comes again and again, and reading one takes longer than counting it.
    counted = Counter(failures)
    found: dict[str, Cause] = {}
    for failure, count in counted.items():
        diagnosis = _diagnosis_of(failure) if failure.kind == "error" else None
        code = diagnosis.cause if diagnosis else UNKNOWN if failure.kind == "error" else failure.kind
        known = found.get(code) or _cause_of(failure, diagnosis, hidden)
        found[code] = replace(known, count=known.count + count)
    return tuple(sorted(found.values(), key=lambda each: -each.count))


def _diagnosis_of(failure: Failure) -> Diagnosis | None:
    from langflow_sluice.explain.scan import explain_text

    # Read from the text as it came, since what is hidden could be a word of the error.
    root = explain_text(failure.text).root
    return root.diagnosis if root else None


def _cause_of(failure: Failure, diagnosis: Diagnosis | None, hidden: Hidden) -> Cause:
    if failure.kind != "error":
        return Cause(failure.kind, *_OWN[failure.kind], is_load=None, count=0, example="")
    from langflow_sluice.explain.scan import explain_text

    shown = hidden.out_of(failure.text)
    if diagnosis is None:
        who = f"Langflow answered {failure.status}" if failure.status else "A call failed"
        what = f"{who} with an error that Sluice does not know."
        return Cause(UNKNOWN, UNKNOWN, what, "", is_load=None, count=0, example=_shortened(shown))
    same = next((each for each in explain_text(shown).findings if each.diagnosis.cause == diagnosis.cause), None)
    return Cause(
        diagnosis.cause,
        _areas().get(diagnosis.cause, UNKNOWN),
        diagnosis.happened,
        f"{diagnosis.fix} Where: {'; '.join(diagnosis.where)}.",
        is_load=diagnosis.is_load,
        count=0,
        example=_shortened(same.excerpt if same else shown),
    )


def _shortened(text: str) -> str:
    line = on_a_line(text)
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN].rstrip()}..."


@functools.lru_cache(maxsize=1)
def _areas() -> dict[str, str]:
    """Which dependency each diagnosis is about, in one word."""
    from langflow_sluice.explain import database, langflow, provider, redis, runtime, sluice

    modules = (
        (runtime, "langflow"),
        (langflow, "langflow"),
        (sluice, "guard"),
        (redis, "redis"),
        (provider, "provider"),
        (database, "database"),
    )
    areas = {each.diagnosis.cause: area for module, area in modules for each in module.RECOGNISERS}
    return {**areas, **dict.fromkeys(_NETWORK, "network"), **dict.fromkeys(_OF_DATABASE, "database")}
