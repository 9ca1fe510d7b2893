"""Positions on the canvas: a grid of columns, read from left to right, whose nodes never overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NODE_WIDTH = 320
"""Width of every node on the canvas, in pixels."""

_COLUMN_GAP = 140
_ROW_GAP = 80
# Heights as the canvas draws them, measured on the starter projects and on screenshots, rounded up.
_HEADER = 66
_DESCRIPTION_LINE = 18
_LETTERS_A_LINE = 43
_FIELD = 83
_HANDLE = 46  # a field that only takes an edge
_PROMPT = 36  # more than another field
_OUTPUT = 46
_NOTE_HEADING = 104
_NOTE_LINE = 24
_NOTE_PARAGRAPH = 42
_NOTE_LETTER_WIDTH = 7.6
_NOTE_MARGIN = 40
_WINDOW = (1400, 800)


def node_height(node: Mapping[str, Any]) -> int:
    """Estimates the height in pixels at which the canvas draws a node; rather too high than too low."""
    fields = [
        field.get("type")
        for name, field in node["template"].items()
        if isinstance(field, dict) and name != "code" and field.get("show", True) and not field.get("advanced")
    ]
    outputs = [output for output in node["outputs"] if not output.get("hidden")]
    # Outputs that are not grouped share one line with a drop-down.
    lines = len(outputs) if any(output.get("group_outputs") for output in outputs) else min(1, len(outputs))
    description = _DESCRIPTION_LINE * -(-len(node.get("description") or "") // _LETTERS_A_LINE)
    handles = fields.count("other")
    face = _HANDLE * handles + _FIELD * (len(fields) - handles) + _PROMPT * fields.count("prompt")
    return _HEADER + description + face + _OUTPUT * lines


def note_height(text: str, width: int) -> int:
    """Estimates the height in pixels at which the canvas shows all of a note; a smaller one would have to be scrolled.

    Args:
        text: A heading and paragraphs, in Markdown.
        width: Of the note, in pixels.
    """
    letters = int((width - _NOTE_MARGIN) / _NOTE_LETTER_WIDTH)
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n") if not part.startswith("#")]
    lines = sum(-(-len(part) // letters) for part in paragraphs)
    return _NOTE_HEADING + _NOTE_LINE * lines + _NOTE_PARAGRAPH * len(paragraphs)


def grid(columns: Sequence[Sequence[str | None]], heights: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Places nodes in columns from left to right; rows are as high as their highest node.

    Args:
        columns: Ids of nodes, column by column, each from top to bottom; ``None`` leaves a place empty.
        heights: Height of each node in pixels.

    Returns:
        The top left corner of each node, in pixels; the grid starts at (0, 0).
    """
    tops = [0]
    for row in range(max((len(column) for column in columns), default=0)):
        in_row = [column[row] for column in columns if row < len(column)]
        highest = max((heights[node_id] for node_id in in_row if node_id is not None), default=0)
        tops.append(tops[-1] + highest + _ROW_GAP)
    return {
        node_id: (number * (NODE_WIDTH + _COLUMN_GAP), tops[row])
        for number, column in enumerate(columns)
        for row, node_id in enumerate(column)
        if node_id is not None
    }


def viewport(boxes: Sequence[tuple[int, int, int, int]]) -> dict[str, float]:
    """Returns the viewport that shows all boxes (x, y, width, height) in an ordinary window."""
    if not boxes:
        return {"x": 0, "y": 0, "zoom": 1}
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    zoom = round(min(1.0, _WINDOW[0] / (right - left + 80), _WINDOW[1] / (bottom - top + 80)), 3)
    return {"x": round((40 - left) * zoom), "y": round((40 - top) * zoom), "zoom": zoom}
