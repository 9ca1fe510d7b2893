"""What comes from outside and ends up in a statement: names, which are quoted, and values in one fixed form of JSON."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.dialects import postgresql

from langflow_sluice.errors import InvalidInput

# PostgreSQL cuts longer names without a word (NAMEDATALEN - 1), so that two collections could become one.
MAX_NAME_BYTES = 63

_preparer = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]


def quote(name: str) -> str:
    """A name as an identifier in a statement that is executed with parameters (so ``%`` is doubled)."""
    return str(_preparer.quote_identifier(name))


def quote_text(text: str) -> str:
    """A text as a literal in a statement that is executed with parameters; for names from the catalog only.

    What users give goes to the server beside the statement. A text search configuration cannot: a bound one would not
    match the expression of an index.
    """
    return "'" + text.replace("'", "''").replace("%", "%%") + "'"


def checked_name(field: str, name: Any) -> str:
    """The name of a table, column or schema as given, if PostgreSQL can store it as it is.

    Any characters will do, since names are always quoted.

    Raises:
        InvalidInput: It is no text, empty, longer than 63 bytes, or holds what PostgreSQL cannot store.
    """
    if not isinstance(name, str) or not name.strip():
        raise InvalidInput.of(field, name, "it is empty", fix=f"Enter a name for {field}.")
    if "\0" in name or not is_storable(name):
        raise InvalidInput.of(field, name, "it holds characters that PostgreSQL cannot store", fix="Remove them.")
    size = len(name.encode())
    if size > MAX_NAME_BYTES:
        problem = f"it takes {size} bytes and PostgreSQL cuts names after {MAX_NAME_BYTES}"
        raise InvalidInput.of(field, name, problem, fix="Choose a shorter name.")
    return name


def is_storable(text: str) -> bool:
    """Whether a text has an UTF-8 form: one with half of a surrogate pair has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_json(mapping: Any) -> tuple[str, str]:
    """A mapping as JSON in one fixed form that PostgreSQL stores: ``(problem, text)``, one of which is empty."""
    if not hasattr(mapping, "keys"):
        return f"is of type {type(mapping).__name__}, not a mapping", ""
    try:
        text = json.dumps(dict(mapping), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as exc:
        return f"cannot be written as JSON ({type(exc).__name__}: {exc})", ""
    if not is_storable(text):
        return "holds a lone surrogate, which is no character", ""
    # An escaped NUL, unless the backslash in front of it is itself escaped.
    if "\\u0000" in text and "\\u0000" in text.replace("\\\\", ""):
        return "holds a NUL character, which PostgreSQL cannot store", ""
    return "", text
