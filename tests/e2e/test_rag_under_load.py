"""Three hundred questions through the API, thirty at a time, and the same through stock PGVector."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Stack

CALLS = 300
AT_ONCE = 30
CAPACITY = 10  # pool_size 5 and max_overflow 5, as the node comes
NOTES = {
    f"What is kept in shed {number}?": f"In shed {number} they keep {number} coils of rope." for number in range(60)
}


async def ask(stack: Stack, slug: str) -> tuple[list[object], int, float]:
    """What came back for each question or went wrong, the most connections at once, and the seconds it took."""
    questions = [question for _ in range(CALLS // len(NOTES)) for question in NOTES]
    gate = asyncio.Semaphore(AT_ONCE)
    async with stack.langflow.async_client() as client:

        async def one(question: str) -> object:
            async with gate:
                return (await client.run(stack.flows[slug], question, tweaks=stack.tweaks)).text == NOTES[question]

        started = time.perf_counter()
        with stack.postgres.watch() as watch:
            answers = await asyncio.gather(*(one(question) for question in questions), return_exceptions=True)
        return answers, watch.peak(), time.perf_counter() - started


@pytest.mark.slow
async def test_questions_through_the_pool_all_come_back_right_over_its_connections_and_stock_uses_many_more(
    stack: Stack,
) -> None:
    stack.provider.configure(slots=100)
    stack.run("ingest_documents", "\n".join(NOTES.values()))
    pooled, connections, seconds = await ask(stack, "rag_pooled_postgres")
    print(f"\npooled: {pooled.count(True)} of {CALLS} right, {connections} connections, {seconds:.1f} s")  # noqa: T201 - a figure to report
    stock, stock_connections, seconds = await ask(stack, "rag_pgvector")
    failed = sum(isinstance(each, Exception) for each in stock)
    print(f"stock:  {failed} of {CALLS} failed, {stock_connections} connections, {seconds:.1f} s")  # noqa: T201 - a figure to report
    assert pooled == [True] * CALLS
    assert connections <= CAPACITY < stock_connections
