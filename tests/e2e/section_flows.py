"""Flows of the tests with sections in them, and the desk that their rows come to."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langflow_sluice.canvas import parts
    from langflow_sluice.canvas.build import Flow, Node
    from langflow_sluice.canvas.bundled import bundled_flows

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from typing_extensions import Self

    from .conftest import Palette

FAN_OUT, GATE, VISIT = "FanOutComponent-rows", "ConcurrencyGateComponent-gate", "VisitComponent-visit"
DONE, FAILED = "ChatOutput-out", "ChatOutput-failed"
_AGES_S = 60.0  # no test waits for it


def _nobody(_: str) -> bool:
    return False


def everybody(_: str) -> bool:
    """Whom a desk holds that nobody passes before it opens."""
    return True


_VISIT = """
import asyncio

from lfx.custom.custom_component.component import Component
from lfx.io import HandleInput, IntInput, MessageTextInput, Output
from lfx.schema.message import Message


class VisitComponent(Component):
    display_name = "Visit"
    inputs = [
        HandleInput(name="item", display_name="Item", input_types=["Data", "JSON", "Message"]),
        IntInput(name="port", display_name="Port"),
        MessageTextInput(name="remark", display_name="Remark", value="seen"),
    ]
    outputs = [Output(name="seen", display_name="Seen", method="visit")]

    async def visit(self) -> Message:
        name = self.item.get_text()
        if not self.port:
            return Message(text=f"{name} {self.remark}")
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"{name}\\n".encode())
            answer = await reader.readline()
        finally:
            writer.close()
        if answer != b"welcome\\n":
            raise ValueError(f"{name} was turned away")
        return Message(text=f"{name} {self.remark}")
"""

_COUNTING = """
from lfx.custom.custom_component.component import Component
from lfx.io import HandleInput, MessageTextInput, Output
from lfx.schema.dataframe import DataFrame
from lfx.schema.message import Message


class CountUpComponent(Component):
    display_name = "Count Up"
    inputs = [MessageTextInput(name="number", display_name="Number")]
    outputs = [Output(name="rows", display_name="Rows", method="rows")]

    def rows(self) -> DataFrame:
        return DataFrame([{"n": n, "text": f"row {n}"} for n in range(int(self.number))])
"""

_STEP = """
from lfx.custom.custom_component.component import Component
from lfx.io import FloatInput, HandleInput, Output
from lfx.schema.data import Data


class StepComponent(Component):
    display_name = "Step"
    inputs = [
        HandleInput(name="item", display_name="Item", input_types=["Data", "JSON"]),
        FloatInput(name="seconds", display_name="Seconds", value=0.0),
    ]
    outputs = [Output(name="out", display_name="Out", method="out")]

    async def out(self) -> Data:
        self.log(f"at row {self.item.data['n']}")
        if self.seconds:
            import asyncio

            await asyncio.sleep(self.seconds)
        return Data(data={"next": self.item.data["n"] + 1})
"""

_DIGEST = """
from lfx.custom.custom_component.component import Component
from lfx.io import HandleInput, Output
from lfx.schema.message import Message


class DigestComponent(Component):
    display_name = "Digest"
    inputs = [HandleInput(name="table", display_name="Table", input_types=["DataFrame", "Table"])]
    outputs = [Output(name="text", display_name="Text", method="text")]

    def text(self) -> Message:
        pairs = list(zip(self.table.get("n", []), self.table.get("next", [])))
        right = sum(pair == (index, index + 1) for index, pair in enumerate(pairs))
        return Message(text=f"{len(pairs)} rows, {right} right and in place")
"""


def _flow(palette: Palette, slug: str, name: str) -> Flow:
    return Flow(palette, slug, name=name, description="A test's.")


def _visit(flow: Flow, palette: Palette, port: int) -> Node:
    return flow.add(palette.make(_VISIT), "visit", values={"port": port})


def rows_visiting(palette: Palette, port: int = 0, **limits: Any) -> Flow:
    """Chat Input -> one row a line -> Fan-Out, whose rows visit the desk; done and failed -> a Chat Output each."""
    flow = _flow(palette, "test_rows_visiting", "Rows that visit")
    text, split = parts.chat_input(flow), parts.lines(flow)
    fan = flow.add(parts.FAN_OUT, "rows", values=limits)
    visit = _visit(flow, palette, port)
    done, failed = parts.chat_output(flow), flow.add(parts.CHAT_OUTPUT, "failed")
    flow.connect(text, "message", split, "data_inputs")
    flow.connect(split, "dataframe", fan, "data")
    flow.connect(fan, "item", visit, "item")
    flow.connect(visit, "seen", fan, "item")
    flow.connect(fan, "done", done, "input_value")
    flow.connect(fan, "failed", failed, "input_value")
    flow.arrange([[text], [split], [fan], [None, visit], [done, failed]])
    return flow


def gate_visiting(palette: Palette, port: int = 0, **limits: Any) -> Flow:
    """Chat Input -> Concurrency Gate, whose section visits the desk -> Chat Output."""
    flow = _flow(palette, "test_gate_visiting", "A gate before a visit")
    text, answer = parts.chat_input(flow), parts.chat_output(flow)
    gate = flow.add(parts.CONCURRENCY_GATE, "gate", values=limits)
    visit = _visit(flow, palette, port)
    flow.connect(text, "message", gate, "value")
    flow.connect(gate, "guarded", visit, "item")
    flow.connect(visit, "seen", gate, "guarded")
    flow.connect(gate, "done", answer, "input_value")
    flow.arrange([[text], [gate], [None, visit], [answer]])
    return flow


def counted_rows(palette: Palette, *, seconds: float = 0.0, **limits: Any) -> Flow:
    """Chat Input with a number -> as many rows -> Fan-Out over a node that adds one -> how many are right."""
    flow = _flow(palette, "test_counted_rows", "Rows that are counted")
    text, answer = parts.chat_input(flow), parts.chat_output(flow)
    count = flow.add(palette.make(_COUNTING), "rows")
    fan = flow.add(parts.FAN_OUT, "rows", values=limits)
    step = flow.add(palette.make(_STEP), "step", values={"seconds": seconds})
    digest = flow.add(palette.make(_DIGEST), "done")
    flow.connect(text, "message", count, "number")
    flow.connect(count, "rows", fan, "data")
    flow.connect(fan, "item", step, "item")
    flow.connect(step, "out", fan, "item")
    flow.connect(fan, "done", digest, "table")
    flow.connect(digest, "text", answer, "input_value")
    flow.arrange([[text], [count], [fan], [None, step], [digest], [answer]])
    return flow


def bundled(slug: str, node_id: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A bundled flow as it is but for the values of one node, for ways of running it that take no tweaks."""
    flow = next(flow for flow in bundled_flows() if flow.slug == slug).load()
    [template] = [node["data"]["node"]["template"] for node in flow["data"]["nodes"] if node["id"] == node_id]
    for name, value in values.items():
        template[name]["value"] = value
    return flow


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Chat Output writes it."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    lines.insert(1, [f":{'-' * (width + 1)}" for width in widths])
    return "\n".join(f"|{'|'.join(line)}|" if line[0][0] == ":" else f"| {' | '.join(line)} |" for line in lines)


def cells(table: str) -> list[list[str]]:
    """The rows of a table that Chat Output has written, without its head; none where the table is empty."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


class Desk:
    """Where the rows of a flow come to, each over a connection of its own, to be served or turned away.

    Used on one loop, as an async context manager.

    Args:
        held: Who waits until the desk opens; the others are served as they come.
        unwelcome: Names of those who are turned away.
        crowd: They are turned away as soon as so many have been there at once.

    Attributes:
        port: Where it is.
        came: The names of all who came, in their order.
        gone: The names of those who left before they were served.
        inside: How many are there now.
        most: How many were there at once.
        opened: Lets those who are held be served.
    """

    def __init__(
        self, held: Callable[[str], bool] = _nobody, *, unwelcome: Container[str] = (), crowd: int = 1
    ) -> None:
        self._held, self._unwelcome, self._crowd = held, unwelcome, crowd
        self._changed = asyncio.Condition()
        self.came: list[str] = []
        self.gone: list[str] = []
        self.inside = self.most = self.port = 0
        self.opened = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.opened.set()
        await self.until(lambda: not self.inside)
        self._server.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for something to be true of the desk."""
        async with asyncio.timeout(_AGES_S), self._changed:
            await self._changed.wait_for(condition)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = (await reader.readline()).decode().strip()
        self.came.append(name)
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self._tell()
        answering, leaving = asyncio.ensure_future(self._answer(name)), asyncio.ensure_future(reader.read())
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self.gone.append(name)
            else:
                writer.write(answering.result())
                await leaving
        finally:
            self.inside -= 1
            answering.cancel()
            leaving.cancel()
            writer.close()
            await self._tell()

    async def _answer(self, name: str) -> bytes:
        if name in self._unwelcome:
            await self.until(lambda: self.most >= self._crowd)
            return b"turned away\n"
        if self._held(name):
            await self.opened.wait()
        return b"welcome\n"

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
