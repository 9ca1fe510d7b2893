"""Nodes for tests of sections. Langflow executes this source afresh for every copy of a body."""

import asyncio

import section_probe
from lfx.custom.custom_component.component import Component
from lfx.io import HandleInput, MessageTextInput, Output
from lfx.schema.data import Data
from lfx.schema.dataframe import DataFrame
from lfx.schema.message import Message

ANY = ["Data", "JSON", "Message", "DataFrame", "Table"]


class SourceComponent(Component):
    display_name = "Source"
    inputs = [MessageTextInput(name="text", display_name="Text", value="")]
    outputs = [
        Output(display_name="Rows", name="rows", method="rows"),
        Output(display_name="Message", name="message", method="message"),
    ]

    def rows(self) -> DataFrame:
        section_probe.ran(self._id)
        return DataFrame([{"n": n} for n in range(section_probe.rows)])

    def message(self) -> Message:
        section_probe.ran(self._id)
        return Message(text=self.text or self._id)


class StepComponent(Component):
    """Adds one to n, and whatever a second input says."""

    display_name = "Step"
    inputs = [
        HandleInput(name="item", display_name="Item", input_types=ANY),
        HandleInput(name="extra", display_name="Extra", input_types=ANY),
    ]
    outputs = [Output(display_name="Out", name="out", method="out")]

    async def out(self) -> Data:
        section_probe.ran(self._id)
        n = self.item.data["n"]
        before = getattr(self, "seen", None)
        assert before is None, "an item found what another one left"
        self.seen = n
        with section_probe.inside(self._id):
            for _ in range(section_probe.turns(n)):
                await asyncio.sleep(0)
        if n in section_probe.failing:
            msg = f"n is {n}"
            raise ValueError(msg)
        fields = {**self.item.data, "n": n + 1}
        if isinstance(self.extra, Message):
            fields["extra"] = self.extra.text
        return Data(data=fields)


class ParityComponent(Component):
    """Sends odd numbers one way and even ones the other."""

    display_name = "Parity"
    inputs = [HandleInput(name="item", display_name="Item", input_types=ANY)]
    outputs = [
        Output(display_name="Odd", name="odd", method="odd", group_outputs=True),
        Output(display_name="Even", name="even", method="even", group_outputs=True),
    ]

    def odd(self) -> Data:
        return self._way("odd", self.item.data["n"] % 2)

    def even(self) -> Data:
        return self._way("even", 1 - self.item.data["n"] % 2)

    def _way(self, name: str, taken: int) -> Data:
        if not taken:
            self.stop(name)
            self.graph.exclude_branches_conditionally(self._id, [name])
        return self.item


class SinkComponent(Component):
    display_name = "Sink"
    inputs = [
        HandleInput(name="value", display_name="Value", input_types=ANY),
        HandleInput(name="other", display_name="Other", input_types=ANY),
    ]
    outputs = [Output(display_name="Text", name="text", method="text")]

    def text(self) -> Message:
        section_probe.ran(self._id)
        section_probe.results[self._id] = (self.value, self.other)
        return Message(text="end")


class HoldComponent(Component):
    """Hands its value on, as soon as it may."""

    display_name = "Hold"
    inputs = [HandleInput(name="value", display_name="Value", input_types=ANY)]
    outputs = [Output(display_name="Out", name="out", method="value_output")]

    async def value_output(self) -> Message:
        section_probe.ran(self._id)
        with section_probe.inside(self._id):
            await section_probe.hold.wait()
        return self.value


class ParityTextComponent(Component):
    display_name = "Parity Text"
    inputs = [HandleInput(name="item", display_name="Item", input_types=ANY)]
    outputs = [Output(display_name="Out", name="out", method="out")]

    def out(self) -> Message:
        return Message(text=str(self.item.data["n"] % 2))
