"""Types of nodes: the same node has another one on each server, by the way it got there.

A node of an installed pack is an ``ext:sluice:FanOutComponent@official``, the same node of a folder on
``LANGFLOW_COMPONENTS_PATH`` an ``ext:sluice:FanOutComponent@extra``. Langflow takes neither for the other.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

from langflow_sluice.canvas import handles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_EXTENSION_TYPE = re.compile(r"(?P<node>ext:(?P<bundle>[^:@]+):(?P<class_name>\w+))@(?:official|extra)")
_SLOTS = ("official", "extra")
# What the palette says of where a node comes from, beside its type.
_ORIGIN = ("bundle", "extension", "namespaced_id")


def bundle_of(node_type: str) -> str:
    """Returns the bundle that an extension's node belongs to; empty for Langflow's own nodes."""
    match = _EXTENSION_TYPE.fullmatch(node_type)
    return match["bundle"] if match else ""


def class_of(node_type: str) -> str:
    """Returns the class name in an extension's type; Langflow's own types are returned as they are."""
    match = _EXTENSION_TYPE.fullmatch(node_type)
    return match["class_name"] if match else node_type


def offered_type(node_type: str, palette: Mapping[str, Any]) -> str | None:
    """Returns the type by which a palette offers a node, an installed extension's first; None where it does not."""
    match = _EXTENSION_TYPE.fullmatch(node_type)
    names = [f"{match['node']}@{slot}" for slot in _SLOTS] if match else [node_type]
    return next((name for name in names if name in palette), None)


def nodes_of(flow: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the data of a flow's nodes, notes left out."""
    return (node["data"] for node in flow["data"]["nodes"] if node["type"] == "genericNode")


def retyped(flow: Mapping[str, Any], palette: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns a copy of a flow whose nodes have the types that a palette offers; what it does not offer stays.

    Ids of nodes stay as they are, so tweaks of the API name the same nodes everywhere.

    Args:
        flow: The flow as Langflow imports it.
        palette: Templates by type.
    """
    copied: dict[str, Any] = copy.deepcopy(dict(flow))
    types: dict[str, str] = {}
    for data in nodes_of(copied):
        offered = offered_type(data["type"], palette)
        if offered is None or offered == data["type"]:
            continue
        types[data["type"]] = data["type"] = offered
        for name in _ORIGIN:
            data["node"].pop(name, None)
            if name in palette[offered]:
                data["node"][name] = palette[offered][name]
    for edge in copied["data"]["edges"]:
        _retype_edge(edge, types)
    return copied


def _retype_edge(edge: dict[str, Any], types: Mapping[str, str]) -> None:
    for end in ("sourceHandle", "targetHandle"):
        handle = edge["data"][end]
        # Only outputs name the type of their node.
        if handle.get("dataType") in types:
            handle["dataType"] = types[handle["dataType"]]
            edge[end] = handles.encode(handle)
    edge["id"] = f"reactflow__edge-{edge['source']}{edge['sourceHandle']}-{edge['target']}{edge['targetHandle']}"
