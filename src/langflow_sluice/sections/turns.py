"""When the owner of a section may run: not before its inputs are there, and inside another section only as part of it.

Langflow lets a node with a section run as soon as all it still waits for lies in a circle. In an inner section, and in
one that comes after another section, everything does, so it would run with empty inputs as soon as a node that its
body also needs is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langflow_sluice.sections.borders import body_of, is_feedback
from langflow_sluice.sections.outside import build_options, build_with_sources, is_left_out, sources

if TYPE_CHECKING:
    from collections.abc import Callable

    from lfx.custom.custom_component.component import Component
    from lfx.graph.graph.base import Graph
    from lfx.graph.schema import ResultData
    from lfx.graph.vertex.base import Vertex


async def begin(component: Component, make: Callable[[Component], Any]) -> Any:
    """Begins the run of a section's owner, when it is its turn.

    Args:
        component: The owner, with the inputs that Langflow has set.
        make: Makes its run.

    Returns:
        What ``make`` returns; where the node belongs to another section, which runs it for each of its items, something
        in its place that does nothing and gives None.
    """
    vertex = component._vertex  # noqa: SLF001 - a component knows its place in the graph by no other name
    if vertex is None:
        return make(component)
    graph = component.graph
    waiting = frozenset({vertex.id})
    around = _outermost_around(graph, vertex)
    if around is not None:
        # Not waited for: it takes this node's lock on its way, to see what has come back to it. The others of its body
        # must not go on with the nothing that comes out here; those that run at this moment are owners like this one.
        for vertex_id in _bodies(graph, around) - graph.run_manager.vertices_being_run - waiting:
            graph.mark_vertex(vertex_id, "INACTIVE")
        return _Nothing()
    options = {**build_options(component), "event_manager": component.get_event_manager()}
    late = []
    for edge in sources(graph, vertex):
        source = graph.get_vertex(edge.source_id)
        if not source.built and not is_left_out(graph, source):
            late.append(edge.target_param)
            await build_with_sources(graph, source, options, waiting)
    if late:
        for name, value in vertex.raw_params.items():
            if value is vertex:
                # What comes back from the section itself: Langflow takes it away, and fails if it has done so before.
                vertex.params.setdefault(name, value)
        await vertex._build_each_vertex_in_params_dict()  # noqa: SLF001 - as Langflow did while they were missing
        component.set_attributes({name: vertex.params[name] for name in late if name in vertex.params})
    return make(component)


def _outermost_around(graph: Graph, vertex: Vertex) -> Vertex | None:
    """The owner of the outermost section around a node that has not run yet."""
    owners = [each for each in graph.vertices if each.is_loop and each is not vertex and not each.built]
    bodies = {owner.id: _bodies(graph, owner) for owner in owners}
    for owner in owners:
        if vertex.id in bodies[owner.id] and not any(owner.id in body for body in bodies.values()):
            return owner
    return None


def _bodies(graph: Graph, owner: Vertex) -> set[str]:
    return set().union(*(body_of(graph, owner, name) for name in _section_outputs(graph, owner)))


def _section_outputs(graph: Graph, owner: Vertex) -> list[str]:
    edges = [edge for edge in graph.edges if edge.target_id == owner.id and is_feedback(graph, edge)]
    return list(dict.fromkeys(str(edge.target_param) for edge in edges))


def keep_out(graph: Graph, owner_id: str, outputs: list[str]) -> None:
    """Keeps what follows some outputs of a section's owner from running in this graph, unless others lead there, too.

    Args:
        graph: The graph of the run.
        owner_id: The section's owner.
        outputs: Names of outputs: where its section starts, and those out of which nothing comes.
    """
    for name in outputs:
        graph.mark_branch(owner_id, "INACTIVE", name)
    # As a router does: a node where branches meet then takes what the others bring.
    graph.exclude_branches_conditionally(owner_id, outputs)
    for vertex_id in graph.run_manager.vertices_being_run:
        vertex = graph.get_vertex(vertex_id)
        if vertex.result is None and not vertex.is_active():
            # Scheduled at the same time as the owner. Langflow skips it, and would then miss its result.
            vertex.set_result(_empty_result(vertex))


def _empty_result(vertex: Vertex) -> ResultData:
    from lfx.graph.schema import ResultData

    return ResultData(component_display_name=vertex.display_name, component_id=vertex.id)


class _Nothing:
    """The run of a node whose turn it is not."""

    async def finish(self) -> None:
        """Does nothing."""

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: None
