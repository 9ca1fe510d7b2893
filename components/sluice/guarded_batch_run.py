from lfx.custom.custom_component.component import Component
from lfx.io import (
    BoolInput,
    DataFrameInput,
    HandleInput,
    MessageTextInput,
    MultilineInput,
    Output,
)
from lfx.schema.dataframe import DataFrame

from langflow_sluice.batch.batch_inputs import batch_guard_inputs
from langflow_sluice.batch.batch_run import BatchRun
from langflow_sluice.nodes.row_inputs import row_inputs
from langflow_sluice.nodes.upstream_inputs import call_inputs


class GuardedBatchRunComponent(Component):
    display_name = "Guarded Batch Run"
    description = "Asks a model about each row of a table, a few rows at a time, and keeps what succeeds."
    icon = "list-checks"

    inputs = [
        HandleInput(
            name="model",
            display_name="Language Model",
            input_types=["LanguageModel"],
            required=True,
            info="The model of any node. A guarded one keeps its guard; any other gets one with the limits below.",
        ),
        MultilineInput(
            name="system_message",
            display_name="Instructions",
            info="System message for all rows.",
        ),
        DataFrameInput(
            name="df",
            display_name="Table",
            required=True,
            info="The rows. Connect another run's failed rows to run only those again.",
        ),
        MessageTextInput(
            name="column_name",
            display_name="Column Name",
            info="The column whose text is sent. Blank: all columns, as TOML.",
        ),
        MessageTextInput(
            name="output_column_name",
            display_name="Output Column Name",
            value="model_response",
            advanced=True,
            info="The column that the answers are put in.",
        ),
        BoolInput(
            name="enable_metadata",
            display_name="Enable Metadata",
            value=False,
            advanced=True,
            info="Adds a column about each row's processing.",
        ),
        *row_inputs(not_repeated="what Max Retries has tried already is not repeated"),
        *call_inputs(total_timeout=600),
        *batch_guard_inputs(),
    ]
    outputs = [
        Output(display_name="LLM Results", name="batch_results", method="run_batch", group_outputs=True),
        Output(display_name="Failed", name="failed", method="failed_rows", group_outputs=True),
    ]

    async def run_batch(self) -> DataFrame:
        return (await self._run_once()).results()

    async def failed_rows(self) -> DataFrame:
        return (await self._run_once()).failed()

    async def _run_once(self) -> BatchRun:
        # Every connected output asks; the rows are run for the first one only.
        if getattr(self, "_batch_run", None) is None:
            self._batch_run = BatchRun(self)
        await self._batch_run.finish()
        return self._batch_run
