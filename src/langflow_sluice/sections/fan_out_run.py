"""One run of a Fan-Out node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.nodes.guard_inputs import guard_of, node_identity, priority_of, report
from langflow_sluice.sections.fan_out import FanOutPolicy, fan_out
from langflow_sluice.sections.progress import Progress
from langflow_sluice.sections.rows import Rows, done_rows, failed_rows
from langflow_sluice.sections.runner import SectionRunner

if TYPE_CHECKING:
    from lfx.custom.custom_component.component import Component
    from lfx.schema.data import Data
    from lfx.schema.dataframe import DataFrame

    from langflow_sluice.sections.fan_out import Outcome

OUTPUT = "item"


class FanOutRun:
    """Runs the section of a Fan-Out for all of its rows, once, and makes its outputs.

    Args:
        component: The node.

    Raises:
        InvalidInput: An input of the node is wrong; said before any row runs.
        SectionError: The section on the canvas cannot be run.
    """

    def __init__(self, component: Component) -> None:
        self._component = component
        self._guard = guard_of(component, f"Fan-Out {node_identity(component)}")
        self._policy = FanOutPolicy(
            on_error=component.on_error,
            item_retries=component.item_retries or 0,
            item_timeout_s=component.item_timeout or 0,
            priority=priority_of(component),
        )
        self._rows = Rows(component.data)
        self._section = SectionRunner(component, OUTPUT, self._guard)
        self._section.keep_from_outer_run()
        self._outcomes: list[Outcome] | None = None
        self._error: Exception | None = None

    async def finish(self) -> None:
        """Runs the rows, if that has not been done; raises what made the run end."""
        if self._error is not None:
            raise self._error
        if self._outcomes is not None:
            return
        progress = Progress(len(self._rows), self._guard.clock, self._say)
        try:
            await self._section.build_outside()
            self._outcomes = await fan_out(
                self._rows, len(self._rows), self._guard, self._policy, self._section.open_worker, progress.count
            )
        except Exception as error:
            self._error = error
            raise
        finally:
            line = f"{progress.line()}. {report(self._guard)}"
            self._say(line)
            self._component.status = line

    def summary(self) -> Data:
        """What the item output shows: how many rows went in and what became of them."""
        from lfx.schema.data import Data

        failed = sum(outcome.error is not None for outcome in self._all())
        return Data(data={"rows": len(self._rows), "done": len(self._all()) - failed, "failed": failed})

    def done(self) -> DataFrame:
        """The rows that succeeded, in the order of the input."""
        from lfx.schema.dataframe import DataFrame

        return DataFrame(done_rows(self._rows, self._all()))

    def failed(self) -> DataFrame:
        """The rows that failed, with their errors."""
        from lfx.schema.dataframe import DataFrame

        return DataFrame(failed_rows(self._rows, self._all()))

    def _all(self) -> list[Outcome]:
        return self._outcomes or []

    def _say(self, line: str) -> None:
        self._component.log(line, name="Progress")
