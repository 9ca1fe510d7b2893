"""What a text asks of a full-text search, in the language that web searches taught everybody."""

from __future__ import annotations

import re
from dataclasses import dataclass

from langflow_sluice.postgres.names import is_storable

# PostgreSQL refuses a query with a word of more than 2,046 bytes, or of more than 1 MB in all.
MAX_WORD = 500
MAX_TEXT = 20_000

_PIECE = re.compile(r'-?"[^"]*"?|[^\s"]+')


@dataclass(frozen=True, slots=True)
class Keywords:
    """Both in the syntax of ``websearch_to_tsquery``, which takes any text.

    Attributes:
        wanted: Words and quoted phrases, of which rows should have some, the more the better; no exclusions.
        unwanted: Words and quoted phrases that rows must not have; may be empty.
    """

    wanted: str
    unwanted: str


def read_keywords(text: str) -> Keywords:
    """Takes a question apart; never fails.

    Quotes make a phrase. A minus before a letter or a quote excludes; before a digit it is a number's, since questions
    have those more often than they exclude one. What PostgreSQL would refuse is left out.
    """
    text = text[:MAX_TEXT].replace("\0", " ")
    if not is_storable(text):
        text = text.encode("utf-8", "replace").decode()
    wanted, unwanted = [], []
    for piece in _PIECE.findall(text):
        bare = piece.lstrip("-")
        if not bare or (len(bare) > MAX_WORD and not bare.startswith('"')):
            continue
        excludes = len(piece) - len(bare) == 1 and (bare[:1].isalpha() or bare.startswith('"'))
        if excludes:
            unwanted.append(bare)
        elif bare != piece and bare[:1].isdigit():
            wanted.append(f'"-{bare}"')
        else:
            wanted.append(bare)
    return Keywords(" ".join(wanted), " ".join(unwanted))
