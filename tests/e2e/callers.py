"""Whoever calls a model on Langflow's canvas, with what each should answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from langflow_sluice.simulator import fingerprint

from .streams import through_the_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from langflow_sluice.embedded.langflow import AsyncLangflowClient

    from .conftest import Stack

AGES_S = 60.0  # no test waits for it
LLM, GUARD = "RateLimitedLLMComponent-llm", "GuardedModelComponent-guard"


class Callers:
    """Whoever calls the model, each through a flow of its own; each returns the answers by question.

    Args:
        stack: What runs.
        flows: Ids of the flows with Guarded Model, by short name.
        client: Runs them.
    """

    def __init__(self, stack: Stack, flows: Mapping[str, str], client: AsyncLangflowClient) -> None:
        self._stack, self._flows, self._client = stack, {**stack.flows, **flows}, client

    async def run(self, flow: str, text: str, tweaks: Mapping[str, Mapping[str, Any]] | None = None) -> str:
        """Runs a flow and returns its answer as it is."""
        merged = self._stack.tweaks
        for node, values in (tweaks or {}).items():
            merged.setdefault(node, {}).update(values)
        return (await self._client.run(self._flows[flow], text, tweaks=merged)).text

    async def rows(self, flow: str, rows: Sequence[str], tweaks: Mapping[str, Any] | None = None) -> dict[str, str]:
        """Runs a flow over rows; they must come back in their order."""
        table = await self.run(flow, "\n".join(rows), tweaks)
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
        assert [row[0] for row in cells] == list(rows)
        return {row[0]: row[1] for row in cells}

    async def stock_batch(self, rows: Sequence[str]) -> dict[str, str]:
        """Stock Batch Run over the stock OpenAI model, without a guard."""
        return await self.rows("batch_run_unbounded", rows)

    async def batch(self, rows: Sequence[str], **limits: Any) -> dict[str, str]:
        """Stock Batch Run over the stock OpenAI model behind Guarded Model."""
        return await self.rows("batch", rows, {GUARD: limits})

    async def fan_out(self, rows: Sequence[str], at_once: int = 12) -> dict[str, str]:
        """Fan-Out over Rate-Limited LLM."""
        return await self.rows("fan_out_rows", rows, {"FanOutComponent-rows": {"max_concurrency": at_once}})

    async def agent(self, question: str) -> dict[str, str]:
        """Stock Agent on the stock OpenAI model behind Guarded Model; it calls a tool, then answers."""
        return {question: await self.run("agent", question)}

    async def extract(self, question: str) -> dict[str, str]:
        """Stock Structured Output on the stock OpenAI model behind Guarded Model; it runs on a thread."""
        table = await self.run("extract", question)
        return {question: table.splitlines()[-1].strip("| ")}

    async def chat(self, question: str) -> dict[str, str]:
        """Rate-Limited LLM, whose answer is waited for."""
        return {question: await self.run("chat_rate_limited", question)}

    async def stream(self, question: str) -> dict[str, str]:
        """Rate-Limited LLM, whose answer is streamed to the client word by word."""
        tweaks = {LLM: {**self._stack.tweaks[LLM], "stream": True}}
        async with through_the_api(self._stack, self._flows["chat_rate_limited"], question, tweaks) as run:
            tokens = [event.data["chunk"] async for event in run.events() if event.kind == "token"]
        assert len([token for token in tokens if token]) == len(f"Answer to: {question}".split())
        return {question: "".join(tokens)}


@contextlib.asynccontextmanager
async def callers(stack: Stack, flows: Mapping[str, str]) -> AsyncIterator[Callers]:
    """The callers, as long as the block runs."""
    async with stack.langflow.async_client() as client:
        yield Callers(stack, flows, client)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(AGES_S):
        while not condition():  # noqa: ASYNC110 - the provider is another process
            await asyncio.sleep(0.02)


def tell(figures: str) -> None:
    """Prints what was measured; tests judge counts only."""
    print(figures)  # noqa: T201 - seen with pytest -s


def tickets(kind: str, number: int) -> list[str]:
    """Questions that differ."""
    return [f"{kind} ticket {index} of the harbour office" for index in range(number)]


def echoed(questions: Sequence[str]) -> dict[str, str]:
    """The right answers of a model without context or tools."""
    return {question: f"Answer to: {question}" for question in questions}


def once_each(questions: Sequence[str]) -> Counter[str]:
    """What the provider sees if each question is asked once."""
    return Counter(map(fingerprint, questions))
