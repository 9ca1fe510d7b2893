"""Runs the section of a node: what Fan-Out and Concurrency Gate share."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import SectionError
from langflow_sluice.sections.body import Body
from langflow_sluice.sections.borders import find_section
from langflow_sluice.sections.events import SectionEvents
from langflow_sluice.sections.outside import build_outside

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
        self._section = find_section(self._graph, vertex, output_name)
        self._options = {
            "user_id": self._graph.user_id,
            "inputs": {"session": self._graph.session_id} if self._graph.session_id else {},
            "fallback_to_env_vars": _falls_back_to_env(),
        }

    def keep_from_outer_run(self, *unused: str) -> None:
        """Tells Langflow that the body's nodes are ours to run.

        Args:
            *unused: Further outputs whose branches do not run, because nothing comes out of them this time.
        """
        outputs = [self._section.output_name, *unused]
        for name in outputs:
            self._component.stop(name)
        # As a router does: a node where branches meet then takes what the others bring.
        self._graph.exclude_branches_conditionally(self._section.owner_id, outputs)

    async def build_outside(self) -> None:
        """Builds what the body takes from outside; once, before any item runs."""
        await build_outside(self._graph, self._section, {**self._options, "event_manager": self._outer_events()})

    @contextlib.asynccontextmanager
    async def open_worker(self) -> AsyncIterator[Callable[[Any], Awaitable[Any]]]:
        """Opens one copy of the body; gives what runs an item through it."""
        events = SectionEvents(self._outer_events(), self._guard.clock)
        async with Body.open(self._section, self._graph, {**self._options, "event_manager": events}) as body:

            async def run(item: Any) -> Any:
                with self._holding():
                    return await body.run(item)

            yield run

    def _outer_events(self) -> Any:
        return self._component.get_event_manager()

    @contextlib.contextmanager
    def _holding(self) -> Iterator[None]:
        token = _held.set((*_held.get(), self._guard.name))
        try:
            yield
        finally:
            _held.reset(token)


def _falls_back_to_env() -> bool:
    from lfx.services.deps import get_settings_service

    service = get_settings_service()
    return bool(service and getattr(service.settings, "fallback_to_env_var", False))
