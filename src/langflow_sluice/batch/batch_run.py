"""One run of a Guarded Batch Run node."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langflow_sluice.batch.batch_model import batch_model
from langflow_sluice.batch.prompts import Prompts
from langflow_sluice.batch.usage import UsageSum
from langflow_sluice.errors import InvalidInput
from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.nodes.connections import leads_on
from langflow_sluice.nodes.guard_inputs import node_identity, number, report
from langflow_sluice.nodes.node_status import show_status
from langflow_sluice.nodes.playground import shown_progress
from langflow_sluice.sections.fan_out import MAX_WORKERS, FanOutPolicy, fan_out, refuse_if_all_failed
from langflow_sluice.sections.rows import ATTEMPTS, ERROR, ROW, failed_rows, table_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from lfx.custom.custom_component.component import Component
    from lfx.schema.dataframe import DataFrame

    from langflow_sluice.sections.fan_out import Outcome

INDEX, METADATA = "batch_index", "metadata"


class BatchRun:
    """Asks a model about each row of a table, once, and makes the node's outputs.

    Of an answer only its text is kept, so that a hundred thousand rows are not as many messages. Whoever leaves
    ``finish`` cancels the calls that are on their way; rows that wait never start.

    Args:
        component: The node.

    Raises:
        InvalidInput: An input of the node is wrong; said before any row runs.
    """

    def __init__(self, component: Component) -> None:
        self._component = component
        self._prompts = Prompts(component.df, (component.column_name or "").strip())
        self._answers = (component.output_column_name or "").strip()
        if self._answers in {"", INDEX, METADATA}:
            problem = "the answers need a column of their own"
            raise InvalidInput.of("output_column_name", self._answers, problem, fix="Enter another name.")
        self._system = component.system_message or ""
        self._policy = FanOutPolicy(on_error=component.on_error, item_retries=number(component.item_retries))
        self._model, self._protection = batch_model(component)
        self._workers = self._places()
        self._usage = UsageSum()
        self._outcomes: list[Outcome] | None = None
        self._error: Exception | None = None

    def _places(self) -> Guard:
        """What ``fan_out`` asks for each row: it decides on the number of workers, and never lets them wait.

        The call takes its permit from the model's guard, and only there; nobody else knows this one.
        """
        guard = self._protection.guard
        asked = GuardSettings(max_concurrency=number(self._component.max_concurrency), max_queue=0, queue_timeout_s=0)
        # More workers than the model's guard lets through would only stand in its queue, in front of others.
        limit = GuardSettings(max_concurrency=guard.settings.max_concurrency or MAX_WORKERS)
        count = int(asked.tighter(limit).max_concurrency)
        name = f"Guarded Batch Run {node_identity(self._component)}"
        return Guard(name, replace(asked, max_concurrency=count), guard.clock)

    async def finish(self) -> None:
        """Runs the rows, if that has not been done; raises what made the run end."""
        if self._error is not None:
            raise self._error
        if self._outcomes is not None:
            return
        count = len(self._prompts)
        try:
            async with shown_progress(self._component, count, self._workers.clock) as progress:
                try:
                    self._outcomes = await fan_out(
                        self._prompts, count, self._workers, self._policy, self._open_worker, progress.count
                    )
                finally:
                    self._say(progress.line())
            if not leads_on(self._component, "failed"):
                refuse_if_all_failed(self._outcomes)
        except Exception as error:
            self._error = error
            raise

    def _say(self, progress: str) -> None:
        """The node's last line, and the tokens that Langflow shows on it and adds up in Chat Output."""
        line = f"{progress}. {self._usage.line()}. {report(self._protection.guard, self._protection.tally)}"
        self._component.log(line, name="Progress")
        show_status(self._component, line)
        self._component._token_usage = self._usage.as_usage()  # noqa: SLF001 - as stock nodes tell it

    @contextlib.asynccontextmanager
    async def _open_worker(self) -> AsyncIterator[Callable[[str | None], Awaitable[str]]]:
        model = self._model.with_config(
            run_name=self._component.display_name,
            metadata={"project_name": self._component.get_project_name()},  # type: ignore[no-untyped-call] # Langflow's
            callbacks=self._component.get_langchain_callbacks(),
        )
        instructions = [{"role": "system", "content": self._system}] if self._system else []

        async def ask(text: str | None) -> str:
            if text is None:
                raise self._prompts.nothing_to_send()
            answer = await model.ainvoke([*instructions, {"role": "user", "content": text}])
            self._usage.add(answer)
            return str(answer.text)

        yield ask

    def results(self) -> DataFrame:
        """The rows that succeeded, as Batch Run makes them, in the order of the input; with the usage in ``attrs``."""
        from lfx.schema.dataframe import DataFrame

        columns = dict.fromkeys([*self._prompts.rows.columns, self._answers, INDEX])
        if self._component.enable_metadata:
            columns[METADATA] = None
        answered = zip(self._prompts.rows.fields(), self._all(), strict=True)
        table = [self._answered(fields, outcome) for fields, outcome in answered if outcome.error is None]
        results = DataFrame(table, columns=list(columns))
        results.attrs["usage"] = self._usage.as_dict()
        return results

    def _answered(self, fields: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
        row = {**fields, self._answers: outcome.value, INDEX: outcome.index}
        if self._component.enable_metadata:
            row[METADATA] = {
                "has_system_message": bool(self._system),
                # Of a column of that name, as Batch Run has it: whoever reads it reads the same.
                "input_length": len(str(row.get("text_input") or "")),
                "response_length": len(outcome.value),
                "processing_status": "success",
            }
        return row

    def failed(self) -> DataFrame:
        """The rows that failed, with their errors; connected to another run's table they are tried again."""
        columns = [*self._prompts.rows.columns, ROW, ERROR, ATTEMPTS]
        return table_of(failed_rows(self._prompts.rows, self._all()), columns)

    def _all(self) -> list[Outcome]:
        return self._outcomes or []
