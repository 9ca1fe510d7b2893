"""Handles: the ends of an edge, written and compared the way Langflow's canvas does it.

On loading a flow the canvas works each handle out again from the node and drops the edge if it does not match, so
these follow the canvas's own rules (``cleanEdges`` and ``isValidConnection`` of Langflow 1.13's front end).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Handle = dict[str, Any]

_RENAMED_TYPES = {"Data": "JSON", "DataFrame": "Table"}


def encode(handle: Handle) -> str:
    """Returns the handle as an edge's ``sourceHandle`` or ``targetHandle``: JSON, sorted keys, ``œ`` for quotes."""
    return json.dumps(handle, sort_keys=True, separators=(",", ":"), ensure_ascii=False).replace('"', "œ")


def compatible(output_types: Iterable[str], input_types: Iterable[str]) -> bool:
    """Tells whether a value of one of ``output_types`` may enter; old and new names of a type are the same type."""
    accepted = {_RENAMED_TYPES.get(name, name) for name in input_types}
    return any(_RENAMED_TYPES.get(name, name) in accepted for name in output_types)


def source_handle(node_id: str, node_type: str, output: Mapping[str, Any]) -> Handle:
    """Returns the handle where an edge leaves ``output``."""
    types = list(output["types"])
    return {
        "dataType": node_type,
        "id": node_id,
        "name": output["name"],
        "output_types": types if len(types) == 1 else [output.get("selected") or types[0]],
    }


def field_handle(node_id: str, name: str, field: Mapping[str, Any]) -> Handle:
    """Returns the handle where an edge enters an input field."""
    return {"fieldName": name, "id": node_id, "inputTypes": field_types(field), "type": field["type"]}


def field_types(field: Mapping[str, Any]) -> list[str]:
    """Returns the types an input field takes; none means that it has no handle."""
    types = list(field.get("input_types") or ())
    if not types and field.get("type") == "model":
        return ["Embeddings" if field.get("model_type") == "embedding" else "LanguageModel"]
    return types


def loop_handle(node_id: str, node_type: str, output: Mapping[str, Any]) -> Handle:
    """Returns the handle where the edge that closes a loop comes back into ``output``."""
    return {"dataType": node_type, "id": node_id, "name": output["name"], "output_types": loop_types(output)}


def loop_types(output: Mapping[str, Any]) -> list[str]:
    """Returns the types that may come back into an output that allows a loop."""
    types = list(output["types"])
    if output.get("loop_types"):
        return [output.get("selected") or types[0], *output["loop_types"]]
    return types
