"""Which lines of a log belong to one failure: the tracebacks of exceptions that were raised from one another."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langflow_sluice.explain.diagnosis import Diagnosis, Recogniser

# The packages whose frames tell what a bare TimeoutError or a refused connection was about.
CLIENTS: dict[str, str] = {
    **dict.fromkeys(("asyncpg", "psycopg", "psycopg2", "psycopg_pool", "psycopg_binary", "aiopg"), "database"),
    **dict.fromkeys(("redis", "aioredis"), "redis"),
    **dict.fromkeys(("httpx", "httpcore", "openai", "anthropic", "ollama", "groq", "litellm", "cohere"), "provider"),
    **dict.fromkeys(("mistralai", "botocore", "aiohttp", "requests", "urllib3"), "provider"),
}
_HEADER = "traceback (most recent call last)"
_CONNECTORS = ("the above exception was the direct cause", "during handling of the above exception")
_PACKAGE = re.compile(r"(?:site|dist)-packages[/\\](\w{1,60})|File \"(asyncpg)/")
_FRAME = re.compile(r"[\s^~|+│┃❱]|File |-{1,9}> |/|<ipython|[A-Za-z]:\\|$")
# IPython has the error's name in front of the header.
_NOTEBOOK = re.compile(r"\w[\w.]{0,100}\s{2,80}$")
# A line of source, which names errors that were not raised.
_SOURCE = re.compile(
    r"\s{0,200}(?:except\b.{0,200}:|raise \w|from \S{1,100} import\b|import \w|class \w{1,80}\(|(?:async )?def \w"
    r"|await \w|return \w)"
)
# The beginning of a record of a log, as opposed to a further line of a message.
_RECORD = re.compile(
    r"\W{0,4}(?:\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL|FATAL)\b)|\S{1,60} +\| "
)
_EXCEPTION = re.compile(r"((?:[A-Za-z_]\w{0,80}\.){0,8}[A-Z]\w{1,80})(?::|$)")
# Lines of a message that may stand between an exception and the words that it led to another.
LONGEST_MESSAGE = 40
_ADJACENT = 12


@dataclass(slots=True)
class Event:
    """One line that was recognised.

    Attributes:
        recogniser: By what.
        diagnosis: What it means, the client in whose frames it happened considered.
        number: The number of the line, from 1.
        text: The line.
        found: Where in it.
    """

    recogniser: Recogniser
    diagnosis: Diagnosis
    number: int
    text: str
    found: re.Match[str]


@dataclass(slots=True)
class Chain:
    """Tracebacks that belong together, as far as they were read.

    Attributes:
        events: What was recognised in them, in their order: the root first.
        client: The kind of client that the latest frames belong to; empty if none is known.
        exception: The name of the latest exception.
    """

    events: list[Event] = field(default_factory=list)
    client: str = ""
    exception: str = ""
    _column: int = 0
    _in_frames: bool = False
    _is_boxed: bool = False
    _is_record: bool = False
    _ended_at: int = 0
    _goes_on: bool = False

    def add(self, event: Event) -> None:
        """Keeps an event, unless its cause is known already."""
        if event.diagnosis.cause not in {each.diagnosis.cause for each in self.events}:
            self.events.append(event)

    def result(self) -> list[Event]:
        """What the tracebacks are about, the root first; of vague words only the first, and none beside better."""
        clear = [each for each in self.events if not each.recogniser.vague]
        return clear or self.events[:1]

    def opens(self, line: str, lowered: str) -> bool | None:
        """Whether a line begins a traceback: True of a new chain, False of this one, None if it begins none."""
        column = lowered.find(_HEADER)
        if column < 0 or self.is_inside_box(line):
            return None
        belongs = self._goes_on or self._in_frames
        if not belongs:
            return True
        self.begin(line, column)
        return False

    def is_inside_box(self, line: str) -> bool:
        """Whether a line is within a traceback that rich has drawn, which shows the values of variables too."""
        return self._in_frames and self._is_boxed and line.lstrip().startswith("│")

    def begin(self, line: str, column: int) -> None:
        """The header of a traceback was read."""
        self._is_boxed = "╭" in line[:column]
        self._column = 0 if self._is_boxed or _NOTEBOOK.match(line[:column]) else column
        self._in_frames, self._goes_on = True, False

    def takes(self, line: str, lowered: str, number: int) -> bool:
        """Reads a line: whether it is a part of the tracebacks that says nothing of a cause by itself."""
        if any(each in lowered for each in _CONNECTORS):
            self._goes_on, self._in_frames = True, False
            return True
        if self._in_frames:
            text = line[self._column :]
            if _FRAME.match(text) or (self._is_boxed and text.startswith("╰")) or _SOURCE.match(text):
                found = _PACKAGE.search(line)
                if found:
                    self.client = CLIENTS.get(found[1] or found[2], self.client)
                return True
            self._in_frames = False
            self._ended_at, self._is_record = number, _RECORD.match(line) is not None
            named = _EXCEPTION.match(text)
            self.exception = named[1] if named else self.exception
        return False

    def owns(self, line: str, number: int) -> bool:
        """Whether an error in this line is a part of the latest exception's message."""
        if number == self._ended_at:
            return True
        return number - self._ended_at <= _ADJACENT and not self._is_record and _RECORD.match(line) is None

    def is_over(self, number: int) -> bool:
        """Whether nothing can follow that belongs to it."""
        return not self._in_frames and not self._goes_on and number - self._ended_at > LONGEST_MESSAGE


def header(lowered: str) -> int:
    """Where a traceback's header stands in a line in lower case; -1 if it holds none."""
    return lowered.find(_HEADER)


def is_structure(lowered: str) -> bool:
    """Whether a text in lower case has parts of tracebacks."""
    return _HEADER in lowered or any(each in lowered for each in _CONNECTORS)


def is_source(line: str) -> bool:
    """Whether a line is code, which may name errors without any having been raised."""
    return _SOURCE.match(line) is not None
