"""Where a section begins and ends on the canvas, and in which order its nodes depend on each other."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langflow_sluice.errors import SectionError

if TYPE_CHECKING:
    from lfx.graph.edge.base import Edge
    from lfx.graph.graph.base import Graph
    from lfx.graph.vertex.base import Vertex


@dataclass(frozen=True, slots=True)
class Section:
    """The body of one section.

    Attributes:
        owner_id: The node that the section belongs to.
        output_name: The owner's output from which the body starts and to which its end connects back.
        body: Ids of the body's nodes, each after those it depends on.
        starts: Edges from the owner into the body.
        ends: Edges from the body back to the owner; more than one where branches come back separately.
        inlets: Edges into the body from nodes outside of it.
        needs: For each node of the body, the nodes of the body that it depends on.
    """

    owner_id: str
    output_name: str
    body: tuple[str, ...]
    starts: tuple[Edge, ...]
    ends: tuple[Edge, ...]
    inlets: tuple[Edge, ...]
    needs: dict[str, frozenset[str]]


def find_section(graph: Graph, owner: Vertex, output_name: str) -> Section:
    """Finds the section that starts at an output of ``owner``.

    The body is everything that can be reached from the output without passing the owner, side branches included;
    what can also be reached from another output of the owner comes after the section and is not part of it.

    Raises:
        SectionError: Nothing is connected, nothing comes back, or the body's nodes depend on each other in a circle
            or on something that comes after the section.
    """
    outgoing = _by_source(graph)
    starts = tuple(edge for edge in outgoing.get(owner.id, ()) if edge.source_handle.name == output_name)
    label = f"{owner.display_name} ({owner.id})"
    if not starts:
        msg = f"Nothing is connected to the output {output_name!r} of {label}."
        raise SectionError(msg, hint=f"Connect {output_name!r} to the first node of the part to run.")
    others = [edge.target_id for edge in outgoing[owner.id] if edge.source_handle.name != output_name]
    reached = _reachable([edge.target_id for edge in starts], outgoing, owner.id)
    after = _reachable([each for each in others if each != owner.id], outgoing, owner.id)
    ends = tuple(
        edge
        for edge in graph.edges
        if edge.target_id == owner.id and edge.target_param == output_name and edge.source_id in reached
    )
    if not ends:
        msg = f"No node comes back to {output_name!r} of {label}, so its results would be lost."
        raise SectionError(msg, hint=f"Connect the output of the last node to {output_name!r} on the left side.")
    body = reached - after
    entangled = sorted(edge.source_id for edge in ends if edge.source_id not in body)
    if entangled:
        msg = f"{', '.join(entangled)} should run inside {label}, but depends on what comes out of it."
        raise SectionError(msg, hint=f"Separate what runs inside {output_name!r} from what comes after.")
    feedback = {id(edge) for edge in graph.edges if is_feedback(graph, edge)}
    needs: dict[str, set[str]] = {each: set() for each in body}
    inlets = []
    for edge in graph.edges:
        if edge.target_id not in body or id(edge) in feedback:
            continue
        if edge.source_id in body:
            needs[edge.target_id].add(edge.source_id)
        elif edge.source_id != owner.id or edge.source_handle.name != output_name:
            inlets.append(edge)
    late = sorted({edge.source_id for edge in inlets if edge.source_id in after or edge.source_id == owner.id})
    if late:
        msg = f"The section of {label} needs the value of {', '.join(late)}, which comes after the section."
        raise SectionError(msg, hint="Take that value from a node before the section.")
    frozen = {each: frozenset(sources) for each, sources in needs.items()}
    order = _in_order([vertex.id for vertex in graph.vertices if vertex.id in body], frozen, label)
    return Section(owner.id, output_name, order, starts, ends, tuple(inlets), frozen)


def body_of(graph: Graph, owner: Vertex, output_name: str) -> set[str]:
    """Ids of the nodes in the section that starts at an output of ``owner``; see :func:`find_section`."""
    outgoing = _by_source(graph)
    edges = outgoing.get(owner.id, [])
    starts = [edge.target_id for edge in edges if edge.source_handle.name == output_name]
    others = [edge.target_id for edge in edges if edge.source_handle.name != output_name]
    after = _reachable([each for each in others if each != owner.id], outgoing, owner.id)
    return _reachable(starts, outgoing, owner.id) - after


def is_feedback(graph: Graph, edge: Edge) -> bool:
    """Whether an edge brings a section's result back to its owner, and so is no dependency."""
    target = graph.get_vertex(edge.target_id)
    return target.is_loop and edge.target_param in target.output_names


def _by_source(graph: Graph) -> dict[str, list[Edge]]:
    edges: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        edges.setdefault(edge.source_id, []).append(edge)
    return edges


def _reachable(first: list[str], outgoing: dict[str, list[Edge]], stop: str) -> set[str]:
    reached: set[str] = set()
    queue = deque(first)
    while queue:
        current = queue.popleft()
        if current in reached or current == stop:
            continue
        reached.add(current)
        queue.extend(edge.target_id for edge in outgoing.get(current, ()))
    return reached


def _in_order(vertex_ids: list[str], needs: dict[str, frozenset[str]], label: str) -> tuple[str, ...]:
    order: list[str] = []
    placed: set[str] = set()
    left = vertex_ids
    while left:
        ready = [each for each in left if needs[each] <= placed]
        if not ready:
            msg = f"Inside {label} these nodes wait for each other in a circle: {', '.join(left)}."
            raise SectionError(
                msg, hint="Use a Loop or Fan-Out for repetition; a section's body must not run in circles."
            )
        order += ready
        placed.update(ready)
        left = [each for each in left if each not in placed]
    return tuple(order)
