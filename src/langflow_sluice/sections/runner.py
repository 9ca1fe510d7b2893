"""Runs the section of a node: what Fan-Out and Concurrency Gate share."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import SectionError
from langflow_sluice.sections.bodies import bodies_of
from langflow_sluice.sections.events import SectionEvents
from langflow_sluice.sections.outside import build_options, build_outside
from langflow_sluice.sections.records import Records
from langflow_sluice.sections.turns import keep_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from lfx.custom.custom_component.component import Component

    from langflow_sluice.guard import Guard

# Guards whose slots the running section holds: asking one of them for a second slot inside would be a deadlock as soon
# as the section is as wide as the guard.
_held: ContextVar[tuple[str, ...]] = ContextVar("sluice_held_sections", default=())


class SectionRunner:
    """The section of one node in one run of its flow.

    Args:
        component: The node, in a graph.
        output_name: The output from which the body starts.
        guard: The gate whose slots the section holds while it runs.
    """

    def __init__(self, component: Component, output_name: str, guard: Guard) -> None:
        vertex = component._vertex  # noqa: SLF001 - a component knows its place in the graph by no other name
        if vertex is None:
            msg = f"{component.display_name} runs a part of the canvas and cannot be used without one."
            raise SectionError(msg, hint="Use it inside a flow; it is no tool for agents.")
        if guard.name in _held.get():
            msg = f"{component.display_name} asks for guard {guard.name!r} inside a section that holds it already."
            raise SectionError(msg, hint="Give the inner one another guard_name, or leave it blank.")
        self._component = component
        self._graph = component.graph
        self._guard = guard
        self._bodies = bodies_of(self._graph, vertex, output_name)
        self._section = self._bodies.section
        self._records = Records()
        self._events: SectionEvents | None = None
        self._options = build_options(component)

    def keep_from_outer_run(self, *unused: str) -> None:
        """Tells Langflow that the body's nodes are ours to run.

        Args:
            *unused: Further outputs whose branches do not run, because nothing comes out of them this time.
        """
        keep_out(self._graph, self._section.owner_id, [self._section.output_name, *unused])

    async def build_outside(self) -> None:
        """Builds what the body takes from outside; once, before any item runs."""
        await build_outside(self._graph, self._section, {**self._options, "event_manager": self._outer_events()})

    @contextlib.asynccontextmanager
    async def open_worker(self) -> AsyncIterator[Callable[[Any], Awaitable[Any]]]:
        """Opens a place to work at; gives what runs an item through a copy of the body.

        A copy is taken for the time of one item only: there are never more of them than items that run at once.
        """
        if self._events is None:
            self._events = SectionEvents(self._outer_events(), self._guard.clock)
        options = {**self._options, "event_manager": self._events}

        async def run(item: Any) -> Any:
            with self._holding():
                async with self._bodies.take() as body:
                    result = await body.run(item, options, self._records)
                    # As if the owner had taken it over an edge: Langflow masks these where it shows the value.
                    self._component._secret_values.update(body.secrets)  # noqa: SLF001
                    return result

        with self._bodies.in_use():
            yield run

    def _outer_events(self) -> Any:
        return self._component.get_event_manager()

    @contextlib.contextmanager
    def _holding(self) -> Iterator[None]:
        held = _held.set((*_held.get(), self._guard.name))
        recording = self._records.begin()
        try:
            yield
        finally:
            self._records.end(recording)
            _held.reset(held)
