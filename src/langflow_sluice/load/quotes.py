"""Finds what a text quotes of another, however that was escaped, wrapped or cut on the way."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

RUN: Final = 16
"""So many letters and digits in a row are a quote: with what stands between them, about twenty characters."""

# Letters and digits, also those that JSON or Python has escaped, also twice; an escaped line break is none.
_LETTERS = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|[abfnrtv])|([^\W_]+)")


def runs_of(text: str) -> set[str]:
    """By what quotes of this text are known; empty if it is shorter than one."""
    letters, _ = _letters(text)
    return {letters[at : at + RUN] for at in range(len(letters) - RUN + 1)}


def quotes(text: str, runs: Collection[str]) -> list[tuple[int, int]]:
    """Where the text quotes others: beginnings and ends, in order and apart from each other.

    Args:
        text: The text.
        runs: Of the others.
    """
    letters, places = _letters(text)
    found: list[tuple[int, int]] = []
    for at in range(len(letters) - RUN + 1):
        if letters[at : at + RUN] not in runs:
            continue
        if found and at <= found[-1][1]:
            found[-1] = (found[-1][0], at + RUN)
        else:
            found.append((at, at + RUN))
    return [(places[first][0], places[end - 1][1]) for first, end in found]


def without(text: str, parts: list[tuple[int, int]], instead: str) -> str:
    """The text with something else in place of these parts of it, which ``quotes`` has found."""
    borders = [(0, 0), *parts, (len(text), len(text))]
    return instead.join(text[end:begin] for (_, end), (begin, _) in pairwise(borders))


def _letters(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Letters and digits of a text, and where in it each stands."""
    letters: list[str] = []
    places: list[tuple[int, int]] = []
    for found in _LETTERS.finditer(text):
        escaped = found[1] or found[2]
        if escaped:
            letter = chr(int(escaped, 16))
            if letter.isalnum():
                letters.append(letter)
                places.append(found.span())
        elif found[3]:
            letters += found[3]
            places += ((at, at + 1) for at in range(*found.span(3)))
    return "".join(letters), places
