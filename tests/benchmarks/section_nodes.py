"""Nodes of the sections' benchmark. Langflow executes this source afresh for every copy of a body."""

import asyncio

from lfx.custom.custom_component.component import Component
from lfx.io import FloatInput, HandleInput, IntInput, Output
from lfx.schema.data import Data
from lfx.schema.dataframe import DataFrame
from lfx.schema.message import Message


class RowsComponent(Component):
    display_name = "Rows"
    inputs = [IntInput(name="count", display_name="Count", value=0)]
    outputs = [Output(display_name="Table", name="table", method="table")]

    def table(self) -> DataFrame:
        return DataFrame([{"n": n} for n in range(self.count)])


class StepComponent(Component):
    """Adds one to n, after the seconds that it is told."""

    display_name = "Step"
    inputs = [
        HandleInput(name="item", display_name="Item", input_types=["Data", "JSON"]),
        FloatInput(name="seconds", display_name="Seconds", value=0.0),
    ]
    outputs = [Output(display_name="Out", name="out", method="out", types=["Data"])]

    async def out(self) -> Data:
        if self.seconds:
            await asyncio.sleep(self.seconds)
        return Data(data={"n": self.item.data["n"] + 1})


class CountComponent(Component):
    display_name = "Count"
    inputs = [HandleInput(name="table", display_name="Table", input_types=["DataFrame", "Table"])]
    outputs = [Output(display_name="Text", name="text", method="text")]

    def text(self) -> Message:
        return Message(text=f"{len(self.table)} rows")
