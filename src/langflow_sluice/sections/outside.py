"""Values that a section takes from nodes outside of it: computed once a run, whatever the number of items."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from langflow_sluice.sections.borders import is_feedback

if TYPE_CHECKING:
    from lfx.custom.custom_component.component import Component
    from lfx.graph.edge.base import Edge
    from lfx.graph.graph.base import Graph
    from lfx.graph.vertex.base import Vertex

    from langflow_sluice.sections.borders import Section


class _BuildOnce:
    """Stands in for one vertex's ``build``, so that it runs once in this run of the graph.

    A node that a section needs may come later in Langflow's own order. The section builds it; when Langflow gets to
    it, the result is there already. Set on the one vertex object, which lives for one run.
    """

    def __init__(self, vertex: Vertex) -> None:
        self._build = vertex.build
        self._vertex = vertex
        self._building: asyncio.Future[Any] | None = None
        self._waiting = 0

    async def __call__(self, **options: Any) -> Any:
        if self._vertex.built:
            return self._vertex.built_object
        if self._building is None:
            self._building = asyncio.ensure_future(self._build(**options))
        # Whoever is cancelled must not cancel the node under the others who wait for it; the last one out does.
        self._waiting += 1
        try:
            return await asyncio.shield(self._building)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._building.cancel()


def build_options(component: Component) -> dict[str, Any]:
    """What Langflow passes to ``Vertex.build`` in the run that ``component`` belongs to, but for the event manager."""
    graph = component.graph
    return {
        "user_id": graph.user_id,
        "inputs": {"session": graph.session_id} if graph.session_id else {},
        "fallback_to_env_vars": _falls_back_to_env(),
    }


async def build_outside(graph: Graph, section: Section, options: dict[str, Any]) -> None:
    """Builds the nodes from which a section takes values, with all they depend on, where that is not done yet.

    Args:
        graph: The graph that the section's owner belongs to.
        section: Its ``inlets`` name the nodes.
        options: What Langflow passes to ``Vertex.build`` in this run.
    """
    for vertex_id in dict.fromkeys(edge.source_id for edge in section.inlets):
        await build_with_sources(graph, graph.get_vertex(vertex_id), options, frozenset({section.owner_id}))


async def build_with_sources(graph: Graph, vertex: Vertex, options: dict[str, Any], path: frozenset[str]) -> None:
    """Builds a node and all that it depends on, where that is not done yet and no branch leads elsewhere.

    Args:
        graph: The graph that it belongs to.
        vertex: The node; the owner of another section runs its section.
        options: What Langflow passes to ``Vertex.build`` in this run.
        path: Ids of nodes that wait for this one.
    """
    if vertex.built or vertex.id in path or is_left_out(graph, vertex):
        return
    for edge in sources(graph, vertex):
        await build_with_sources(graph, graph.get_vertex(edge.source_id), options, path | {vertex.id})
    if vertex.lock.locked():
        # Langflow is building it at this moment, in the same layer as the section's owner.
        async with vertex.lock:
            pass
    if not vertex.built:
        once = vertex.__dict__.get("build")
        if not isinstance(once, _BuildOnce):
            once = _BuildOnce(vertex)
            vertex.__dict__["build"] = once
        await once(**options)


def sources(graph: Graph, vertex: Vertex) -> list[Edge]:
    """The edges over which a node gets its inputs; what comes back from its own section is none."""
    return [edge for edge in graph.edges if edge.target_id == vertex.id and not is_feedback(graph, edge)]


def is_left_out(graph: Graph, vertex: Vertex) -> bool:
    """Whether a branch led elsewhere, so that the node does not run."""
    return not vertex.is_active() or vertex.id in graph.conditionally_excluded_vertices


def _falls_back_to_env() -> bool:
    from lfx.services.deps import get_settings_service

    service = get_settings_service()
    return bool(service and getattr(service.settings, "fallback_to_env_var", False))
