"""Words as the simulator compares them: lower-cased, lightly stemmed, without the ones that say nothing."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[^\W_]+")
_SUFFIXES = ("ing", "ed", "es", "ly", "s")
_SHORTEST_STEM = 3
_STOP_WORDS = frozenset(
    """
    a about all also an and any are as at be been but by can could d did do does for from had has have how i if in into
    is it its just ll m may me more most must my no not of on one only or other our out please re s should so some such
    t than that the their them then there these they this those to too under up us use ve very was we were what when
    where which while who whom whose why will with would you your
    """.split()  # noqa: SIM905 - a list of words reads better than a list of strings
)


def _stem(token: str) -> str:
    word = token
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _SHORTEST_STEM:
            word = word[: -len(suffix)]
            break
    if len(word) > _SHORTEST_STEM and (word[-1] == "e" or word[-1] == word[-2]):
        word = word[:-1]
    return word


def words(text: str) -> list[str]:
    """Splits a text into comparable words, in order and with repetitions.

    Args:
        text: Any text.

    Returns:
        The stems of its words without stop words; all stems when there is nothing but stop words, and the text itself
        when it has no word at all, so that only an empty text gives an empty list.
    """
    tokens = _TOKEN.findall(text.lower())
    telling = [_stem(token) for token in tokens if token not in _STOP_WORDS]
    if telling:
        return telling
    return [_stem(token) for token in tokens] or ([text] if text else [])
