"""Rows in and rows out: what a fan-out takes from its input and what it makes of its outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lfx.schema.data import Data
    from lfx.schema.dataframe import DataFrame

    from langflow_sluice.sections.fan_out import Outcome

# Columns that a fan-out adds to failed rows, and the field in which a gate says why it has turned a value away. They
# are taken off again where such rows are fed in for another try.
ROW, ERROR, ATTEMPTS = "_row", "_error", "_attempts"
BUSY_NOTE = "_busy"
_NOTES = frozenset({ROW, ERROR, ATTEMPTS, BUSY_NOTE})
# Column for a result that is a text and not fields.
RESULT = "result"
TEXT = "text"


class Rows:
    """The rows of a fan-out's input, made one at a time.

    Args:
        data: Tables, JSON and messages, alone or in lists or other iterables; each table row, JSON or message is one
            row, also a JSON that holds a list.

    Attributes:
        columns: The names of all fields, in the order in which they are first met.

    Raises:
        InvalidInput: Something else was connected, or a table has two columns of one name.
    """

    def __init__(self, data: Any) -> None:
        from lfx.schema.dataframe import DataFrame

        self._parts = [_checked(part) for part in _flat(data)]
        self._count = sum(len(part) if isinstance(part, DataFrame) else 1 for part in self._parts)
        self.columns = list(dict.fromkeys(name for part in self._parts for name in _names(part) if name not in _NOTES))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Data]:
        from lfx.schema.data import Data
        from lfx.schema.dataframe import DataFrame

        for part in self._parts:
            if isinstance(part, DataFrame):
                text_key = part.text_key
                for fields in _table_fields(part):
                    yield Data(data=fields, text_key=text_key)
            elif not _NOTES.isdisjoint(part.data):
                yield part.model_copy(update={"data": _without_notes(part.data)})
            else:
                yield part

    def fields(self) -> Iterator[dict[str, Any]]:
        """The fields of each row; of a message its text, since all else tells of its sender and session."""
        from lfx.schema.dataframe import DataFrame
        from lfx.schema.message import Message

        for part in self._parts:
            if isinstance(part, DataFrame):
                yield from _table_fields(part)
            elif isinstance(part, Message):
                yield {TEXT: part.get_text()}
            else:
                yield _without_notes(part.data)

    @property
    def text_key(self) -> str:
        """The column that holds the text, where all rows agree on one."""
        keys = {part.text_key for part in self._parts}
        key = keys.pop() if len(keys) == 1 else TEXT
        return key if key in self.columns else TEXT

    def free_name(self, name: str) -> str:
        """A name for a column beside those of the rows: the one asked for, with a number where it is taken."""
        taken, free, number = set(self.columns), name, 2
        while free in taken:
            free, number = f"{name}_{number}", number + 1
        return free


def kept(value: Any, name: str = RESULT) -> list[dict[str, Any]]:
    """What is kept of a section's result: the fields of its rows, of which a table or a list has any number.

    Args:
        value: What came back.
        name: The column for what has no fields: a message's text, or a plain value.
    """
    from lfx.schema.data import Data
    from lfx.schema.dataframe import DataFrame
    from lfx.schema.message import Message

    if isinstance(value, DataFrame):
        return list(_table_fields(_checked(value), notes=True))
    if isinstance(value, Message):
        return [{name: value.get_text()}]
    if isinstance(value, Data):
        return [{str(key): _plain(field) for key, field in value.data.items()}]
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, (Data, DataFrame)) for each in value):
        return [fields for each in value for fields in kept(each, name)]
    return [{name: _plain(value)}]


def done_rows(rows: Rows, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """What succeeded: each row's own fields and, over them, what was ``kept`` of its result, in the rows' order."""
    table: list[dict[str, Any]] = []
    for fields, outcome in _paired(rows, outcomes):
        if outcome.error is None:
            # A row whose result is an empty table is no failure, and does not vanish either.
            table += [{**fields, **result} for result in outcome.value or [{}]]
    return table


def failed_rows(rows: Rows, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """What failed: each row's own fields, its number, its error and how often it was tried."""
    return [
        {**fields, ROW: outcome.index, ERROR: outcome.error, ATTEMPTS: outcome.attempts}
        for fields, outcome in _paired(rows, outcomes)
        if outcome.error is not None
    ]


def table_of(records: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), text_key: str = TEXT) -> DataFrame:
    """A table whose values are what they were.

    Left to itself, pandas makes 1.0 of a 1 as soon as one row has no value in that column, and NaN of None; what is
    fed in again would not be what has failed.

    Args:
        records: The rows.
        columns: Names of columns that come first and are there without rows, too.
        text_key: The column that holds the text.
    """
    import pandas as pd
    from lfx.schema.dataframe import DataFrame

    names = dict.fromkeys([*columns, *(name for record in records for name in record)])
    series = {name: _series([record.get(name) for record in records]) for name in names}
    table = DataFrame(pd.DataFrame(series, index=range(len(records))))
    if text_key in names:
        table.text_key = text_key
    return table


def _series(values: list[Any]) -> Any:
    import pandas as pd

    kinds = {type(value) for value in values}
    inferred = len(kinds) == 1 or kinds == {float, type(None)}
    return pd.Series(values, dtype=None if inferred and values else object)


def _paired(rows: Rows, outcomes: Sequence[Outcome]) -> Iterator[tuple[dict[str, Any], Outcome]]:
    by_index = {outcome.index: outcome for outcome in outcomes}
    for index, fields in enumerate(rows.fields()):
        if index in by_index:
            yield fields, by_index[index]


def _flat(data: Any) -> Iterator[Any]:
    import pandas as pd
    from lfx.schema.data import Data

    if isinstance(data, (Data, pd.DataFrame, str, bytes, Mapping)) or not isinstance(data, Iterable):
        if data is not None:
            yield data
    else:
        for part in data:
            yield from _flat(part)


def _checked(part: Any) -> Any:
    import pandas as pd
    from lfx.schema.data import Data
    from lfx.schema.dataframe import DataFrame

    if isinstance(part, Mapping):
        return Data(data={str(name): value for name, value in part.items()})
    if isinstance(part, pd.DataFrame) and not isinstance(part, DataFrame):
        part = DataFrame(part)
    if not isinstance(part, (Data, DataFrame)):
        fix = "Connect a Table, JSON or messages."
        raise InvalidInput.of("data", type(part).__name__, "these are no rows", fix=fix)
    if isinstance(part, DataFrame):
        names = _names(part)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            problem = "the table has two columns of that name, of which one would be lost"
            raise InvalidInput.of("data", twice[0], problem, fix="Rename one of them.")
    return part


def _names(part: Data | DataFrame) -> list[str]:
    from lfx.schema.dataframe import DataFrame
    from lfx.schema.message import Message

    if isinstance(part, DataFrame):
        return [str(column) for column in part.columns]
    return [TEXT] if isinstance(part, Message) else list(part.data)


def _table_fields(table: DataFrame, *, notes: bool = False) -> Iterator[dict[str, Any]]:
    names = _names(table)
    wanted = [(place, name) for place, name in enumerate(names) if notes or name not in _NOTES]
    for values in table.itertuples(index=False, name=None):
        yield {name: _plain(values[place]) for place, name in wanted}


def _plain(value: Any) -> Any:
    """A cell's value as JSON knows it: no value for NaN, and Python's own numbers for numpy's."""
    kind = type(value)
    if kind is float:
        return value if value == value else None  # noqa: PLR0124 - NaN alone differs from itself
    if kind is str or kind is int:
        return value
    if kind.__module__ == "numpy" and hasattr(value, "item") and not kind.__name__.startswith(("ndarray", "datetime")):
        return _plain(value.item())
    if kind.__name__ in {"NAType", "NaTType"}:
        return None
    return value


def _without_notes(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in _NOTES}
