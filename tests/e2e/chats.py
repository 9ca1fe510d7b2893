"""Chats of the tests, one for each kind of guarded model, and one without a guard."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langflow_sluice.canvas.build import Flow

    from .conftest import Palette, Stack

LIMITED, GUARD = "RateLimitedLLMComponent-llm", "GuardedModelComponent-guard"
ASKING, STOCK = "LanguageModelComponent-ask", "OpenAIModelComponent-llm"
KINDS = ("Rate-Limited LLM", "Guarded Model")


class GuardedFlow:
    """A flow with one guarded model in it.

    Args:
        stack: What runs.
        flow_id: The flow.
        guard: Id of the node with the guard.
        asking: Id of the node that asks the model.
        guard_name: The guard's name.
    """

    def __init__(self, stack: Stack, flow_id: str, guard: str, asking: str, guard_name: str = "") -> None:
        self.stack, self.flow_id, self.guard, self.asking, self.guard_name = stack, flow_id, guard, asking, guard_name

    def behind(self, guard_name: str) -> GuardedFlow:
        """The same flow behind a guard of that name."""
        return GuardedFlow(self.stack, self.flow_id, self.guard, self.asking, guard_name)

    def tweaks(self, *, stream: bool = False, **limits: Any) -> dict[str, dict[str, Any]]:
        """Settings of a run: to the provider, one attempt, and the guard's limits; others by name."""
        tweaks = self.stack.tweaks
        tweaks.setdefault(self.guard, {}).update({"guard_name": self.guard_name, "max_retries": 0, **limits})
        tweaks.setdefault(self.asking, {}).update(stream=stream)
        return tweaks

    async def ask(self, text: str, *, output_type: str = "chat", **limits: Any) -> str:
        """Runs the flow; returns what it came to, for ``debug`` with the status lines of all nodes."""
        async with self.stack.langflow.async_client() as client:
            result = await client.run(self.flow_id, text, tweaks=self.tweaks(**limits), output_type=output_type)
        return json.dumps(result.outputs)


def guarded_chats(stack: Stack, palette: Palette) -> dict[str, GuardedFlow]:
    """A chat for each kind of guarded model."""
    guarded = upload(stack, chat_guarded(palette).to_dict())
    return {
        "Rate-Limited LLM": GuardedFlow(stack, stack.flows["chat_rate_limited"], LIMITED, LIMITED),
        "Guarded Model": GuardedFlow(stack, guarded, GUARD, ASKING),
    }


def upload(stack: Stack, flow: dict[str, Any]) -> str:
    """Uploads a copy of a flow; returns its id."""
    return stack.client.upload_flow(
        {name: value for name, value in flow.items() if name not in {"id", "endpoint_name"}}
    )


# What builds flows takes Langflow's component stack, which only some tests need.


def chat_guarded(palette: Palette) -> Flow:
    """Chat Input -> Language Model, which asks the OpenAI model behind Guarded Model -> Chat Output."""
    from langflow_sluice.canvas import parts
    from langflow_sluice.canvas.build import Flow
    from langflow_sluice.canvas.settings import CONNECT_OTHER_MODELS

    from .model_flows import guarded_stock_llm

    flow = Flow(palette, "test_chat_guarded", name="Chat behind a guard", description="A test's.")
    question, answer = parts.chat_input(flow), parts.chat_output(flow)
    model, guard = guarded_stock_llm(flow)
    ask = flow.add("LanguageModelComponent", "ask", values={"model": CONNECT_OTHER_MODELS})
    flow.connect(question, "message", ask, "input_value")
    flow.connect(guard, "model_output", ask, "model")
    flow.connect(ask, "text_output", answer, "input_value")
    flow.arrange([[question, model], [guard], [ask], [answer]])
    return flow


def chat_stock(palette: Palette) -> Flow:
    """Chat Input -> the OpenAI model -> Chat Output."""
    from langflow_sluice.canvas import parts
    from langflow_sluice.canvas.build import Flow

    flow = Flow(palette, "test_chat_stock", name="Chat without a guard", description="A test's.")
    question, model, answer = parts.chat_input(flow), parts.stock_llm(flow), parts.chat_output(flow)
    flow.connect(question, "message", model, "input_value")
    flow.connect(model, "text_output", answer, "input_value")
    flow.arrange([[question], [model], [answer]])
    return flow
