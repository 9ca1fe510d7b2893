"""One run of a Concurrency Gate node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import InvalidInput, Rejected
from langflow_sluice.nodes.connections import leads_on
from langflow_sluice.nodes.guard_inputs import guard_of, node_identity, priority_of, report
from langflow_sluice.nodes.node_status import show_status
from langflow_sluice.sections.busy import noted, without_note
from langflow_sluice.sections.runner import SectionRunner

if TYPE_CHECKING:
    from lfx.custom.custom_component.component import Component

GUARDED, DONE, BUSY, REASON = "guarded", "done", "busy", "reason"


class GateRun:
    """Runs the section of a Concurrency Gate once, under a slot of its guard, and makes its outputs.

    Args:
        component: The node.

    Raises:
        InvalidInput: An input of the node is wrong, or values should go to an output that leads nowhere; said before
            anything runs.
        SectionError: The section on the canvas cannot be run.
    """

    def __init__(self, component: Component) -> None:
        if component.on_full not in {"raise", BUSY}:
            raise InvalidInput.of("on_full", component.on_full, "there is no such choice", fix="Use raise or busy.")
        self._component = component
        self._guard = guard_of(component, f"Concurrency Gate {node_identity(component)}")
        self._priority = priority_of(component)
        self._section = SectionRunner(component, GUARDED, self._guard)
        if component.on_full == BUSY and not leads_on(component, BUSY, REASON):
            problem = "values that are turned away go to Busy, and nothing is connected to it"
            fix = "Connect Busy (the value) or Reason (why, and when to try again), or set on_full to raise."
            raise InvalidInput.of("on_full", BUSY, problem, fix=fix)
        self._section.keep_from_outer_run()
        self._value = without_note(component.value)
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
        told = ""
        try:
            await self._run()
        except Rejected as rejection:
            if self._component.on_full != BUSY:
                self._error = rejection
                # Few frames for Langflow's logs; from where it comes they tell nothing.
                raise rejection.with_traceback(None) from None
            # Kept for its words; with its frames it would keep alive all that they hold.
            self._rejection = rejection.with_traceback(None)
            told = f"Turned away: {rejection} "
            self._component.log(str(rejection), name="Busy")
        except Exception as error:
            self._error = error
            raise
        finally:
            line = report(self._guard)
            self._component.log(line, name="Guard")
            show_status(self._component, told + line)
        self._section.keep_from_outer_run(*((DONE,) if self._rejection else (BUSY, REASON)))
        self._finished = True

    async def _run(self) -> None:
        # Before the slot is asked for: what is computed outside must not hold up the others.
        await self._section.build_outside()
        async with self._guard.slot(priority=self._priority), self._section.open_worker() as run:
            self._result = await run(self._value)

    def entered(self) -> Any:
        """What the guarded output shows: the value that went in."""
        return self._value

    def result(self) -> Any:
        """What came back from the section; nothing where the value was turned away."""
        return self._result

    def turned_away(self) -> Any:
        """The value with the reason, where it was turned away."""
        return noted(self._value, self._rejection) if self._rejection else None

    def reason(self) -> Any:
        """Why it was turned away, as a message to show to somebody; nothing where it was not."""
        from lfx.schema.message import Message

        return noted(Message(text=str(self._rejection)), self._rejection) if self._rejection else None
