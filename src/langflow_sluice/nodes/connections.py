"""What is connected to a node on the canvas."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lfx.custom.custom_component.component import Component


def leads_on(component: Component, *outputs: str) -> bool:
    """Whether anything is connected to one of these outputs; of a node outside of any flow, anybody may ask for all."""
    vertex = component._vertex  # noqa: SLF001 - a component knows its place in the graph by no other name
    if vertex is None:
        return True
    return any(edge.source_id == vertex.id and edge.source_handle.name in outputs for edge in vertex.graph.edges)
