"""What a batch asks about each row of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import InvalidInput
from langflow_sluice.sections.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator


class Prompts:
    """A table's rows and the text that is sent for each, made one at a time.

    Args:
        table: The table; what an earlier run has noted about failed rows is taken off.
        column: The column whose text is sent; blank sends all columns as TOML.

    Attributes:
        rows: The rows.

    Raises:
        InvalidInput: Something else than a table was connected, or it has no such column.
    """

    def __init__(self, table: Any, column: str) -> None:
        from lfx.schema.dataframe import DataFrame

        if not isinstance(table, DataFrame):
            raise InvalidInput.of("df", type(table).__name__, "it is no table", fix="Connect the output of a table.")
        names = [str(name) for name in table.columns]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            problem = "the table has two columns of that name"
            raise InvalidInput.of("df", twice, problem, fix="Rename one of them.")
        self.rows = Rows(table)
        if column and column not in self.rows.columns:
            known = ", ".join(map(repr, self.rows.columns)) or "none"
            fix = f"The columns are {known}; blank sends them all."
            raise InvalidInput.of("column_name", column, "the table has no such column", fix=fix)
        self._column = column
        # By place, since a column's label need not be a text.
        self._cells = table.iloc[:, names.index(column)] if column else None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str | None]:
        """The texts, in the order of the rows; None for a row that has nothing to send."""
        texts = self._texts_of_rows() if self._cells is None else _texts_of_cells(self._cells)
        for text in texts:
            yield text if text.strip() else None

    def _texts_of_rows(self) -> Iterator[str]:
        import toml  # type: ignore[import-untyped] # lfx's, which Batch Run writes rows with

        for fields in self.rows.fields():
            cells = {name: "" if value is None else str(value) for name, value in fields.items()}
            yield toml.dumps({name: {"value": text} for name, text in cells.items()}) if any(cells.values()) else ""

    def nothing_to_send(self) -> InvalidInput:
        """The error for a row without a text."""
        problem = "the row's cell in it is empty" if self._column else "all cells of the row are empty"
        return InvalidInput.of("column_name", self._column, problem, fix="Fill it, or take the row out of the table.")


def _texts_of_cells(cells: Any) -> Iterator[str]:
    # Batch Run sends "nan" and "None" for what is missing. The whole column at once: dates are then written alike.
    for text, missing in zip(cells.astype(str), cells.isna(), strict=True):
        yield "" if missing else text
