"""Takes credentials out of a line before it is shown."""

from __future__ import annotations

import re

MASK = "***"
# In this order. All repeats are bounded: see Recogniser.
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    # User and password of an address, also where the password holds an unquoted "@" or "/".
    (re.compile(r"://[^\s'\"<>@]{0,400}(?:@[^\s'\"<>@]{0,200}){0,3}@"), f"://{MASK}@"),
    (re.compile(r"(?i)\b(bearer|basic)[ +][\w.~+/=-]{6,4000}"), rf"\1 {MASK}"),
    (re.compile(r"\beyJ[\w-]{8,4000}(?:\.[\w-]{0,4000}){0,2}"), MASK),
    # By how providers' keys begin.
    (
        re.compile(
            r"\b(?:sk|pk|rk|gsk|hf|xai|ghp|gho|ghs|glpat|pplx|r8|nvapi|lsv2|xoxb|xoxp|AIza|AKIA|ASIA)[-_A-Z0-9]"
            r"[\w*-]{6,400}"
        ),
        MASK,
    ),
    # By the name in front: key=..., "password": "...", x-api-key: ..., also in a query.
    (
        re.compile(
            r"(?i)((?:api[-_ ]?key|access[-_]?key|secret(?:[-_]?key)?|token"
            r"|passw(?:or)?d|pwd|authorization|credential|cookie|pgpassword|[?&](?:key|sig|code))['\"]{0,1}\s{0,3}[:=]\s{0,3}[bu]{0,1}"
            r"['\"]{0,1})(?!\*\*\*|None\b|\d{1,9}\b)[^\s'\",;&)}\]]{3,4000}"
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"(?i)(API key provided: )[^\s,]{3,400}"), rf"\1{MASK}"),
    # Long runs that no word of a message is.
    (re.compile(r"(?<![\w/.-])(?=[\w+=-]{0,400}\d)[\w+=-]{40,4000}"), MASK),
)
# From here on a line of SQLAlchemy quotes what the user has entered.
_DATA = re.compile(r"\[(?:SQL|parameters): ")
_SHOWN = 240


def masked(line: str) -> str:
    """The line without keys, passwords and tokens."""
    for secret, instead in _SECRETS:
        line = secret.sub(instead, line)
    return line


def excerpt(line: str, found: re.Match[str]) -> str:
    """The part of a line around what was recognised, without credentials and without statements' parameters.

    Args:
        line: The line.
        found: Where it was recognised.
    """
    data = _DATA.search(line)
    if data is not None and data.start() >= found.end():
        line = line[: data.start()]
    # Masked as a whole, since the cut could take away the part by which a credential is known.
    line = masked(line)
    if len(line) > _SHOWN:
        start = max(0, min(line.find(found[0]) - _SHOWN // 4, len(line) - _SHOWN))
        end = start + _SHOWN
        line = f"{'...' if start else ''}{line[start:end].strip()}{'...' if end < len(line) else ''}"
    return "".join(char if char.isprintable() else " " for char in line).strip()
