"""Which outputs the nodes of a section have stopped for the item at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lfx.graph.graph.base import Graph


class StoppedOutputs:
    """Notes what routers stop in one copy of a section.

    A router that is itself the last node of a section is built for every item, and gives an empty message at the
    output that it has stopped; only the stop tells that from a result. It is seen on its way into the graph: the
    methods of this one graph object are wrapped, which lives as long as the copy.

    Args:
        graph: The copy.
    """

    def __init__(self, graph: Graph) -> None:
        self._outputs: set[tuple[str, str]] = set()
        mark, exclude = graph.mark_branch, graph.exclude_branches_conditionally

        def mark_branch(vertex_id: str, state: str, output_name: str | None = None) -> None:
            mark(vertex_id, state, output_name)
            if output_name:
                self._note(vertex_id, [output_name], stopped=state == "INACTIVE")

        def exclude_branches_conditionally(vertex_id: str, output_names: list[str]) -> None:
            exclude(vertex_id, output_names)
            self._note(vertex_id, output_names, stopped=True)

        methods: dict[str, Any] = graph.__dict__
        methods["mark_branch"] = mark_branch
        methods["exclude_branches_conditionally"] = exclude_branches_conditionally

    def __contains__(self, output: tuple[str, str]) -> bool:
        """Whether the output, a pair of the node's id and the output's name, is stopped."""
        return output in self._outputs

    def clear(self) -> None:
        """Forgets all, for the next item."""
        self._outputs.clear()

    def _note(self, vertex_id: str, names: Iterable[str], *, stopped: bool) -> None:
        outputs = {(vertex_id, name) for name in names}
        if stopped:
            self._outputs |= outputs
        else:
            self._outputs -= outputs
