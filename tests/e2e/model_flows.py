"""Flows of the tests: whoever calls a model on Langflow's canvas, each behind the same guard."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langflow_sluice.canvas import parts
    from langflow_sluice.canvas.build import Flow, Node
    from langflow_sluice.canvas.catalog import extension_type
    from langflow_sluice.canvas.settings import CONNECT_OTHER_MODELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from .conftest import Palette

GUARDED_MODEL = extension_type("sluice", "GuardedModelComponent")
AGENT = "Agent"
STRUCTURED_OUTPUT = "StructuredOutput"

ASKING_NODES = """
from lfx.custom.custom_component.component import Component
from lfx.field_typing import LanguageModel
from lfx.io import BoolInput, HandleInput, MessageTextInput, Output
from lfx.schema.message import Message
from lfx.utils.async_helpers import run_until_complete


class {name}(Component):
    display_name = "{name}"
    inputs = [
        HandleInput(name="model", display_name="Model", input_types=["LanguageModel"], required=True),
        MessageTextInput(name="question", display_name="Question"),
        BoolInput(name="stream", display_name="Stream", advanced=True),
    ]
    outputs = [Output(name="answer", display_name="Answer", method="ask")]

    async def _ask(self) -> str:
        if not self.stream:
            return (await self.model.ainvoke(self.question)).content
        return "".join([chunk.content async for chunk in self.model.astream(self.question)])

    def _ask_blocking(self) -> str:
        if not self.stream:
            return self.model.invoke(self.question).content
        return "".join(chunk.content for chunk in self.model.stream(self.question))

    {ask}
"""
# Where a node calls its model from, by the node's class.
ASKING = {
    "AskOnTheLoop": "async def ask(self) -> Message:\n        return Message(text=await self._ask())",
    "AskOnAThread": "def ask(self) -> Message:\n        return Message(text=self._ask_blocking())",
    "AskOnALoopOfItsOwn": "def ask(self) -> Message:\n        return Message(text=run_until_complete(self._ask()))",
    "AskOnALoopBesideTheLoop": (
        "async def ask(self) -> Message:\n        return Message(text=run_until_complete(self._ask()))"
    ),
}


def _flow(palette: Palette, slug: str, name: str) -> Flow:
    return Flow(palette, slug, name=name, description="A test's.")


def guarded_stock_llm(flow: Flow, values: Mapping[str, Any] | None = None) -> tuple[Node, Node]:
    """The OpenAI model of Langflow and our guard in front of it."""
    model = parts.stock_llm(flow)
    guard = flow.add(GUARDED_MODEL, "guard", values=dict(values or {}))
    flow.connect(model, "model_output", guard, "model")
    return model, guard


def batch_run_guarded(palette: Palette) -> Flow:
    """Chat Input -> Split Text -> stock Batch Run, fed by the OpenAI model behind Guarded Model -> Chat Output."""
    flow = _flow(palette, "test_batch_run_guarded", "Batch Run behind a guard")
    text, split, batch, result = (
        parts.chat_input(flow),
        parts.lines(flow),
        parts.batch_run(flow),
        parts.chat_output(flow),
    )
    model, guard = guarded_stock_llm(flow)
    flow.connect(text, "message", split, "data_inputs")
    flow.connect(split, "dataframe", batch, "df")
    flow.connect(guard, "model_output", batch, "model")
    flow.connect(batch, "batch_results", result, "input_value")
    flow.arrange([[text, model], [split, guard], [batch], [result]])
    return flow


def agent_guarded(palette: Palette) -> Flow:
    """Chat Input -> Agent with its own tool (the date), on the OpenAI model behind Guarded Model -> Chat Output."""
    flow = _flow(palette, "test_agent_guarded", "Agent behind a guard")
    question, answer = parts.chat_input(flow), parts.chat_output(flow)
    model, guard = guarded_stock_llm(flow)
    values = {"model": CONNECT_OTHER_MODELS, "add_current_date_tool": True, "add_calculator_tool": False}
    agent = flow.add(AGENT, "agent", values=values)
    flow.connect(question, "message", agent, "input_value")
    flow.connect(guard, "model_output", agent, "model")
    flow.connect(agent, "response", answer, "input_value")
    flow.arrange([[question, model], [guard], [agent], [answer]])
    return flow


def structured_output_guarded(palette: Palette) -> Flow:
    """Chat Input -> Structured Output on the OpenAI model behind Guarded Model -> Chat Output."""
    flow = _flow(palette, "test_structured_output_guarded", "Structured Output behind a guard")
    question, answer = parts.chat_input(flow), parts.chat_output(flow)
    model, guard = guarded_stock_llm(flow)
    schema = [{"name": "answer", "description": "the answer", "type": "str", "multiple": "False"}]
    values = {"model": CONNECT_OTHER_MODELS, "schema_name": "Answer", "output_schema": schema}
    extract = flow.add(STRUCTURED_OUTPUT, "extract", values=values)
    flow.connect(question, "message", extract, "input_value")
    flow.connect(guard, "model_output", extract, "model")
    flow.connect(extract, "dataframe_output", answer, "input_value")
    flow.arrange([[question, model], [guard], [extract], [answer]])
    return flow


def asking_in_turn(palette: Palette, kinds: Sequence[str] = tuple(ASKING)) -> Flow:
    """Chat Input -> nodes that ask one guarded model in turn, each what the one before it was told -> Chat Output."""
    flow = _flow(palette, "test_asking_in_turn", "One model, asked from everywhere")
    question, answer = parts.chat_input(flow), parts.chat_output(flow)
    model, guard = guarded_stock_llm(flow)
    asking = [flow.add(palette.make(ASKING_NODES.format(name=kind, ask=ASKING[kind])), "ask") for kind in kinds]
    for before, node in zip([question, *asking], asking, strict=False):
        flow.connect(before, "message" if before is question else "answer", node, "question")
        flow.connect(guard, "model_output", node, "model")
    flow.connect(asking[-1], "answer", answer, "input_value")
    flow.arrange([[question, model], [guard], asking, [answer]])
    return flow


FLOWS = {"batch": batch_run_guarded, "agent": agent_guarded, "extract": structured_output_guarded}
"""The flows of stock nodes, by a short name."""
