"""The language of metadata filters: the operators that LangChain's PGVector knows, read from JSON and checked.

Every condition is true or false of a row, never unknown: a field that a row lacks, or whose value is of another type,
does not match (``$ne`` and ``$nin`` want the field to be there, too), and ``$not`` is the exact opposite of what it
holds. ``conditions`` makes SQL of a filter.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from langflow_sluice.errors import InvalidInput
from langflow_sluice.postgres.names import as_json

# A filter is written by people; one that is larger was made by a program gone astray.
MAX_DEPTH = 32
MAX_VALUES = 10_000
_LARGEST = 1e300

Scalar = str | int | float | bool | None
Test = Literal["in", "contains", "exists", "<", "<=", ">", ">=", "like", "ilike"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One field against values.

    Attributes:
        path: The field's name; further names lead into nested objects.
        test: ``in`` is equality with one of the values, ``contains`` is a list's having the value.
        values: At least one, unless the test is ``exists``; exactly one unless it is ``in``.
    """

    path: tuple[str, ...]
    test: Test
    values: tuple[Scalar, ...] = ()


@dataclass(frozen=True, slots=True)
class Junction:
    """Conditions of which all (``and``) or at least one (``or``) must be true; at least one."""

    word: Literal["and", "or"]
    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Negation:
    """The opposite of a condition."""

    part: Condition


Condition = Comparison | Junction | Negation


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter that was read and checked.

    Attributes:
        text: It as JSON in one fixed form, which is its identity.
        condition: What a row must fulfil.
    """

    text: str
    condition: Condition

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        # Not by the condition: to Python 1, 1.0 and True are the same.
        return isinstance(other, Filter) and other.text == self.text


_ORDERS: dict[str, Test] = {"$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}
_PATTERNS: dict[str, Test] = {"$like": "like", "$ilike": "ilike"}
_JUNCTIONS: dict[str, Literal["and", "or"]] = {"$and": "and", "$or": "or"}
_OF_FIELDS = ("$eq", "$ne", *_ORDERS, "$in", "$nin", "$between", "$exists", *_PATTERNS, "$contains", "$not")
_OF_CONDITIONS = (*_JUNCTIONS, "$not")
_EXAMPLE = 'Enter it as {"name": value} or {"name": {"$gte": value}}.'


def read_filter(given: Any) -> Filter | None:
    """Reads what a user gave as a filter.

    A plain ``{"name": value}`` is equality, and of several all must be true. Fields of the canvas hold nothing but
    text, so there a text also equals the number, ``true`` or ``false`` that it spells (``{"$eq": "5"}`` equals text
    only), and a text that spells a JSON object of operators is read as one.

    Args:
        given: A mapping, the text of a JSON object, or nothing.

    Returns:
        The filter; ``None`` if all rows pass.

    Raises:
        InvalidInput: It is no filter; says where, and which operators there are.
    """
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    found = _spelled(given)
    given = given if found is None else found
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        msg = f"filter is of type {type(given).__name__}: it is no JSON object."
        raise InvalidInput(msg, hint=_EXAMPLE)
    # The canvas sends a line that nobody has filled in as an empty name with an empty text.
    problem, text = as_json({name: value for name, value in given.items() if name or value})
    if problem:
        msg = f"filter {problem}."
        raise InvalidInput(msg, hint="Remove it from the filter.")
    plain = json.loads(text)  # nothing but JSON's own types from here on
    return Filter(text, _Reader().conditions(plain, 0)) if plain else None


class _Reader:
    """Reads one filter; counts its values."""

    def __init__(self) -> None:
        self._values = 0

    def conditions(self, given: dict[str, Any], depth: int, path: tuple[str, ...] = ()) -> Condition:
        """All of an object's entries, each a field or, outside of fields, an operator over conditions."""
        if depth > MAX_DEPTH:
            raise _too_deep()
        parts = [self._entry(name, value, depth + 1, path) for name, value in given.items()]
        return parts[0] if len(parts) == 1 else Junction("and", tuple(parts))

    def _entry(self, name: str, value: Any, depth: int, path: tuple[str, ...]) -> Condition:
        if path or not name.startswith("$"):
            return self._field((*path, name), value, depth)
        if name not in _OF_CONDITIONS:
            raise _unknown(name, _OF_CONDITIONS)
        value = _spelled(value) or value
        if name == "$not":
            return Negation(self.conditions(_conditions_in(name, value), depth))
        if not isinstance(value, list) or not value:
            msg = f"filter gives {name} {_shown(value)}: it takes a list of conditions."
            raise InvalidInput(msg, hint=f'Enter it as {{"{name}": [{{"name": value}}, {{"name": value}}]}}.')
        return Junction(_JUNCTIONS[name], tuple(self.conditions(_conditions_in(name, part), depth) for part in value))

    def _field(self, path: tuple[str, ...], value: Any, depth: int) -> Condition:
        if depth > MAX_DEPTH:
            raise _too_deep()
        value = _spelled_operators(value)
        if not isinstance(value, dict):
            return Comparison(path, "in", _meant(self._scalar(path, "", value)))
        operators = [name for name in value if name.startswith("$")]
        if not value or 0 < len(operators) < len(value):
            raise _takes(path, "", value, "either operators or fields, and at least one")
        if not operators:
            return self.conditions(value, depth, path)
        parts = tuple(self._operator(path, name, value[name], depth) for name in operators)
        return parts[0] if len(parts) == 1 else Junction("and", parts)

    def _operator(self, path: tuple[str, ...], name: str, value: Any, depth: int) -> Condition:
        if name not in _OF_FIELDS:
            raise _unknown(name, _OF_FIELDS)
        if name in _ORDERS:
            return self._order(path, name, value)
        if name in _PATTERNS:
            return Comparison(path, _PATTERNS[name], (self._pattern(path, name, value),))
        if name == "$not":
            return Negation(self._field(path, value if isinstance(value, dict) else {"$eq": value}, depth + 1))
        if name == "$exists":
            if not isinstance(value, bool):
                raise _takes(path, name, value, "true or false")
            return Comparison(path, "exists") if value else Negation(Comparison(path, "exists"))
        if name == "$between":
            low, high = _list(path, name, value, length=2)
            return Junction("and", (self._order(path, "$gte", low), self._order(path, "$lte", high)))
        values = _list(path, name, value) if name in {"$in", "$nin"} else [value]
        scalars = tuple(self._scalar(path, name, each) for each in values)
        equal = Comparison(path, "contains" if name == "$contains" else "in", scalars)
        but = Junction("and", (Comparison(path, "exists"), Negation(equal)))
        return but if name in {"$ne", "$nin"} else equal

    def _order(self, path: tuple[str, ...], name: str, value: Any) -> Comparison:
        scalar = self._scalar(path, name, value)
        if scalar is None or isinstance(scalar, bool):
            raise _takes(path, name, value, "a number or a text")
        return Comparison(path, _ORDERS[name], (scalar,))

    def _pattern(self, path: tuple[str, ...], name: str, value: Any) -> str:
        pattern = self._scalar(path, name, value)
        if not isinstance(pattern, str):
            raise _takes(path, name, value, "a text, with % for any characters and _ for any one")
        if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
            raise _takes(path, name, value, "a pattern that does not end with a lone backslash")
        return pattern

    def _scalar(self, path: tuple[str, ...], name: str, value: Any) -> Scalar:
        self._values += 1
        if self._values > MAX_VALUES:
            msg = f"filter holds more than {MAX_VALUES} values."
            raise InvalidInput(msg, hint="Ask for less at once.")
        if isinstance(value, (dict, list)):
            one = "text, a number, true, false or null"
            raise _takes(path, name, value, one if name else f"{one}; for one of several, use $in")
        if isinstance(value, (int, float)) and abs(value) > _LARGEST:
            raise _takes(path, name, value, f"a number of at most {_LARGEST:g}")
        return value  # type: ignore[no-any-return] # a scalar of JSON


def _meant(value: Scalar) -> tuple[Scalar, ...]:
    """What a plain value equals: a text of the canvas is the only way to say a number there."""
    other = _spelled(value)
    if isinstance(other, (dict, list)) or other is None or value != str(value).strip():
        return (value,)
    is_number = not isinstance(other, str) and abs(other) <= _LARGEST  # NaN is not
    return (value, other) if is_number else (value,)


def _spelled(value: Any) -> Any:
    """What a text spells as JSON; ``None`` if nothing, or if it is no text."""
    if not isinstance(value, str):
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _spelled_operators(value: Any) -> Any:
    found = _spelled(value) if isinstance(value, str) and '"$' in value else None
    return found if isinstance(found, dict) and all(name.startswith("$") for name in found) else value


def _conditions_in(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        msg = f"filter gives {name} {_shown(value)}: it takes conditions, each a JSON object that is not empty."
        raise InvalidInput(msg, hint=_EXAMPLE)
    return value


def _list(path: tuple[str, ...], name: str, value: Any, *, length: int = 0) -> list[Any]:
    if not isinstance(value, list) or not value or (length and len(value) != length):
        raise _takes(path, name, value, "a list of two values" if length else "a list of values")
    return value


def _takes(path: tuple[str, ...], name: str, value: Any, what: str) -> InvalidInput:
    operator = f" {name}" if name else ""
    message = f"filter gives {'.'.join(path)!r}{operator} {_shown(value)}: it takes {what}."
    return InvalidInput(message, hint=f"Known operators: {', '.join(_OF_FIELDS)}.")


def _unknown(name: str, known: tuple[str, ...]) -> InvalidInput:
    return InvalidInput(f"filter holds {name!r}: there is no such operator here.", hint=f"Use {', '.join(known)}.")


def _too_deep() -> InvalidInput:
    return InvalidInput(f"filter is nested more than {MAX_DEPTH} deep.", hint="Write it with less nesting.")


def _shown(value: Any) -> str:
    """The kind of a value, which may be long, or private itself."""
    kind = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kind.get(type(value), "a number")
