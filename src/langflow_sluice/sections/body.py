"""One copy of a section's body, run for one item after the other."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import NoResult
from langflow_sluice.sections.stopped import StoppedOutputs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lfx.graph.graph.base import Graph
    from lfx.graph.vertex.base import Vertex

    from langflow_sluice.sections.borders import Section


class Body:
    """A runnable copy of a section's nodes; one item at a time, on the loop that opened it.

    The copy is made once and used again for each item: every item gets fresh component objects, a fresh context and
    vertices without a trace of the item before. Langflow's own scheduler is not used; it picks an arbitrary first node
    where the cut has left none without a predecessor. The nodes run in the order of their dependencies, side by side
    where they do not depend on each other.
    """

    def __init__(self, section: Section, graph: Graph, sub: Graph, build_options: dict[str, Any]) -> None:
        self._section = section
        self._outer = graph
        self._graph = sub
        self._options = build_options
        self._vertices = {vertex_id: sub.get_vertex(vertex_id) for vertex_id in section.body}
        self._classes: dict[str, Any] = {each.id: type(each.custom_component) for each in self._vertices.values()}
        self._owner = self._connect()
        self._stopped = StoppedOutputs(sub)
        self._fresh = True

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, section: Section, graph: Graph, build_options: dict[str, Any]) -> AsyncIterator[Body]:
        """Makes a copy of the body.

        Args:
            section: What to copy.
            graph: The graph it belongs to, with the nodes outside already built.
            build_options: Passed to each vertex's ``build``.
        """
        async with graph.create_subgraph(set(section.body)) as sub:
            yield cls(section, graph, sub, build_options)

    async def run(self, item: Any) -> Any:
        """Runs the body for one item.

        Returns:
            The value that came back to the owner, of the type that the last node gave it.

        Raises:
            NoResult: The node that connects back did not run; a branch led elsewhere.
            Exception: What a node raised.
        """
        self._renew()
        self._owner.results = {self._section.output_name: item}
        try:
            await self._run_all()
            return self._result()
        finally:
            self._fresh = False

    def _connect(self) -> Vertex:
        """Puts the section's surroundings beside the body: vertices that are built already and only give values.

        They keep the edges across the border alive, so that the body's nodes find their inputs in Langflow's own way,
        lists and defaults included, and the last node computes the output that its edge back asks for.
        """
        sub, section = self._graph, self._section
        owner = self._bystander(section.owner_id)
        # The outer component stays reachable from the others: it holds the value, and the secrets to be masked.
        for vertex_id in dict.fromkeys(edge.source_id for edge in section.inlets):
            outer = self._outer.get_vertex(vertex_id)
            inlet = self._bystander(vertex_id)
            inlet.built = outer.built
            inlet.results = outer.results
            inlet.built_object, inlet.built_result = outer.built_object, outer.built_result
            inlet.custom_component = outer.custom_component
            if not outer.built:
                sub.conditionally_excluded_vertices.add(vertex_id)
        across: tuple[Any, ...] = (*section.starts, *section.inlets, *section.ends)
        sub.edges.extend(copy.copy(edge) for edge in across)
        sub.build_graph_maps()
        for vertex in sub.vertices:
            vertex._incoming_edges = vertex._outgoing_edges = None  # noqa: SLF001 - cached before the edges were added
        self._excluded_outside = frozenset(sub.conditionally_excluded_vertices)
        secrets = self._outer.get_vertex(section.owner_id)._upstream_secret_values  # noqa: SLF001 - masked downstream too
        for edge in section.starts:
            self._vertices[edge.target_id]._upstream_secret_values.update(secrets)  # noqa: SLF001
        return owner

    def _bystander(self, vertex_id: str) -> Vertex:
        outer = self._outer.get_vertex(vertex_id)
        vertex = type(outer)(outer.full_data, graph=self._graph)
        vertex.built = True
        vertex.base_type = outer.base_type
        self._graph.vertices.append(vertex)
        self._graph.vertex_map[vertex_id] = vertex
        return vertex

    def _renew(self) -> None:
        graph = self._graph
        self._stopped.clear()
        graph.context = dict(self._outer.context)
        graph.mark_all_vertices("ACTIVE")
        graph.inactivated_vertices = set()
        graph.activated_vertices = []
        graph.conditionally_excluded_vertices = set(self._excluded_outside)
        graph.conditional_exclusion_sources = {}
        for vertex in self._vertices.values():
            if not self._fresh:
                self._renew_vertex(vertex)
            # What fails here is told by the owner, as one failed item; not as an error message in the chat.
            vertex.custom_component.__dict__["send_error"] = _say_nothing

    def _renew_vertex(self, vertex: Vertex) -> None:
        vertex.built = False
        vertex.results = {}
        vertex.result = None
        vertex.logs = {}
        vertex.outputs_logs = {}
        vertex.artifacts_raw = {}
        vertex.artifacts_type = {}
        vertex.updated_raw_params = False
        vertex.build_params()
        parameters = {name: value for name, value in vertex.params.items() if name != "code"}
        vertex.custom_component = self._classes[vertex.id](
            _user_id=self._graph.user_id,
            _parameters=parameters,
            _vertex=vertex,
            _tracing_service=None,
            _id=vertex.id,
        )

    async def _run_all(self) -> None:
        waiting = {vertex_id: set(needs) for vertex_id, needs in self._section.needs.items()}
        running: dict[asyncio.Task[None], str] = {}
        try:
            while waiting or running:
                ready = [each for each in self._section.body if each in waiting and not waiting[each]]
                for vertex_id in ready:
                    del waiting[vertex_id]
                if len(ready) == 1 and not running:
                    await self._build(ready[0])
                    finished = ready
                else:
                    running.update({asyncio.ensure_future(self._build(each)): each for each in ready})
                    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    finished = [running.pop(task) for task in done]
                    for task in done:
                        task.result()
                for needs in waiting.values():
                    needs.difference_update(finished)
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    async def _build(self, vertex_id: str) -> None:
        vertex = self._vertices[vertex_id]
        if vertex.is_active() and vertex_id not in self._graph.conditionally_excluded_vertices:
            await vertex.build(**self._options)

    def _result(self) -> Any:
        for edge in self._section.ends:
            vertex = self._vertices[edge.source_id]
            name = edge.source_handle.name
            if vertex.built and name in vertex.results and (edge.source_id, name) not in self._stopped:
                component: Any = vertex.custom_component
                return component.get_output(name).value
        names = ", ".join(sorted({self._vertices[edge.source_id].display_name for edge in self._section.ends}))
        msg = f"The section ended without a result: {names} did not run for this item."
        raise NoResult(msg, hint="Let every branch lead back, or take the failed output for items that lead nowhere.")


async def _say_nothing(**_: Any) -> None:
    """In place of a component's ``send_error``."""
