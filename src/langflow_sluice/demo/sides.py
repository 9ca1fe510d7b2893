"""The demo's jobs, called through the Langflow API as a client would."""

from __future__ import annotations

import asyncio
import time
import warnings
from typing import TYPE_CHECKING

from langflow_sluice.canvas.parts import COLLECTION, EMBEDDING_MODEL
from langflow_sluice.demo import provider as capacity
from langflow_sluice.demo.corpus import facts, questions, rows
from langflow_sluice.embedded.langflow_client import LangflowError

if TYPE_CHECKING:
    from collections.abc import Callable

    from langflow_sluice.demo.measure import Side
    from langflow_sluice.demo.provider import Provider
    from langflow_sluice.embedded.langflow import LangflowServer
    from langflow_sluice.embedded.postgres import EmbeddedPostgres

    Say = Callable[[str], None]

ROWS, QUESTIONS, AT_ONCE = 100, 200, 20
CALL_TIMEOUT_S = 120.0
# A table comes back as Markdown: a line of names and a line of dashes before the rows.
_TABLE_HEAD = 2


def ingest(langflow: LangflowServer, flow_id: str) -> None:
    """Writes the demo's documents through the flow that ingests.

    Raises:
        LangflowError: The flow failed.
    """
    with langflow.client() as client:
        client.run(flow_id, "\n".join(fact.sentence for fact in facts()), timeout_s=CALL_TIMEOUT_S)


def ingest_stock(postgres: EmbeddedPostgres, provider: Provider) -> None:
    """Writes the same documents where the unsafe twin looks for them, in stock PGVector's own way.

    Done once and alone: the twin's first searches at once would fail while they create its tables.
    """
    from langchain_community.vectorstores import PGVector
    from langchain_openai import OpenAIEmbeddings
    from pydantic import SecretStr

    embedding = OpenAIEmbeddings(
        model=EMBEDDING_MODEL,
        base_url=provider.base_url,
        api_key=SecretStr(provider.key),
        check_embedding_ctx_length=False,
    )
    with warnings.catch_warnings():
        # Stock PGVector announces its own deprecation; the twin uses it all the same, as users do.
        warnings.simplefilter("ignore")
        PGVector.from_texts(
            [fact.sentence for fact in facts()],
            embedding,
            collection_name=COLLECTION,
            connection_string=postgres.url,
        )


def batch(langflow: LangflowServer, flow_id: str, side: Side, provider: Provider) -> None:
    """A hundred rows in one call, after one row alone to see what the flow itself costs."""
    provider.prepare(slots=capacity.SLOTS, service_s=capacity.SERVICE_S)
    side.ideal_seconds = ROWS * capacity.SERVICE_S / capacity.SLOTS
    texts = rows(ROWS)
    with langflow.client() as client:
        if not side.unsafe:
            started = time.perf_counter()
            client.run(flow_id, rows(ROWS + 1)[-1], timeout_s=CALL_TIMEOUT_S)
            side.startup_seconds = max(0.0, time.perf_counter() - started - capacity.SERVICE_S)
            provider.prepare(slots=capacity.SLOTS, service_s=capacity.SERVICE_S)
        started = time.perf_counter()
        try:
            answer = client.run(flow_id, "\n".join(texts), timeout_s=CALL_TIMEOUT_S).text
        except LangflowError as error:
            side.note(str(error))
            answer = ""
        side.seconds = time.perf_counter() - started
    lines = answer.splitlines()[_TABLE_HEAD:]
    side.kept = sum(_row_kept(text, lines) for text in texts)
    side.failures = side.wanted - side.kept
    _note_requests(side, provider)


def rag(
    langflow: LangflowServer, flow_id: str, side: Side, provider: Provider, postgres: EmbeddedPostgres, say: Say
) -> None:
    """Two hundred questions, twenty at a time, while the database's connections are counted."""
    provider.prepare(slots=capacity.RAG_SLOTS, service_s=capacity.RAG_SERVICE_S)
    side.ideal_seconds = QUESTIONS / AT_ONCE * capacity.RAG_SERVICE_S
    with postgres.watch() as watch:
        started = time.perf_counter()
        asyncio.run(_ask_all(langflow, flow_id, side, say))
        side.seconds = time.perf_counter() - started
    side.peak_connections = watch.peak()
    _note_requests(side, provider)


async def _ask_all(langflow: LangflowServer, flow_id: str, side: Side, say: Say) -> None:
    left = iter(questions(side.wanted))
    done = 0

    async def ask() -> None:
        nonlocal done
        for question, sentence in left:
            try:
                answer = (await client.run(flow_id, question, timeout_s=CALL_TIMEOUT_S)).text
            except LangflowError as error:
                side.failures += 1
                side.note(str(error))
            else:
                side.kept += sentence in answer
                if sentence not in answer:
                    side.failures += 1
                    side.note("an answer without the sentence that answers the question")
            done += 1
            say(f"{side.flow}: {done} of {side.wanted} questions, {side.failures} failed")

    async with langflow.async_client(max_connections=AT_ONCE) as client:
        workers = [asyncio.ensure_future(ask()) for _ in range(AT_ONCE)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()


def _row_kept(text: str, lines: list[str]) -> bool:
    """Whether a row of the answer holds this text and, behind it, what the model made of it."""
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if text in cells and any(cell and cell != text and not cell.isdigit() for cell in cells):
            return True
    return False


def _note_requests(side: Side, provider: Provider) -> None:
    seen = provider.seen()
    if seen is not None:
        side.requests, side.throttled = seen
