"""What an error's text means, and how such a text is recognised."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langflow_sluice.errors import SluiceError

# A name of a resource in one of our own messages.
_NAME = r"\S{1,120}"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A cause, told in the words of who runs the flow.

    Attributes:
        cause: Stable identifier, in snake case.
        dependency: Who failed.
        happened: What happened, as a sentence.
        fix: What to do first.
        where: Nodes and settings to change, the most likely first.
        code: The ``code`` that Sluice's own error for it has; empty where Sluice has none.
        is_load: Whether it comes with load; False for what fails for a single call as well.
    """

    cause: str
    dependency: str
    happened: str
    fix: str
    where: tuple[str, ...]
    code: str = ""
    is_load: bool = True


@dataclass(frozen=True, slots=True)
class Recogniser:
    """Tells whether a line is about one cause.

    Patterns have bounded repeats only, so that the time they take grows with the line's length and no faster.

    Attributes:
        diagnosis: What the line means.
        words: In lower case; every line that the pattern matches holds one of them.
        pattern: Matches the error as programs print it, and not the mere mention of it.
        vague: Whether the text only says that something failed on the way, so that a more telling error of the same
            traceback explains it.
        by_client: What it means instead, by the client library (see ``tracebacks.CLIENTS``) whose frames led to it.
    """

    diagnosis: Diagnosis
    words: tuple[str, ...]
    pattern: re.Pattern[str]
    vague: bool = False
    by_client: Mapping[str, Diagnosis] = field(default_factory=dict)

    def search(self, line: str, lowered: str) -> re.Match[str] | None:
        """Where the line is about this cause.

        Args:
            line: The line.
            lowered: The same in lower case.
        """
        if not any(word in lowered for word in self.words):
            return None
        return self.pattern.search(line)


def recogniser(
    diagnosis: Diagnosis,
    pattern: str,
    words: tuple[str, ...],
    *,
    own: str = "",
    vague: bool = False,
    by_client: Mapping[str, Diagnosis] | None = None,
) -> Recogniser:
    """A recogniser from the pattern's source.

    Args:
        diagnosis: What it means.
        pattern: A regular expression; the case of letters does not count.
        words: As in :class:`Recogniser`.
        own: Pattern of the message by which Sluice itself reports this, see :func:`own_words`.
        vague: As in :class:`Recogniser`.
        by_client: As in :class:`Recogniser`.
    """
    if own:
        # The longest piece without a variable part.
        pieces = [re.sub(r"\\(.)", r"\1", piece) for piece in own.replace(r"5\d\d", _NAME).split(_NAME)]
        words = (*words, max(pieces, key=len).lower())
        pattern = f"{pattern}|{own}"
    return Recogniser(diagnosis, words, re.compile(pattern, re.IGNORECASE), vague, by_client or {})


def own_words(error: SluiceError, resource: str, *specific: str) -> str:
    """The pattern of the message with which Sluice reports this failure of any resource.

    Args:
        error: The error, made for ``resource``.
        resource: The name that stands for any other.
        specific: What follows in the message and is different from case to case; the pattern ends there.
    """
    head, _, tail = error.message.partition(resource)
    for each in specific:
        tail = tail.partition(each)[0]
    tail = re.escape(tail.rstrip(" .(")).replace("503", r"5\d\d")
    return f"{re.escape(head)}{_NAME}{tail}" if head else tail


def diagnosed(
    cause: str, dependency: str, error: SluiceError, where: tuple[str, ...], *, more: str = "", is_load: bool = True
) -> Diagnosis:
    """A diagnosis in the words of the error that Sluice raises for the same failure.

    Args:
        cause: As in :class:`Diagnosis`.
        dependency: As in :class:`Diagnosis`.
        error: What Sluice raises; made for a resource without a name of its own.
        where: As in :class:`Diagnosis`.
        more: What there is to say beyond the error's hint.
        is_load: As in :class:`Diagnosis`.
    """
    fix = f"{error.hint} {more}".rstrip()
    return Diagnosis(cause, dependency, error.message, fix, where, error.code, is_load)
