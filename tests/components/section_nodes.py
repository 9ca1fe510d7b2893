"""Nodes for tests of sections. Langflow executes this source afresh for every copy of a body."""

import asyncio

import section_probe
from lfx.custom.custom_component.component import Component
from lfx.io import HandleInput, MessageTextInput, Output, SecretStrInput
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


class SpreadComponent(Component):
    """Makes a table of ten rows of one item."""

    display_name = "Spread"
    inputs = [HandleInput(name="item", display_name="Item", input_types=ANY)]
    outputs = [Output(display_name="Rows", name="rows", method="rows")]

    def rows(self) -> DataFrame:
        return DataFrame([{"n": 10 * self.item.data["n"] + each} for each in range(10)])


class JoinComponent(Component):
    """Adds up what its list holds."""

    display_name = "Join"
    inputs = [HandleInput(name="items", display_name="Items", input_types=ANY, is_list=True)]
    outputs = [Output(display_name="Out", name="out", method="out")]

    def out(self) -> Data:
        return Data(data={"n": sum(each.data["n"] for each in self.items), "count": len(self.items)})


SEEN_BY_SOURCE = []
COUNT_OF_SOURCE = 0


class RememberComponent(Component):
    """Leaves traces wherever it can, and tells what it has found there."""

    display_name = "Remember"
    inputs = [
        HandleInput(name="item", display_name="Item", input_types=ANY),
        MessageTextInput(name="names", display_name="Names", is_list=True, value=["first"]),
    ]
    outputs = [Output(display_name="Out", name="out", method="out")]
    seen_by_class = {}
    count = 0

    def out(self) -> Data:
        global COUNT_OF_SOURCE  # noqa: PLW0603 - what is tested
        n = self.item.data["n"]
        found = [
            *SEEN_BY_SOURCE,
            *[COUNT_OF_SOURCE] * bool(COUNT_OF_SOURCE),
            *type(self).seen_by_class,
            *[type(self).count] * bool(type(self).count),
            *[getattr(type(self), "added", None)] * hasattr(type(self), "added"),
            *self.names[1:],
            *[self.ctx.get("left")] * ("left" in self.ctx),
            *self._logs,
            *self._vertex.results,
            *self._vertex.raw_params["names"][1:],
            *self._vertex.data["node"]["template"]["names"]["value"][1:],
        ]
        SEEN_BY_SOURCE.append(n)
        COUNT_OF_SOURCE += 1
        type(self).seen_by_class[n] = n
        type(self).count += 1
        type(self).added = n
        self.names.append(str(n))
        self._vertex.raw_params["names"].append(str(n))
        self._vertex.data["node"]["template"]["names"]["value"].append(str(n))
        self.update_ctx({"left": n})
        self.log(f"had {n}")
        self.status = str(n)
        section_probe.shared.append(n)
        return Data(data={"n": n, "found": len(found), "names": len(self.names)})


class KnobComponent(Component):
    """Says how it is set."""

    display_name = "Knob"
    inputs = [
        HandleInput(name="item", display_name="Item", input_types=ANY),
        MessageTextInput(name="suffix", display_name="Suffix", value="from the flow"),
        SecretStrInput(name="key", display_name="Key", value="", load_from_db=True),
    ]
    outputs = [
        Output(display_name="Out", name="out", method="out"),
        Output(display_name="Text", name="text", method="text"),
    ]

    def out(self) -> Data:
        return Data(data={"n": self.item.data["n"], "suffix": self.suffix, "key": self.key})

    def text(self) -> Message:
        return Message(text=f"the key is {self.key}")


class AdderComponent(Component):
    """A tool that adds to a number."""

    display_name = "Adder"
    inputs = [
        MessageTextInput(name="number", display_name="Number", value="0", tool_mode=True),
        HandleInput(name="item", display_name="Item", input_types=ANY),
    ]
    outputs = [Output(display_name="Sum", name="sum", method="add")]

    def add(self) -> Data:
        return Data(data={"sum": int(self.number) + self.item.data["n"]})


class AgentComponent(Component):
    """Calls the tool that it is given, as an agent does, and twice at once."""

    display_name = "Caller"
    inputs = [
        HandleInput(name="item", display_name="Item", input_types=ANY),
        HandleInput(name="tools", display_name="Tools", input_types=["Tool"], is_list=True),
    ]
    outputs = [Output(display_name="Out", name="out", method="out")]

    async def out(self) -> Data:
        (tool,) = self.tools
        sums = await asyncio.gather(*(tool.ainvoke({"number": each}) for each in ("100", "200")))
        return Data(data={"n": self.item.data["n"], "sums": [each["sum"] for each in sums]})
