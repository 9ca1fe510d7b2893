"""What a node says of its run on the canvas."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lfx.custom.custom_component.component import Component


def show_status(component: Component, line: str) -> None:
    """Shows a line as the status of a node that gives tables.

    Not as ``component.status``: Langflow takes the kind of every output from a status that is a text, leaves the tables
    among them as they are, and then fails to serialise them where a caller asks for all outputs (``/api/v1/run`` with
    ``output_type`` "debug" answers 500).
    """
    component.repr_value = line
