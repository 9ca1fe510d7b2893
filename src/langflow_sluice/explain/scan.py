"""Finds the causes in a text: how often each was there, where first, and which of them is likely the root."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from itertools import pairwise
from typing import IO, TYPE_CHECKING

from langflow_sluice.explain.masking import excerpt
from langflow_sluice.explain.reading import blocks
from langflow_sluice.explain.table import FOLLOWS, active, recognise
from langflow_sluice.explain.tracebacks import LONGEST_MESSAGE, Chain, Event, header, is_source, is_structure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langflow_sluice.explain.diagnosis import Diagnosis, Recogniser

# Of a text in which nothing was found so many lines are looked at in pairs, since terminals wrap long ones.
_REREAD = 400


@dataclass(slots=True)
class Finding:
    """A cause that is in the text.

    Attributes:
        diagnosis: What it is.
        count: In how many failures it was; the tracebacks of one failure count once.
        first_line: The number of the line in which it was first, from 1.
        excerpt: What that line says, without credentials.
        follows: The cause that it likely comes from; empty for a likely root.
    """

    diagnosis: Diagnosis
    count: int
    first_line: int
    excerpt: str
    follows: str = ""


@dataclass(slots=True)
class Explanation:
    """What there is to say of a text.

    Attributes:
        findings: The most frequent first; of equally frequent ones the root.
        lines: How many lines were read.
        last_exception: The name of the last exception of which there is a traceback; empty if there is none.
    """

    findings: list[Finding] = field(default_factory=list)
    lines: int = 0
    last_exception: str = ""

    @property
    def recognised(self) -> bool:
        """Whether anything is known of it."""
        return bool(self.findings)

    @property
    def root(self) -> Finding | None:
        """The likely root of it all: the most frequent of those that come from no other."""
        return next((each for each in self.findings if not each.follows), None)


def explain(stream: IO[bytes]) -> Explanation:
    """Explains a log or an error, line by line, in memory that does not grow with it.

    Args:
        stream: The text, opened for reading bytes.
    """
    scanner = _Scanner()
    for lines in blocks(stream):
        scanner.read(lines)
    return scanner.end()


def explain_text(text: str) -> Explanation:
    """Explains an error that is at hand as text."""
    return explain(io.BytesIO(text.encode("utf-8", "replace")))


class _Scanner:
    def __init__(self) -> None:
        self._number = 0
        self._chain: Chain | None = None
        self._findings: dict[str, Finding] = {}
        self._raised: dict[str, str] = {}  # cause -> the root of the traceback that it was in
        self._latest: Event | None = None
        self._beginning: list[str] = []
        self._last_exception = ""

    def read(self, lines: Sequence[str]) -> None:
        block = "\n".join(lines).lower()
        asked = active(block)
        if len(self._beginning) < _REREAD:
            self._beginning += lines[: _REREAD - len(self._beginning)]
        if not asked and self._chain is None and not is_structure(block):
            self._number += len(lines)
            return
        for line in lines:
            self._number += 1
            # A log in JSON has a whole traceback in one line.
            is_boxed = self._chain is not None and self._chain.is_inside_box(line)
            if "\\n" in line and not is_boxed and header(line.lower()) >= 0:
                self._close()
                for part in line.split("\\n"):
                    self._take(part, asked)
                self._close()
            else:
                self._take(line, asked)

    def end(self) -> Explanation:
        self._close()
        if not self._findings:
            for number, (line, following) in enumerate(pairwise(self._beginning), start=1):
                joined = f"{line.rstrip()} {following.lstrip()}"
                found = None if is_source(line) or is_source(following) else recognise(joined)
                if found is not None:
                    self._count(Event(found[0], found[0].diagnosis, number, joined, found[1]))
        self._find_roots()
        findings = sorted(self._findings.values(), key=lambda each: (-each.count, bool(each.follows), each.first_line))
        return Explanation(findings, self._number, self._last_exception)

    def _take(self, line: str, asked: Sequence[Recogniser]) -> None:
        lowered = line.lower()
        chain = self._chain
        if chain is not None and chain.is_over(self._number):
            self._close()
            chain = None
        is_new = Chain().opens(line, lowered) if chain is None else chain.opens(line, lowered)
        if is_new is not None:
            if is_new:
                self._close()
                self._chain = Chain()
                self._chain.begin(line, header(lowered))
            return
        if chain is None and is_structure(lowered):
            # The text begins in the middle: what was said just before is the root.
            chain = self._chain = Chain()
            if self._latest is not None and self._number - self._latest.number <= LONGEST_MESSAGE:
                chain.add(self._latest)
        if chain is not None and chain.takes(line, lowered, self._number):
            return
        if chain is not None and chain.exception:
            self._last_exception = chain.exception
        found = None if is_source(line) else recognise(line, asked)
        if found is None:
            return
        recogniser, match = found
        diagnosis = recogniser.by_client.get(chain.client, recogniser.diagnosis) if chain else recogniser.diagnosis
        event = Event(recogniser, diagnosis, self._number, line, match)
        if chain is not None and chain.owns(line, self._number):
            chain.add(event)
        else:
            self._latest = event
            self._count(event)

    def _close(self) -> None:
        if self._chain is None:
            return
        events = self._chain.result()
        for event in events:
            if event is not self._latest:
                self._count(event)
        for event in events[1:]:
            self._raised.setdefault(event.diagnosis.cause, events[0].diagnosis.cause)
        self._chain = None

    def _count(self, event: Event) -> None:
        cause = event.diagnosis.cause
        known = self._findings.get(cause)
        if known is None:
            shown = excerpt(event.text, event.found)
            self._findings[cause] = Finding(event.diagnosis, 1, event.number, shown)
            return
        known.count += 1
        if event.number < known.first_line:
            known.first_line, known.excerpt = event.number, excerpt(event.text, event.found)

    def _find_roots(self) -> None:
        findings = self._findings
        for cause, finding in findings.items():
            raised_from = self._raised.get(cause)
            if raised_from is not None and self._raised.get(raised_from) != cause:
                finding.follows = raised_from
                continue
            earlier = [
                findings[each]
                for each in FOLLOWS.get(cause, ())
                if each in findings and findings[each].first_line <= finding.first_line
            ]
            if earlier:
                likeliest = max(earlier, key=lambda each: (each.count, each.first_line))
                finding.follows = likeliest.diagnosis.cause
        for cause, finding in findings.items():
            # Where all begin in one line, they could come from one another in a circle.
            step, seen = finding.follows, {cause}
            while step and step not in seen:
                seen.add(step)
                step = findings[step].follows
            if step == cause:
                finding.follows = ""
