"""A flow as a Python program: nodes of the catalogue, edges with checked types, notes, and a layout.

The result is the JSON that Langflow's canvas exports, byte for byte the same on each build: ids follow from names, and
what depends on the machine that builds (versions of the packages installed there) is left out.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from langflow_sluice.canvas import handles, layout, settings
from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langflow_sluice.canvas.catalog import Catalog

_NAMESPACE = b"sluice.flows"
_NOTE_COLOURS = ("amber", "neutral", "rose", "blue", "lime", "transparent")
_NOTE_LIMIT = 2500
_NOTE_GAP = 60


@dataclass(eq=False)
class Node:
    """A node placed in a flow; changed only through the flow.

    Attributes:
        id: Its id in the file, which tweaks of the API name: class and key, as in ``FanOutComponent-rows``.
        type: Its key in the palette.
        data: The template with the values set.
        selected_output: The output that the node shows, where the canvas offers its outputs in a drop-down.
    """

    id: str
    type: str
    data: dict[str, Any] = field(repr=False)
    selected_output: str | None = None

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"{self.data['display_name']} ({self.id})"


class Flow:
    """One flow under construction; ``slug`` and ``name`` as given.

    Args:
        catalog: Where the nodes come from.
        slug: The flow's name in URLs (``endpoint_name``) and the name of its file; its id follows from it.
        name: What the list of flows shows.
        description: One sentence for the list of flows.
        tags: Tags for the list of flows.
    """

    def __init__(
        self, catalog: Catalog, slug: str, *, name: str, description: str, tags: Sequence[str] = ("sluice",)
    ) -> None:
        self.slug = slug
        self.name = name
        self._catalog = catalog
        self._description = description
        self._tags = list(tags)
        self._nodes: dict[str, Node] = {}
        self._edges: list[dict[str, Any]] = []
        self._notes: list[dict[str, Any]] = []
        self._positions: dict[str, tuple[int, int]] = {}

    def add(
        self,
        node_type: str,
        key: str,
        *,
        title: str | None = None,
        values: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
        shown: Sequence[str] = (),
        advanced: Sequence[str] = (),
        output_types: Mapping[str, str] | None = None,
        actions: Mapping[str, str] | None = None,
        calls: Flow | None = None,
    ) -> Node:
        """Puts a node of the palette on the canvas.

        Args:
            node_type: Its key in the palette.
            key: Short name, unique in this flow among nodes of its class; the second half of its id.
            title: Name on the canvas instead of the node's own.
            values: Values of fields; a model field takes ``connect_other_models`` to get a handle.
            variables: Names of the global variables that fields load; the only way to fill a password field.
            shown: Advanced fields to show on the node's face, so that they can be connected.
            advanced: Fields to move to the advanced settings.
            output_types: For an output of several types, the one to offer.
            actions: Makes the node a tool for agents: what an agent is told of each action it may use, by name.
            calls: For a Run Flow node, the flow it runs.

        Raises:
            InvalidInput: The node, a field, an action or a type does not exist, a value does not fit, or is a secret.
        """
        data = self._catalog.node(node_type)
        class_name = node_type.rsplit(":", 1)[-1].removesuffix("@official").replace(" ", "")
        node = Node(f"{class_name}-{key}", node_type, data)
        if node.id in self._nodes:
            where, problem = "key of a node", f"{self.slug} already has a node {node.id}"
            raise InvalidInput.of(where, key, problem, fix="Choose another key.")
        settings.set_values(node.label, data, values or {})
        settings.set_variables(node.label, data, variables or {})
        settings.show(node.label, data, shown=tuple(shown), advanced=tuple(advanced))
        if actions is not None:
            settings.make_tool(node.label, data, actions)
        if calls is not None:
            settings.call_flow(data, calls.name, calls.to_dict())
        for name, type_name in (output_types or {}).items():
            output = _find_output(node, name)
            if type_name not in output["types"]:
                where, fix = f"type of {node.label}.{name}", f"Use one of {', '.join(output['types'])}."
                raise InvalidInput.of(where, type_name, "the output has no such type", fix=fix)
            output["selected"] = type_name
        if title is not None:
            data["display_name"] = title
        self._nodes[node.id] = node
        return node

    def connect(self, source: Node, output: str, target: Node, entry: str) -> None:
        """Draws an edge from an output to an input, or back into an output that allows a loop.

        Args:
            source: Node that the edge leaves.
            output: Name of its output.
            target: Node that the edge enters.
            entry: Name of its input, or of the output where a section's body comes back.

        Raises:
            InvalidInput: An end does not exist or is not on the node's face, the types do not fit, the input is taken,
                or the source already offers another of its outputs (the canvas shows one of a drop-down).
        """
        where = f"edge {source.label}.{output} -> {target.label}.{entry}"
        found = _find_output(source, output)
        leaving = handles.source_handle(source.id, source.type, found)
        entering, accepted = self._entry(where, target, entry)
        if not handles.compatible(leaving["output_types"], accepted):
            problem = f"{entry} takes {', '.join(accepted) or 'no edge'}"
            fix = "Put a node between them that converts the type, or choose another output."
            raise InvalidInput.of(where, ", ".join(leaving["output_types"]), problem, fix=fix)
        self._select(source, found)
        source_end, target_end = handles.encode(leaving), handles.encode(entering)
        self._edges.append(
            {
                "animated": False,
                "className": "",
                "data": {"sourceHandle": leaving, "targetHandle": entering},
                "id": f"reactflow__edge-{source.id}{source_end}-{target.id}{target_end}",
                "selected": False,
                "source": source.id,
                "sourceHandle": source_end,
                "target": target.id,
                "targetHandle": target_end,
            }
        )

    def arrange(self, columns: Sequence[Sequence[Node | None]]) -> None:
        """Lays the nodes out in columns from left to right; ``None`` leaves a place of the grid empty.

        Raises:
            InvalidInput: A node of the flow is missing, or stands in two places.
        """
        ids = [node.id for column in columns for node in column if node is not None]
        if sorted(ids) != sorted(self._nodes):
            odd = sorted(set(ids) ^ set(self._nodes)) or sorted({node_id for node_id in ids if ids.count(node_id) > 1})
            where, problem = f"columns of {self.slug}", "each node stands in exactly one place"
            raise InvalidInput.of(where, ", ".join(odd), problem, fix="Name it once.")
        heights = {node_id: layout.node_height(node.data) for node_id, node in self._nodes.items()}
        self._positions = layout.grid([[node.id if node else None for node in column] for column in columns], heights)

    def note(self, text: str, *, width: int = 780, colour: str = "amber") -> None:
        """Puts a note above the nodes, to the right of the notes before it, as high as its text.

        Args:
            text: Markdown, a heading and paragraphs, up to 2,500 characters.
            width: In pixels.
            colour: amber, neutral, rose, blue, lime or transparent.

        Raises:
            InvalidInput: The text is too long for a note, or the colour is unknown.
        """
        if len(text) > _NOTE_LIMIT:
            where, problem = "length of a note", f"a note holds {_NOTE_LIMIT} characters"
            raise InvalidInput.of(where, len(text), problem, fix="Shorten it.")
        if colour not in _NOTE_COLOURS:
            where, fix = "colour of a note", f"Use one of {', '.join(_NOTE_COLOURS)}."
            raise InvalidInput.of(where, colour, "the canvas has no such colour", fix=fix)
        height = layout.note_height(text, width)
        node_id = f"note-{self.slug}-{len(self._notes) + 1}"
        left = sum(note["width"] + _NOTE_GAP for note in self._notes)
        self._notes.append(
            {
                "data": {
                    "id": node_id,
                    "node": {
                        "description": text,
                        "display_name": "",
                        "documentation": "",
                        "template": {"backgroundColor": colour},
                    },
                    "type": "note",
                },
                "dragging": False,
                "height": height,
                "id": node_id,
                "measured": {"height": height, "width": width},
                "position": {"x": left, "y": -(height + _NOTE_GAP)},
                "resizing": False,
                "selected": False,
                "type": "noteNode",
                "width": width,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the flow as Langflow imports it.

        Raises:
            InvalidInput: The nodes have not been arranged.
        """
        if set(self._positions) != set(self._nodes):
            where, problem = "layout of flow", "there are nodes without a place"
            raise InvalidInput.of(where, self.slug, problem, fix="Call arrange() after the last add().")
        nodes = [self._node_dict(node) for node in self._nodes.values()] + self._notes
        boxes = [
            (node["position"]["x"], node["position"]["y"], node["measured"]["width"], node["measured"]["height"])
            for node in nodes
        ]
        return {
            "data": {"edges": self._edges, "nodes": nodes, "viewport": layout.viewport(boxes)},
            "description": self._description,
            "endpoint_name": self.slug,
            "id": _flow_id(self.slug),
            "is_component": False,
            "last_tested_version": metadata.version("langflow"),
            "locked": False,
            "name": self.name,
            "tags": self._tags,
        }

    def _node_dict(self, node: Node) -> dict[str, Any]:
        x, y = self._positions[node.id]
        data: dict[str, Any] = {"id": node.id, "node": _portable(node.data), "showNode": True, "type": node.type}
        if node.selected_output is not None:
            data["selected_output"] = node.selected_output
        return {
            "data": data,
            "dragging": False,
            "id": node.id,
            "measured": {"height": layout.node_height(node.data), "width": layout.NODE_WIDTH},
            "position": {"x": x, "y": y},
            "selected": False,
            "type": "genericNode",
        }

    def _entry(self, where: str, target: Node, entry: str) -> tuple[handles.Handle, list[str]]:
        looping = [item for item in target.data["outputs"] if item["name"] == entry and item.get("allows_loop")]
        if looping and entry not in target.data["template"]:
            handle = handles.loop_handle(target.id, target.type, looping[0])
            return handle, handle["output_types"]
        found = settings.find_field(target.label, target.data, entry)
        if found.get("advanced") or found.get("show") is False:
            problem = "the input is not on the node's face, so the canvas would drop the edge"
            raise InvalidInput.of(where, entry, problem, fix=f"Add the node with shown=[{entry!r}].")
        if found["type"] == "model" and found.get("value") != settings.CONNECT_OTHER_MODELS:
            fix = f"Add the node with values={{{entry!r}: {settings.CONNECT_OTHER_MODELS!r}}}."
            raise InvalidInput.of(where, entry, "a model field has no handle until it is told to connect", fix=fix)
        handle = handles.field_handle(target.id, entry, found)
        if not found.get("list") and any(edge["data"]["targetHandle"] == handle for edge in self._edges):
            raise InvalidInput.of(where, entry, "the input takes one edge and has it", fix="Remove the other edge.")
        return handle, handle["inputTypes"]

    def _select(self, source: Node, output: Mapping[str, Any]) -> None:
        """Marks the output as the one shown, where the canvas offers the outputs in a drop-down."""
        outputs = source.data["outputs"]
        if len(outputs) < 2 or any(item.get("group_outputs") for item in outputs):  # noqa: PLR2004 (a choice of two)
            return
        if source.selected_output not in {None, output["name"]}:
            where, fix = f"output of {source.label}", "Add a second node for the second output."
            problem = f"the canvas shows one output of this node, and {source.selected_output} is connected already"
            raise InvalidInput.of(where, output["name"], problem, fix=fix)
        source.selected_output = output["name"]


def _find_output(node: Node, name: str) -> dict[str, Any]:
    for output in node.data["outputs"]:
        if output["name"] == name:
            found: dict[str, Any] = output
            return found
    where, names = f"output of {node.label}", ", ".join(output["name"] for output in node.data["outputs"])
    raise InvalidInput.of(where, name, "there is no such output", fix=f"Use one of {names}.")


def _portable(node: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out the versions of what happens to be installed; neither the canvas nor the server reads them."""
    kept = {key: value for key, value in node.items() if key != "extension_version"}
    kept["metadata"] = {key: value for key, value in node["metadata"].items() if key != "dependencies"}
    return kept


def _flow_id(slug: str) -> str:
    """The same id in each build, in the shape of a random one: Langflow keeps version 5 for its own use (400)."""
    digest = hashlib.blake2b(slug.encode(), digest_size=16, person=_NAMESPACE).digest()
    return str(uuid.UUID(bytes=digest, version=4))
