"""Every bundled flow, run by a real Langflow through its API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from langflow_sluice.canvas.bundled import bundled_flows
from langflow_sluice.simulator import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Stack

CONTRACT = Path(__file__).parents[1] / "components" / "contract.json"
FACTS = {
    "Which metal covers the dome of Dunmere?": "The dome of Dunmere is covered with hammered copper.",
    "Who keeps the bees of Fernhollow?": "The bees of Fernhollow are kept by Silas Quill.",
    "When does the ferry to Saltmarsh leave?": "The ferry to Saltmarsh leaves at half past six.",
    "How deep is the well of Oxbarrow?": "The well of Oxbarrow is ninety fathoms deep.",
}
CAP = 8  # of the flows' Rate-Limited LLM, as it comes


@pytest.fixture(scope="session")
def ingested(running: Stack) -> list[str]:
    """What the flow that ingests said the first and the second time."""
    return [running.run("ingest_documents", "\n".join(FACTS.values())) for _ in range(2)]


def cells(table: str) -> list[list[str]]:
    """The rows of a Markdown table, without its head."""
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_palette_shows_the_group_with_the_nodes_of_the_contract(stack: Stack) -> None:
    group = stack.client.components()["sluice"]
    contract = json.loads(CONTRACT.read_text("utf-8"))["nodes"]
    assert {name: node["display_name"] for name, node in group.items()} == {
        f"ext:sluice:{name}@official": node["display_name"] for name, node in contract.items()
    }


def test_every_node_of_the_flows_has_the_code_that_the_palette_has(stack: Stack) -> None:
    palette = {name: node for group in stack.client.components().values() for name, node in group.items()}
    for flow in bundled_flows():
        nodes = [node["data"] for node in flow.load()["data"]["nodes"] if node["type"] == "genericNode"]
        assert nodes
        for node in nodes:
            wanted = palette[node["type"]]["template"]["code"]["value"]
            assert node["node"]["template"]["code"]["value"] == wanted, f"{flow.slug}: {node['id']}"


def test_the_tests_below_know_every_bundled_flow() -> None:
    source = Path(__file__).read_text("utf-8")
    assert [flow.slug for flow in bundled_flows() if f'"{flow.slug}"' not in source] == []


def test_the_chat_answers(stack: Stack) -> None:
    assert stack.run("chat_rate_limited", "hello there") == "Answer to: hello there"
    assert stack.provider.stats().requests == {"chat": 1}


def test_documents_are_written_once(stack: Stack, ingested: list[str]) -> None:
    first, second = ingested
    assert "4 written, 0 skipped, 0 failed" in first
    assert "0 written, 4 skipped, 0 failed" in second
    with psycopg.connect(stack.postgres.url) as connection:
        rows = connection.execute("SELECT content FROM sluice_documents").fetchall()
    assert sorted(content for (content,) in rows) == sorted(FACTS.values())


@pytest.mark.usefixtures("ingested")
async def test_questions_at_once_are_answered_from_the_documents_over_one_pool(stack: Stack) -> None:
    questions = [*FACTS] * 6
    with stack.postgres.watch() as watch:
        async with stack.langflow.async_client() as client:
            answers = await asyncio.gather(
                *(client.run(stack.flows["rag_pooled_postgres"], text, tweaks=stack.tweaks) for text in questions)
            )
    assert [answer.text for answer in answers] == [FACTS[question] for question in questions]
    assert stack.provider.stats().answered.get(429, 0) == 0
    assert watch.peak() <= 10  # pool_size 5 and max_overflow 5


def test_thirty_rows_are_kept_in_their_order_with_one_request_each(stack: Stack) -> None:
    rows = [f"Ticket {number} of the harbour office" for number in range(30)]
    table = cells(stack.run("fan_out_rows", "\n".join(rows)))
    assert len(table) == 30
    for number, (row, found) in enumerate(zip(rows, table, strict=True)):
        assert f"Answer to: {row}" in found, number
    stats = stack.provider.stats()
    assert stats.requests == {"chat": 30}
    assert stats.answered == {200: 30}
    assert stats.subjects() == {fingerprint(row): 1 for row in rows}
    assert stats.max_in_flight["chat"] <= CAP


async def test_two_flows_called_at_once_share_the_cap_of_their_credential(stack: Stack) -> None:
    stack.provider.configure(service_s=0.2)
    rows = [f"Row {number}" for number in range(24)]
    async with stack.langflow.async_client() as client:
        table, *answers = await asyncio.gather(
            client.run(stack.flows["fan_out_rows"], "\n".join(rows), tweaks=stack.tweaks),
            *(client.run(stack.flows["chat_rate_limited"], f"Chat {n}", tweaks=stack.tweaks) for n in range(16)),
        )
    assert [answer.text for answer in answers] == [f"Answer to: Chat {number}" for number in range(16)]
    assert len(cells(table.text)) == 24
    stats = stack.provider.stats()
    # The provider has as many slots as the guard's cap: one call more in flight would have been answered 429.
    assert stats.answered == {200: 40}
    assert stats.max_in_flight["chat"] == CAP


class InternalApi(ThreadingHTTPServer):
    """An internal API that notes how many it serves at once, and holds everybody until there are many.

    Args:
        enough: As soon as it serves so many at once, it holds nobody any more.
        patience_s: Seconds after the first arrival after which it holds nobody any more.
    """

    request_queue_size = 64
    daemon_threads = True

    def __init__(self, enough: int, patience_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self._enough = enough
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._timer: threading.Timer | None = None
        self._serving = 0
        self.peak = 0
        self.texts: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/lookup"

    def serve(self, text: str) -> None:
        with self._lock:
            self.texts.append(text)
            self._serving += 1
            self.peak = max(self.peak, self._serving)
            if self._timer is None:
                self._timer = threading.Timer(self._patience_s, self._open.set)
                self._timer.start()
            if self._serving >= self._enough:
                self._open.set()
        self._open.wait()
        with self._lock:
            self._serving -= 1

    def server_close(self) -> None:
        self._open.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        super().server_close()


class _Answer(BaseHTTPRequestHandler):
    server: InternalApi

    def do_GET(self) -> None:
        [text] = parse_qs(urlsplit(self.path).query)["text"]
        self.server.serve(text)
        body = json.dumps({"found": f"record of {text}"}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def internal_api(enough: int, patience_s: float) -> Iterator[InternalApi]:
    server = InternalApi(enough, patience_s)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def call_gate(stack: Stack, api: InternalApi, max_concurrency: int) -> list[str]:
    tweaks: dict[str, Any] = {
        "ConcurrencyGateComponent-api": {"max_concurrency": max_concurrency},
        "APIRequest-call": {"url_input": api.url},
    }
    async with stack.langflow.async_client() as client:
        gated = stack.flows["gated_section"]
        answers = await asyncio.gather(*(client.run(gated, f"item {n}", tweaks=tweaks) for n in range(12)))
    return [answer.text for answer in answers]


async def test_the_gate_lets_no_more_calls_than_its_cap_reach_an_internal_api(stack: Stack) -> None:
    # Those inside are held while all twelve calls come to the gate, so that a gate that leaks is found out.
    with internal_api(enough=4, patience_s=3.0) as api:
        answers = await call_gate(stack, api, 3)
    assert api.peak == 3
    assert sorted(api.texts) == sorted(f"item {number}" for number in range(12))
    for number, answer in enumerate(answers):
        assert f"record of item {number}" in answer


async def test_a_wider_gate_lets_more_calls_through_at_once(stack: Stack) -> None:
    with internal_api(enough=6, patience_s=60.0) as api:
        await call_gate(stack, api, 12)
    assert 6 <= api.peak <= 12
    assert len(api.texts) == 12


def test_the_unsafe_batch_answers_as_long_as_the_provider_takes_all_rows(stack: Stack) -> None:
    rows = ["one apple", "two pears", "three plums"]
    answer = stack.run("batch_run_unbounded", "\n".join(rows))
    for row in rows:
        assert f"Answer to: {row}" in answer
    assert stack.provider.stats().requests == {"chat": 3}


@pytest.fixture(scope="session")
def ingested_by_stock(running: Stack) -> None:
    """The documents where stock PGVector looks for them."""
    from langchain_community.vectorstores import PGVector
    from langchain_openai import OpenAIEmbeddings
    from sqlalchemy.pool import NullPool

    # Stock OpenAI embeddings count tokens with tables from the network unless they are told not to.
    embedding = OpenAIEmbeddings(
        base_url=running.provider.base_url, api_key=running.key, check_embedding_ctx_length=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LangChain deprecates it; Langflow's stock node uses it all the same
        PGVector.from_texts(
            list(FACTS.values()),
            embedding,
            collection_name="sluice_documents",
            connection_string=running.postgres.url,
            engine_args={"poolclass": NullPool},
        )


@pytest.mark.usefixtures("ingested_by_stock")
def test_the_unsafe_search_answers_one_question(stack: Stack) -> None:
    question, sentence = next(iter(FACTS.items()))
    assert stack.run("rag_pgvector", question) == sentence
