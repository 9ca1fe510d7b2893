from lfx.custom.custom_component.component import Component
from lfx.io import DropdownInput, HandleInput, Output
from lfx.schema.data import Data
from lfx.schema.message import Message

from langflow_sluice.nodes.guard_inputs import NAMED_BY_NODE, guard_inputs
from langflow_sluice.sections.gate_run import GateRun
from langflow_sluice.sections.turns import begin


class ConcurrencyGateComponent(Component):
    display_name = "Concurrency Gate"
    description = "Runs the nodes between Guarded and the edge that comes back, a bounded number of runs at a time."
    icon = "traffic-cone"

    inputs = [
        HandleInput(
            name="value",
            display_name="Value",
            input_types=["Message", "Data", "JSON", "DataFrame", "Table"],
            required=True,
            info="Goes into the guarded part as it is.",
        ),
        DropdownInput(
            name="on_full",
            display_name="On Full",
            options=["raise", "busy"],
            value="raise",
            info="When the queue is full or the wait too long: end with an error, or send the value to Busy and say "
            "why, and when to try again, at Reason.",
        ),
        *guard_inputs(blank_name=NAMED_BY_NODE),
    ]
    outputs = [
        Output(
            display_name="Guarded",
            name="guarded",
            method="guarded_output",
            types=["Message", "Data", "DataFrame"],
            allows_loop=True,
            loop_types=["Message", "Data", "DataFrame"],
            group_outputs=True,
        ),
        Output(
            display_name="Done",
            name="done",
            method="done_output",
            types=["Message", "Data", "DataFrame"],
            group_outputs=True,
        ),
        Output(
            display_name="Busy",
            name="busy",
            method="busy_output",
            types=["Message", "Data", "DataFrame"],
            group_outputs=True,
        ),
        Output(display_name="Reason", name="reason", method="reason_output", types=["Message"], group_outputs=True),
    ]

    async def guarded_output(self) -> Message | Data:
        return (await self._run_once()).entered()

    async def done_output(self) -> Message | Data:
        return (await self._run_once()).result()

    async def busy_output(self) -> Message | Data:
        return (await self._run_once()).turned_away()

    async def reason_output(self) -> Message:
        return (await self._run_once()).reason()

    async def _run_once(self) -> GateRun:
        # Every connected output asks; the section is run for the first one only.
        if getattr(self, "_gate_run", None) is None:
            self._gate_run = await begin(self, GateRun)
        await self._gate_run.finish()
        return self._gate_run
