"""Every bundled flow, run by a real Langflow through its API."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
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
    from langflow_sluice.embedded.langflow import RunResult

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


@pytest.mark.usefixtures("ingested")
async def test_agents_at_once_search_and_answer_within_the_cap_of_their_model(stack: Stack) -> None:
    stack.provider.configure(service_s=0.2)
    tweaks = {
        **stack.tweaks,
        "GuardedModelComponent-guard": {"guard_name": "agents", "max_concurrency": 3},
        # One passage: the model of these tests answers with all that the tool has found.
        "PooledPGRetrieverComponent-search": {"number_of_results": 1},
    }
    questions = [*FACTS] * 2
    with stack.postgres.watch() as watch:
        async with stack.langflow.async_client() as client:
            flow = stack.flows["guarded_agent"]
            answers = await asyncio.gather(*(client.run(flow, text, tweaks=tweaks) for text in questions))
    for question, answer in zip(questions, answers, strict=True):
        assert FACTS[question] in answer.text
        assert sum(fact in answer.text for fact in FACTS.values()) == 1
    stats = stack.provider.stats()
    # Each asks twice: what to search, and what to make of what was found.
    assert stats.requests["chat"] == 16
    assert stats.answered.get(429, 0) == 0
    assert stats.max_in_flight["chat"] == 3
    assert watch.peak() <= 10


def said(result: RunResult) -> dict[str, str]:
    """The texts of a flow's Chat Outputs, by the second half of their ids."""
    [run] = result.outputs
    return {
        node["component_id"].removeprefix("ChatOutput-"): node["results"]["message"]["text"] for node in run["outputs"]
    }


def test_a_batch_keeps_the_rows_that_succeed_and_shows_the_failed_ones_with_their_errors(stack_afresh: Stack) -> None:
    stack = stack_afresh
    rows = [f"Message {number} to the harbour office" for number in range(20)]
    # The provider takes two at a time, the batch sends six and does not try again: some rows fail.
    stack.provider.configure(slots=2, service_s=0.2, retry_after_s=0.1)
    tweaks = {**stack.tweaks, "GuardedBatchRunComponent-rows": {"max_concurrency": 6, "max_retries": 0}}
    result = stack.client.run(stack.flows["batch_classify"], "\n".join(rows), tweaks=tweaks)
    kept, failed = cells(said(result)["out"]), cells(said(result)["failed"])
    places = {row: number for number, row in enumerate(rows)}
    assert kept
    assert failed
    assert [[row, f"Answer to: {row}"] for row, *_ in kept] == [row[:2] for row in kept]
    for table in (kept, failed):
        assert [places[row] for row, *_ in table] == sorted(places[row] for row, *_ in table)
    assert sorted(row for row, *_ in kept + failed) == sorted(rows)
    assert all("429" in " ".join(row) for row in failed)
    stats = stack.provider.stats()
    assert stats.answered == {200: len(kept), 429: len(failed)}


def test_a_batch_without_failures_sends_each_row_once_within_the_cap(stack: Stack) -> None:
    rows = [f"Message {number} to the town hall" for number in range(20)]
    result = stack.client.run(stack.flows["batch_classify"], "\n".join(rows), tweaks=stack.tweaks)
    assert [row[:2] for row in cells(said(result)["out"])] == [[row, f"Answer to: {row}"] for row in rows]
    assert cells(said(result)["failed"]) == []
    stats = stack.provider.stats()
    assert stats.answered == {200: 20}
    assert stats.max_in_flight["chat"] <= CAP


def test_the_questions_of_a_chat_overtake_the_batch_that_waits_behind_the_same_guard(stack: Stack) -> None:
    stack.provider.configure(service_s=0.1)
    tweaks = stack.tweaks
    # A cap of their own, so that 22 of the batch's 24 rows in work are in the queue whenever a question comes.
    for node in ("RateLimitedLLMComponent-llm", "RateLimitedLLMComponent-batch"):
        tweaks[node] |= {"guard_name": "lanes", "max_concurrency": 2}
    questions = [f"Question {number} of a person" for number in range(4)]
    result = stack.client.run(stack.flows["priority_lanes"], "\n".join(questions), tweaks=tweaks)
    assert cells(said(result)["out"]) == [[question, f"Answer to: {question}"] for question in questions]
    tickets = cells(said(result)["batch"])
    assert len({ticket for ticket, _ in tickets}) == 32
    for ticket, answer in tickets:
        assert ticket in answer
        assert all(question in answer for question in questions)
    stats = stack.provider.stats()
    assert stats.answered == {200: 36}
    assert stats.max_in_flight["chat"] == 2
    asked = [call.subject for call in sorted(stats.calls, key=lambda call: call.arrived_at)]
    places = [asked.index(fingerprint(question)) for question in questions]
    assert places == sorted(places)
    # First come, first served would put the 22 waiting tickets between one question and the next.
    between = [later - earlier - 1 for earlier, later in pairwise(places)]
    assert max(between) <= 8, between


@contextlib.contextmanager
def chat_at_the_provider(stack: Stack) -> Iterator[None]:
    """Sends the chat's own model to the provider: tweaks of a run do not reach the flows that it calls."""
    flow = stack.client._request("GET", f"/api/v1/flows/{stack.flows['chat_rate_limited']}")
    changed = copy.deepcopy(flow["data"])
    [model] = [node for node in changed["nodes"] if node["id"] == "RateLimitedLLMComponent-llm"]
    model["data"]["node"]["template"]["base_url"]["value"] = stack.provider.base_url
    path = f"/api/v1/flows/{flow['id']}"
    stack.client._request("PATCH", path, payload={"data": changed})
    try:
        yield
    finally:
        stack.client._request("PATCH", path, payload={"data": flow["data"]})


def test_another_flow_is_run_for_each_row_in_order_and_within_the_cap_of_its_model(stack: Stack) -> None:
    rows = [f"Letter {number} to the library" for number in range(20)]
    with chat_at_the_provider(stack):
        answer = stack.run("fan_out_subflows", "\n".join(rows))
    assert cells(answer) == [[row, f"Answer to: {row}"] for row in rows]
    stats = stack.provider.stats()
    assert stats.subjects(status=200) == {fingerprint(row): 1 for row in rows}
    assert 1 < stats.max_in_flight["chat"] <= CAP


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
