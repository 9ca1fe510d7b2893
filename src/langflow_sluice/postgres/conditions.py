"""Filters as SQL: conditions on a collection's rows, with every value beside the statement, never in it.

A type that does not fit is no match and never an error: metadata is compared as JSON (numbers as numbers, text by its
code points, so that ISO dates are in order), and a column in its own type only with values that surely have it.
Equality within JSON is written as containment (``@>``), and that of a column as itself, which indexes answer.
"""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import InvalidInput
from langflow_sluice.postgres.filters import Comparison, Junction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langflow_sluice.postgres.filters import Condition, Filter, Scalar
    from langflow_sluice.postgres.layout import Layout, MetadataColumn

_ORDERS = frozenset({"<", "<=", ">", ">="})
_TEXTS = frozenset({"text", "varchar"})
_INTEGERS = frozenset({"int2", "int4", "int8"})
_TIMES = frozenset({"date", "timestamp", "timestamptz"})
_OBJECT, _EMPTY = "'object'", "'{}'::jsonb"
_LENGTH_OF_A_DATE = len("2000-01-01")


def conditions(wanted: Filter, layout: Layout) -> tuple[str, dict[str, Any]]:
    """What rows must fulfil, in SQL that calls the relation ``r``, and the values it names.

    Args:
        wanted: The filter.
        layout: Where the collection's metadata lies.

    Raises:
        InvalidInput: It names a field that none of the metadata columns can hold.
    """
    writer = _Writer(layout)
    return writer.sql(wanted.condition), writer.values


class _Writer:
    """Writes one filter, and collects its values by the names they have in the statement."""

    def __init__(self, layout: Layout) -> None:
        self._columns = {column.name: column for column in layout.metadata if not column.is_json}
        self._json = [column for column in layout.metadata if column.is_json]
        self.values: dict[str, Any] = {}

    def sql(self, condition: Condition) -> str:
        if isinstance(condition, Junction):
            return f"({f' {condition.word.upper()} '.join(self.sql(part) for part in condition.parts)})"
        if not isinstance(condition, Comparison):
            # Of a field that is not there SQL knows neither a condition nor its opposite.
            return f"(({self.sql(condition.part)}) IS NOT TRUE)"
        column = self._columns.get(condition.path[0])
        if column is None:
            return self._within(self._fields(condition.path[0]), condition.path, condition)
        if len(condition.path) > 1:
            return self._within(column.value, condition.path[1:], condition)
        return self._of_column(column, condition)

    def _bound(self, value: Any, cast: str) -> str:
        name = f"f{len(self.values)}"
        self.values[name] = value
        return f"%({name})s::{cast}"

    def _fields(self, name: str) -> str:
        """The fields of all JSON columns, as one object."""
        if not self._json:
            known = ", ".join(self._columns) or "there are none"
            msg = f"filter names {name!r}, which is not among the metadata columns: {known}."
            raise InvalidInput(msg, hint="Add it to metadata_columns, or leave it out of the filter.")
        columns = [f"{each.column}::jsonb" for each in self._json]
        if len(columns) == 1:
            return columns[0]
        # What is no object has no fields, and would make a list of the whole.
        return f"({' || '.join(f'CASE jsonb_typeof({c}) WHEN {_OBJECT} THEN {c} ELSE {_EMPTY} END' for c in columns)})"

    def _within(self, fields: str, path: tuple[str, ...], condition: Comparison) -> str:
        """A condition on what lies at a path within JSON."""
        test, values = condition.test, condition.values
        if test == "exists":
            return f"{fields} @? {self._bound(_json_path(path), 'jsonpath')}"
        if test in _ORDERS:
            # Strict, since a lax path looks into lists, too.
            wanted = f"{_json_path(path)} ? (@ {test} {_as_json(values[0])})"
            return f"{fields} @? {self._bound(wanted, 'jsonpath')}"
        if test in {"like", "ilike"}:
            text = f"({fields} #>> {self._bound(list(path), 'text[]')})"
            return f"{text} {test.upper()} {self._bound(values[0], 'text')}"
        held = [_nested(path, [value] if test == "contains" else value) for value in values]
        return self._any(f"{fields} @>", [_as_json(each) for each in held], "jsonb")

    def _of_column(self, column: MetadataColumn, condition: Comparison) -> str:
        """A condition on a column that is a field by itself."""
        test, values = condition.test, condition.values
        if test == "exists":
            return f"{column.column} IS NOT NULL"
        if test == "in":
            return self._equal(column, values)
        own = _in_own_type(column.type, values[0]) if test in _ORDERS and column.type not in _TEXTS else None
        if own is not None:
            return f"{column.column} {test} {self._bound(*own)}"
        return self._within(column.value, (), condition)

    def _equal(self, column: MetadataColumn, values: tuple[Scalar, ...]) -> str:
        by_cast: dict[str, list[Any]] = {}
        for value in values:
            if value is None:
                continue
            own = _in_own_type(column.type, value)
            if own is not None:
                by_cast.setdefault(own[1], []).append(own[0])
            elif column.type not in _TEXTS | _INTEGERS | _TIMES | {"uuid"}:
                by_cast.setdefault("jsonb", []).append(_as_json(value))
        parts = [
            self._any(f"{column.value if cast == 'jsonb' else column.column} =", found, cast)
            for cast, found in by_cast.items()
        ]
        if None in values:
            parts.append(f"{column.column} IS NULL")
        return f"({' OR '.join(parts)})" if parts else "FALSE"

    def _any(self, compared: str, values: list[Any], cast: str) -> str:
        if len(values) == 1:
            return f"{compared} {self._bound(values[0], cast)}"
        return f"{compared} ANY ({self._bound(values, f'{cast}[]')})"


def _in_own_type(type_: str, value: Scalar) -> tuple[Any, str] | None:
    """A value for a column of a type, and its cast; ``None`` if it cannot be one, or the type is compared as JSON."""
    if type_ in _TEXTS:
        return (value, "text") if isinstance(value, str) else None
    if type_ in _INTEGERS:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
            return None
        return (int(value), "int8") if -(2**63) <= value < 2**63 else None
    try:
        if type_ == "uuid":
            return str(uuid.UUID(str(value))), "uuid"
        if type_ in _TIMES and isinstance(value, str):
            return _time(type_, value)
    except (ValueError, OverflowError):
        pass
    return None


def _time(type_: str, text: str) -> tuple[str, str]:
    # What PostgreSQL itself understands depends on its settings; this is ISO 8601 and nothing else.
    moment = datetime.fromisoformat(text.removesuffix("Z") + "+00:00" * text.endswith("Z"))
    if moment.tzinfo is not None:
        return moment.astimezone(timezone.utc).isoformat(), "timestamptz"
    if len(text) == _LENGTH_OF_A_DATE:
        return moment.date().isoformat(), type_
    return moment.isoformat(), "timestamp" if type_ == "date" else type_


def _json_path(path: Iterable[str]) -> str:
    # A text of jsonpath is one of JSON.
    return "strict $" + "".join(f".{_as_json(name)}" for name in path)


def _nested(path: tuple[str, ...], value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
