"""Texts from a server without what would steer a terminal or could not be written."""

from __future__ import annotations

import re
import unicodedata

# All repeats are bounded, so that one which never ends takes nothing else with it.
_SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]{0,40}[ -/]{0,8}[@-~]|\x1b\][^\x07\x1b\n]{0,400}(?:\x07|\x1b\\)")


def printable(text: str) -> str:
    """The text without colours and marks that nobody sees; a ``?`` stands for what else cannot be shown.

    Lines and tabs are kept. What is left can be encoded as UTF-8, which half a surrogate pair cannot.
    """
    if text.isprintable():
        return text
    return "".join(map(_shown, _SEQUENCE.sub("", text)))


def on_a_line(text: str) -> str:
    """The same, on one line."""
    return " ".join(printable(text).split())


def _shown(letter: str) -> str:
    if letter.isprintable() or letter.isspace():
        # Other separators of lines would end one in some readers only.
        return letter if letter in "\n\t" or letter.isprintable() else " "
    # Among them those that turn the direction of writing around.
    return "" if unicodedata.category(letter) == "Cf" else "?"
