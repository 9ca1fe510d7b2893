"""The copies of one section: made as they are needed, used again, kept in bounds."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from langflow_sluice.sections.body import Body
from langflow_sluice.sections.borders import find_section

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from lfx.graph.graph.base import Graph
    from lfx.graph.vertex.base import Vertex

    from langflow_sluice.sections.borders import Section

# Copies that a section inside another one keeps for the next item of the outer one; making one costs some milliseconds.
KEPT_INSIDE = 4
_INNER = "_sluice_inner_sections"


class Bodies:
    """Copies of a section's body for one graph. Used on that graph's loop only.

    Args:
        section: What they are copies of.
        outer: The graph that the section belongs to.
        kept: How many idle copies stay when nobody works in the section.
    """

    def __init__(self, section: Section, outer: Graph, kept: int) -> None:
        self.section = section
        self._outer = outer
        self._kept = kept
        self._idle: list[Body] = []
        self._users = 0

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Entered by each worker, so that idle copies stay as long as there are workers."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                del self._idle[self._kept :]

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[Body]:
        """Takes a copy for one item; it comes back for another one, unless the item may have left something running."""
        body = self._idle.pop() if self._idle else await self._make()
        try:
            yield body
        finally:
            if not body.is_spoiled:
                self._idle.append(body)

    async def _make(self) -> Body:
        body = await Body.make(self.section, self._outer)
        # Sections inside this copy find their own copies again for its next item.
        body.graph.__dict__[_INNER] = {}
        return body


def bodies_of(graph: Graph, owner: Vertex, output_name: str) -> Bodies:
    """The copies of the section that starts at an output of ``owner``.

    Only where the graph is itself a copy of ours are they kept beyond one run of the owner: its structure and tweaks
    stay the same for all items. Another graph may be run again, changed.

    Raises:
        SectionError: There is no such section, or it cannot be run.
    """
    inner: dict[tuple[str, str], Any] | None = graph.__dict__.get(_INNER)
    if inner is None:
        return Bodies(find_section(graph, owner, output_name), graph, kept=0)
    key = (owner.id, output_name)
    if key not in inner:
        inner[key] = Bodies(find_section(graph, owner, output_name), graph, kept=KEPT_INSIDE)
    bodies: Bodies = inner[key]
    return bodies
