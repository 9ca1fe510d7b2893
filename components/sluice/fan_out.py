from lfx.custom.custom_component.component import Component
from lfx.io import FloatInput, HandleInput, Output
from lfx.schema.data import Data
from lfx.schema.dataframe import DataFrame

from langflow_sluice.nodes.guard_inputs import NAMED_BY_NODE, guard_inputs
from langflow_sluice.nodes.row_inputs import row_inputs
from langflow_sluice.sections.fan_out_run import FanOutRun
from langflow_sluice.sections.turns import begin


class FanOutComponent(Component):
    display_name = "Fan-Out"
    description = "Runs the nodes between Item and the edge that comes back for each row, a few rows at a time."
    icon = "split"

    inputs = [
        HandleInput(
            name="data",
            display_name="Rows",
            input_types=["DataFrame", "Table", "Data", "JSON", "Message"],
            is_list=True,
            required=True,
            info="A table, or a list of JSON or messages: one row each. Failed rows fed in again run as they were.",
        ),
        *row_inputs(not_repeated="never for what a guard inside has retried or refused already"),
        FloatInput(
            name="item_timeout",
            display_name="Item Timeout",
            value=300,
            advanced=True,
            info="Seconds for one attempt at one row. 0: no limit.",
        ),
        *guard_inputs(blank_name=NAMED_BY_NODE, queue_timeout=600),
    ]
    outputs = [
        Output(
            display_name="Item",
            name="item",
            method="item_output",
            types=["Data"],
            allows_loop=True,
            loop_types=["Message", "DataFrame"],
            group_outputs=True,
        ),
        Output(display_name="Done", name="done", method="done_output", types=["DataFrame"], group_outputs=True),
        Output(display_name="Failed", name="failed", method="failed_output", types=["DataFrame"], group_outputs=True),
    ]

    async def item_output(self) -> Data:
        return (await self._run_once()).summary()

    async def done_output(self) -> DataFrame:
        return (await self._run_once()).done()

    async def failed_output(self) -> DataFrame:
        return (await self._run_once()).failed()

    async def _run_once(self) -> FanOutRun:
        # Every connected output asks; the rows are run for the first one only.
        if getattr(self, "_fan_out_run", None) is None:
            self._fan_out_run = await begin(self, FanOutRun)
        await self._fan_out_run.finish()
        return self._fan_out_run
