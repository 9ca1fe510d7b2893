"""One run of a Fan-Out node."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from langflow_sluice.nodes.connections import leads_on
from langflow_sluice.nodes.guard_inputs import guard_of, node_identity, number, priority_of, report
from langflow_sluice.nodes.node_status import show_status
from langflow_sluice.nodes.playground import shown_progress
from langflow_sluice.sections.fan_out import FanOutPolicy, fan_out, refuse_if_all_failed
from langflow_sluice.sections.rows import ATTEMPTS, ERROR, RESULT, ROW, Rows, done_rows, failed_rows, kept, table_of
from langflow_sluice.sections.runner import SectionRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

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
            item_retries=number(component.item_retries),
            item_timeout_s=number(component.item_timeout),
            priority=priority_of(component),
        )
        self._rows = Rows(component.data)
        self._result = self._rows.free_name(RESULT)
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
        count = len(self._rows)
        try:
            async with shown_progress(self._component, count, self._guard.clock) as progress:
                try:
                    await self._section.build_outside()
                    self._outcomes = await fan_out(
                        self._rows, count, self._guard, self._policy, self._open_worker, progress.count
                    )
                finally:
                    line = f"{progress.line()}. {report(self._guard)}"
                    self._component.log(line, name="Progress")
                    show_status(self._component, line)
            if not leads_on(self._component, "failed"):
                refuse_if_all_failed(self._outcomes)
        except Exception as error:
            self._error = error
            raise

    @contextlib.asynccontextmanager
    async def _open_worker(self) -> AsyncIterator[Callable[[Any], Awaitable[Any]]]:
        async with self._section.open_worker() as run:

            async def run_and_keep(item: Any) -> list[dict[str, Any]]:
                # Fields at once: a hundred thousand messages, each with its sender and session, are some gigabytes.
                return kept(await run(item), self._result)

            yield run_and_keep

    def summary(self) -> Data:
        """What the item output shows: how many rows went in and what became of them."""
        from lfx.schema.data import Data

        failed = sum(outcome.error is not None for outcome in self._all())
        return Data(data={"rows": len(self._rows), "done": len(self._all()) - failed, "failed": failed})

    def done(self) -> DataFrame:
        """The rows that succeeded, in the order of the input."""
        return table_of(done_rows(self._rows, self._all()), self._rows.columns, self._rows.text_key)

    def failed(self) -> DataFrame:
        """The rows that failed, with their errors."""
        columns = [*self._rows.columns, ROW, ERROR, ATTEMPTS]
        return table_of(failed_rows(self._rows, self._all()), columns, self._rows.text_key)

    def _all(self) -> list[Outcome]:
        return self._outcomes or []
