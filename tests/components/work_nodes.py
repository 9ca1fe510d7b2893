"""Nodes that do what a test tells them to. Langflow executes this source afresh for every copy of a body."""

import section_probe
from lfx.custom.custom_component.component import Component
from lfx.io import HandleInput, Output
from lfx.schema.data import Data

ANY = ["Data", "JSON", "Message", "DataFrame", "Table"]


class GiveComponent(Component):
    """Gives what the test holds ready."""

    display_name = "Give"
    outputs = [Output(display_name="Out", name="out", method="give", types=ANY)]

    def give(self) -> Data:
        return section_probe.given


class WorkComponent(Component):
    """Calls the test's function with what comes in."""

    display_name = "Work"
    inputs = [HandleInput(name="item", display_name="Item", input_types=ANY)]
    outputs = [Output(display_name="Out", name="out", method="work", types=["Data"])]

    async def work(self) -> Data:
        return await section_probe.work(self.item)


class KeepComponent(Component):
    """Keeps what comes out at the end."""

    display_name = "Keep"
    inputs = [
        HandleInput(name="value", display_name="Value", input_types=ANY),
        HandleInput(name="other", display_name="Other", input_types=ANY),
    ]
    outputs = [Output(display_name="Out", name="out", method="keep", types=["Data"])]

    def keep(self) -> Data:
        section_probe.results[self._id] = (self.value, self.other)
        return Data(data={})
