"""Rows in and rows out: what a fan-out takes from its input and what it makes of its outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import InvalidInput
from langflow_sluice.sections.fan_out import error_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lfx.schema.data import Data

    from langflow_sluice.sections.fan_out import Outcome

# Columns that a fan-out adds to failed rows. They are taken off again where failed rows are fed in for another try.
ROW, ERROR, ATTEMPTS = "_row", "_error", "_attempts"
# Column for a result that is a text and not fields.
RESULT = "result"


class Rows:
    """The rows of a fan-out's input, made one at a time.

    Args:
        data: Tables, JSON and messages, alone or in lists; each table row, JSON or message is one row.

    Raises:
        InvalidInput: Something else was connected.
    """

    def __init__(self, data: Any) -> None:
        from lfx.schema.data import Data
        from lfx.schema.dataframe import DataFrame

        self._parts: list[Any] = []
        for part in _flat(data):
            if not isinstance(part, (Data, DataFrame)):
                raise InvalidInput.of(
                    "data", type(part).__name__, "these are no rows", fix="Connect a Table, JSON or messages."
                )
            self._parts.append(part)
        self._count = sum(len(part) if isinstance(part, DataFrame) else 1 for part in self._parts)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Data]:
        from lfx.schema.data import Data
        from lfx.schema.dataframe import DataFrame

        for part in self._parts:
            if isinstance(part, DataFrame):
                columns = [str(column) for column in part.columns]
                text_key = getattr(part, "text_key", "text")
                for values in part.itertuples(index=False, name=None):
                    fields = _without_notes(dict(zip(columns, values, strict=True)))
                    yield Data(data=fields, text_key=text_key)
            elif any(note in part.data for note in (ROW, ERROR, ATTEMPTS)):
                yield type(part)(data=_without_notes(part.data), text_key=part.text_key)
            else:
                yield part


def done_rows(rows: Rows, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The table of what succeeded: each row's own fields and what the section made of it, in the order of the rows."""
    table: list[dict[str, Any]] = []
    for row, outcome in _paired(rows, outcomes):
        if outcome.error is None:
            table += [{**_fields(row), **result} for result in _results(outcome.value)]
    return table


def failed_rows(rows: Rows, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The table of what failed: each row's own fields, its number, its error and how often it was tried."""
    return [
        {**_fields(row), ROW: outcome.index, ERROR: error_text(outcome.error), ATTEMPTS: outcome.attempts}
        for row, outcome in _paired(rows, outcomes)
        if outcome.error is not None
    ]


def _paired(rows: Rows, outcomes: Sequence[Outcome]) -> Iterator[tuple[Data, Outcome]]:
    by_index = {outcome.index: outcome for outcome in outcomes}
    for index, row in enumerate(rows):
        if index in by_index:
            yield row, by_index[index]


def _flat(data: Any) -> Iterator[Any]:
    if isinstance(data, (list, tuple)):
        for part in data:
            yield from _flat(part)
    elif data is not None:
        yield data


def _fields(row: Data) -> dict[str, Any]:
    from lfx.schema.message import Message

    # A message carries a dozen fields about its sender and session; its text is what was put in.
    return {"text": row.get_text()} if isinstance(row, Message) else dict(row.data)


def _results(value: Any) -> list[dict[str, Any]]:
    from lfx.schema.data import Data
    from lfx.schema.dataframe import DataFrame
    from lfx.schema.message import Message

    if isinstance(value, DataFrame):
        return [{str(name): field for name, field in row.items()} for row in value.to_dict(orient="records")]
    if isinstance(value, Message):
        return [{RESULT: value.get_text()}]
    if isinstance(value, Data):
        return [dict(value.data)]
    return [{RESULT: value}]


def _without_notes(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in {ROW, ERROR, ATTEMPTS}}
