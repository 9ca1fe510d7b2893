"""One copy of a section's body, run for one item after the other."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import NoResult
from langflow_sluice.sections.body_node import BodyNode
from langflow_sluice.sections.stopped import StoppedOutputs

if TYPE_CHECKING:
    from lfx.graph.graph.base import Graph
    from lfx.graph.vertex.base import Vertex

    from langflow_sluice.sections.borders import Section
    from langflow_sluice.sections.records import Records


class Body:
    """A runnable copy of a section's nodes; one item at a time, on the loop that made it.

    The copy is made once and used again for each item: every item gets fresh component objects, a fresh context and
    vertices without a trace of the item before. Values within the context are shared, as in Loop. Langflow's own
    scheduler is not used; it picks an arbitrary first node where the cut has left none without a predecessor. The nodes
    run in the order of their dependencies, side by side where they do not depend on each other.

    Attributes:
        graph: The copy.
        secrets: What is to be masked where the result of the last item is shown.
        is_spoiled: Something of the last item may still be running, in a thread that cannot be cancelled: take another.
    """

    def __init__(self, section: Section, outer: Graph, graph: Graph) -> None:
        self.graph = graph
        self.is_spoiled = False
        self.secrets: set[str] = set()
        self._section = section
        self._outer = outer
        self._inlets: dict[str, Vertex] = {}
        self._owner = self._connect()
        # After that: the edges across the border make parameters, too.
        self._nodes = {each: BodyNode(graph.get_vertex(each), outer.get_vertex(each)) for each in section.body}
        self._stopped = StoppedOutputs(graph)

    @classmethod
    async def make(cls, section: Section, outer: Graph) -> Body:
        """Makes a copy of the body.

        Args:
            section: What to copy.
            outer: The graph it belongs to.
        """
        # Left at once: what Langflow cleans up there is a run by its own scheduler. The nodes are added here, since
        # it would look for those inside a group by the name of the group.
        async with outer.create_subgraph(set()) as graph:
            pass
        inside = set(section.body)
        nodes = [outer.get_vertex(each).to_data() for each in section.body]
        edges = [each.to_data() for each in outer.edges if {each.source_id, each.target_id} <= inside]
        graph.add_nodes_and_edges(nodes, edges)
        return cls(section, outer, graph)

    async def run(self, item: Any, build_options: dict[str, Any], records: Records) -> Any:
        """Runs the body for one item.

        Args:
            item: What the first nodes get.
            build_options: Passed to each vertex's ``build``.
            records: Decides whether this run of the body is recorded.

        Returns:
            The value that came back to the owner, of the type that the last node gave it.

        Raises:
            NoResult: The node that connects back did not run; a branch led elsewhere.
            Exception: What a node raised.
        """
        self._renew()
        self._owner.results = {self._section.output_name: item}
        try:
            await self._run_all(build_options, records)
        except asyncio.CancelledError:
            self.is_spoiled = True
            raise
        return self._result()

    def _connect(self) -> Vertex:
        """Puts the section's surroundings beside the body: vertices that are built already and only give values.

        They keep the edges across the border alive, so that the body's nodes find their inputs in Langflow's own way,
        lists and defaults included, and the last node computes the output that its edge back asks for.
        """
        graph, section = self.graph, self._section
        owner = self._bystander(section.owner_id)
        for vertex_id in dict.fromkeys(edge.source_id for edge in section.inlets):
            self._inlets[vertex_id] = self._bystander(vertex_id)
        across: tuple[Any, ...] = (*section.starts, *section.inlets, *section.ends)
        graph.edges.extend(copy.copy(edge) for edge in across)
        graph.build_graph_maps()
        for vertex in graph.vertices:
            vertex._incoming_edges = vertex._outgoing_edges = None  # noqa: SLF001 - cached before the edges were added
        return owner

    def _bystander(self, vertex_id: str) -> Vertex:
        outer = self._outer.get_vertex(vertex_id)
        vertex = type(outer)(outer.full_data, graph=self.graph)
        vertex.built = True
        vertex.base_type = outer.base_type
        self.graph.vertices.append(vertex)
        self.graph.vertex_map[vertex_id] = vertex
        return vertex

    def _renew(self) -> None:
        graph = self.graph
        self._stopped.clear()
        graph.context = dict(self._outer.context)
        graph.mark_all_vertices("ACTIVE")
        graph.inactivated_vertices = set()
        graph.activated_vertices = []
        graph.branch_inactivation_sources = {}
        graph.conditionally_excluded_vertices = set()
        graph.conditional_exclusion_sources = {}
        for node in self._nodes.values():
            node.renew()
        self._take_outside()

    def _take_outside(self) -> None:
        # The outer component stays reachable from the others: it holds the value, and the secrets to be masked.
        for vertex_id, inlet in self._inlets.items():
            outer = self._outer.get_vertex(vertex_id)
            inlet.built = outer.built
            inlet.results = outer.results
            inlet.built_object, inlet.built_result = outer.built_object, outer.built_result
            inlet.custom_component = outer.custom_component
            if not outer.built:
                self.graph.conditionally_excluded_vertices.add(vertex_id)
        secrets = self._outer.get_vertex(self._section.owner_id)._upstream_secret_values  # noqa: SLF001 - masked downstream too
        for edge in self._section.starts:
            self._nodes[edge.target_id].vertex._upstream_secret_values.update(secrets)  # noqa: SLF001

    async def _run_all(self, build_options: dict[str, Any], records: Records) -> None:
        waiting = {vertex_id: set(needs) for vertex_id, needs in self._section.needs.items()}
        running: dict[asyncio.Task[None], str] = {}
        try:
            while waiting or running:
                ready = [each for each in self._section.body if each in waiting and not waiting[each]]
                for vertex_id in ready:
                    del waiting[vertex_id]
                if len(ready) == 1 and not running:
                    await self._build(ready[0], build_options, records)
                    finished = ready
                else:
                    running.update(
                        {asyncio.ensure_future(self._build(each, build_options, records)): each for each in ready}
                    )
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
                self.is_spoiled = True
                await asyncio.wait(running)

    async def _build(self, vertex_id: str, build_options: dict[str, Any], records: Records) -> None:
        node = self._nodes[vertex_id]
        if node.vertex.is_active() and vertex_id not in self.graph.conditionally_excluded_vertices:
            await node.build(build_options, records)

    def _result(self) -> Any:
        for edge in self._section.ends:
            vertex = self._nodes[edge.source_id].vertex
            name = edge.source_handle.name
            if vertex.built and name in vertex.results and (edge.source_id, name) not in self._stopped:
                component: Any = vertex.custom_component
                self.secrets = component._secret_values  # noqa: SLF001 - with those of all that it depends on
                return component.get_output(name).value
        names = ", ".join(sorted({self._nodes[edge.source_id].vertex.display_name for edge in self._section.ends}))
        msg = f"The section ended without a result: {names} did not run for this item."
        raise NoResult(msg, hint="Let every branch lead back, or take the failed output for items that lead nowhere.")
