"""Texts with their metadata, out of what nodes hand on."""

from __future__ import annotations

from typing import Any

from langflow_sluice.errors import InvalidInput
from langflow_sluice.sections.rows import Rows

TEXT = "text"


def texts_of(data: Any) -> list[tuple[str, dict[str, Any]]]:
    """Content and metadata of each row of tables, JSON and messages.

    Raises:
        InvalidInput: A row has no text; names its place and the fields that it has.
    """
    from lfx.schema.message import Message

    texts: list[tuple[str, dict[str, Any]]] = []
    for index, row in enumerate(Rows(data)):
        if isinstance(row, Message):
            texts.append((row.get_text(), {}))
            continue
        fields = dict(row.data)
        content = fields.pop(row.text_key, None) if row.text_key in fields else fields.pop(TEXT, None)
        if not isinstance(content, str):
            names = ", ".join(sorted(map(str, fields))) or "none"
            msg = f"ingest_data has no text in row {index}; its fields are {names}."
            raise InvalidInput(msg, hint="Name the column with the text 'text' before it comes here.")
        texts.append((content, fields))
    return texts
