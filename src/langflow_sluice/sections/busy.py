"""The reason for which a value is turned away travels with the value, whatever its type."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from langflow_sluice.sections.rows import BUSY_NOTE

if TYPE_CHECKING:
    from langflow_sluice.errors import Rejected

SHORTEST_RETRY_S = 1.0


def noted(value: Any, rejection: Rejected) -> Any:
    """A copy of a value with a note of why it was turned away; type, text and fields are the same.

    The note has the fields ``code``, ``reason`` (a sentence) and ``retry_in_s`` (seconds, estimated). Each type carries
    it under ``_busy``: a JSON in its data; a message there and in its ``session_metadata``, which is what Chat Output
    leaves of a message that it stores and sends to the caller; a table in its ``attrs``, since a column would be one
    more for whoever reads it.
    """
    # Nobody can tell before a first call is done; and whoever tries again at once adds to the load.
    retry_in_s = round(max(SHORTEST_RETRY_S, rejection.retry_in_s), 1)
    note = {"code": rejection.code, "reason": str(rejection), "retry_in_s": retry_in_s}
    return _changed(value, lambda fields: {**fields, BUSY_NOTE: note})


def without_note(value: Any) -> Any:
    """The value as it was before it was turned away; itself, where it was not."""
    return _changed(value, lambda fields: {k: v for k, v in fields.items() if k != BUSY_NOTE}, only_noted=True)


def _changed(value: Any, change: Any, *, only_noted: bool = False) -> Any:
    from lfx.schema.data import Data
    from lfx.schema.dataframe import DataFrame
    from lfx.schema.message import Message

    name = "data" if isinstance(value, Data) else "attrs" if isinstance(value, DataFrame) else ""
    names = [name, "session_metadata"] if isinstance(value, Message) else [name]
    if not name or (only_noted and not any(BUSY_NOTE in (getattr(value, each) or {}) for each in names)):
        return value
    changed = copy.copy(value)
    # The data first: a message mirrors its other fields in them, and so far they are the original's, too.
    for each in names:
        setattr(changed, each, change(getattr(value, each) or {}))
    return changed
