"""One run of a Concurrency Gate node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import InvalidInput, Rejected
from langflow_sluice.nodes.guard_inputs import guard_of, node_identity, priority_of, report
from langflow_sluice.sections.runner import SectionRunner

if TYPE_CHECKING:
    from lfx.custom.custom_component.component import Component

GUARDED, DONE, BUSY = "guarded", "done", "busy"


class GateRun:
    """Runs the section of a Concurrency Gate once, under a slot of its guard, and makes its outputs.

    Args:
        component: The node.

    Raises:
        InvalidInput: An input of the node is wrong; said before anything runs.
        SectionError: The section on the canvas cannot be run.
    """

    def __init__(self, component: Component) -> None:
        if component.on_full not in {"raise", BUSY}:
            raise InvalidInput.of("on_full", component.on_full, "there is no such choice", fix="Use raise or busy.")
        self._component = component
        self._guard = guard_of(component, f"Concurrency Gate {node_identity(component)}")
        self._priority = priority_of(component)
        self._section = SectionRunner(component, GUARDED, self._guard)
        self._section.keep_from_outer_run()
        self._finished = False
        self._error: Exception | None = None
        self._result: Any = None
        self._rejection: Rejected | None = None

    async def finish(self) -> None:
        """Runs the section, if that has not been done; raises what made it end."""
        if self._error is not None:
            raise self._error
        if self._finished:
            return
        try:
            await self._run()
        except Rejected as rejection:
            if self._component.on_full != BUSY:
                self._error = rejection
                raise
            self._rejection = rejection
            self._component.log(str(rejection), name="Busy")
        except Exception as error:
            self._error = error
            raise
        finally:
            self._component.status = report(self._guard)
            self._component.log(self._component.status, name="Guard")
        self._section.keep_from_outer_run(DONE if self._rejection else BUSY)
        self._finished = True

    async def _run(self) -> None:
        # Before the slot is asked for: what is computed outside must not hold up the others.
        await self._section.build_outside()
        async with self._guard.slot(priority=self._priority), self._section.open_worker() as run:
            self._result = await run(self._component.value)

    def entered(self) -> Any:
        """What the guarded output shows: the value that went in."""
        return self._component.value

    def result(self) -> Any:
        """What came back from the section; nothing where the value was turned away."""
        return self._result

    def turned_away(self) -> Any:
        """The value, where it was turned away."""
        return self._component.value if self._rejection else None
