"""A key and a prompt stay in the request: what a provider says of them is not passed on, shown, logged or stored."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
import threading
import uuid
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from langflow_sluice.embedded.langflow import LangflowError
from langflow_sluice.guard.retry import deadline

from .chats import KINDS, LIMITED, STOCK, GuardedFlow, chat_stock, guarded_chats, upload
from .streams import on_the_canvas

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Palette, Stack

REFERENCE = "OpenAI, without a guard"
ANSWERS = ("200", "401", "500", "garbage", "broken stream")
CANARY = re.compile(r"canary-[0-9a-f]{32}")
PATIENCE_S = 30.0


class TellTale(ThreadingHTTPServer):
    """A provider that quotes the key and the prompt wherever it fails, as real ones do.

    The path of a request begins with how to answer it.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: Counter[str] = Counter()

    def url(self, answer: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{answer.replace(' ', '-')}/v1"


class _Answer(BaseHTTPRequestHandler):
    server: TellTale

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        quoted = f"{self.headers['authorization']} asked {body['messages'][-1]['content']}"
        self.server.asked.update(CANARY.findall(quoted))
        error = json.dumps({"error": {"message": quoted, "type": "server_error", "param": None, "code": None}})
        answer = self.path.split("/")[1]
        if answer == "200":
            choice = {"index": 0, "message": {"role": "assistant", "content": "no comment"}, "finish_reason": "stop"}
            self._send(200, json.dumps({"id": "1", "object": "chat.completion", "created": 1, "choices": [choice]}))
        elif answer == "garbage":
            self._send(200, quoted)
        elif body.get("stream"):
            choice = {"index": 0, "delta": {"role": "assistant", "content": "no "}, "finish_reason": None}
            chunk = json.dumps({"id": "1", "object": "chat.completion.chunk", "created": 1, "choices": [choice]})
            self._send(200, f"data: {chunk}\n\ndata: {error}\n\n", "text/event-stream")
        else:
            self._send(int(answer) if answer.isdecimal() else 500, error)

    def _send(self, status: int, text: str, kind: str = "application/json") -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def tell_tale() -> Iterator[TellTale]:
    server = TellTale()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Canary:
    """A text that no other run has, and where it was seen.

    Attributes:
        told: Kinds of events of the canvas, and the API's answer, that held it.
        stored: Rows with it, by table and column of Langflow's database.
        logged: Loggers, and the beginning of what they said with it.
    """

    text: str = field(default_factory=lambda: f"canary-{uuid.uuid4().hex}")
    told: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    logged: set[str] = field(default_factory=set)


class Case:
    """A key and a prompt, sent through the API and from the canvas.

    Args:
        flow: The flow to run.
        answer: How the provider answers.
    """

    def __init__(self, flow: GuardedFlow, answer: str) -> None:
        self._flow, self._answer = flow, answer
        self.key, self.prompt = Canary(), Canary()

    async def make(self, tell_tale: TellTale) -> None:
        tweaks = self._flow.tweaks(stream=self._answer == "broken stream")
        url, key = tell_tale.url(self._answer), f"sk-{self.key.text}"
        tweaks.setdefault(LIMITED, {}).update(base_url=url, api_key=key, max_retries=0)
        tweaks.setdefault(STOCK, {}).update(openai_api_base=url, api_key=key, max_retries=0)
        stack = self._flow.stack
        async with stack.langflow.async_client() as client:
            try:
                told = str(await client.run(self._flow.flow_id, self.prompt.text, tweaks=tweaks))
            except LangflowError as exc:
                told = str(exc)
        self._tell("the API's answer", told)
        async with on_the_canvas(stack, self._flow.flow_id, self.prompt.text, tweaks) as run:
            async for event in run.events():
                self._tell(event.kind, json.dumps(event.data))

    def _tell(self, where: str, text: str) -> None:
        for canary in (self.key, self.prompt):
            canary.told.update([where] * (canary.text in text))


def look_into_the_database(stack: Stack, canaries: dict[str, Canary]) -> None:
    """Notes where canaries are stored."""
    [path] = (stack.langflow.folder / "config").glob("*.db")
    for canary in canaries.values():
        canary.stored.clear()
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            cursor = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - the database's own names
            columns = [column[0] for column in cursor.description]
            for row in cursor:
                for column, value in zip(columns, row, strict=True):
                    for text in set(CANARY.findall(str(value))) & canaries.keys():
                        canaries[text].stored[f"{table}.{column}"] += 1


def look_into_the_log(stack: Stack, canaries: dict[str, Canary], start: int) -> None:
    """Notes what was logged with canaries in it."""
    with stack.langflow.log_path.open("rb") as log:
        log.seek(start)
        lines = log.read().decode(errors="replace").splitlines()
    assert any('"level": "debug"' in line for line in lines)
    for line in lines:
        for text in set(CANARY.findall(line)) & canaries.keys():
            canaries[text].logged.add(_place(line))


def _place(line: str) -> str:
    """A logger and the first words of its message, without what differs between runs."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line[:40]
    return f"{entry.get('logger')}: {' '.join(re.findall('[a-z]+', entry['event'])[:4])}"


@pytest.fixture(scope="module")
def cases(running: Stack, palette: Palette, tell_tale: TellTale) -> dict[tuple[str, str], Case]:
    """All kinds of models with all answers; then where their canaries are to be found."""
    stack = running
    stock = GuardedFlow(stack, upload(stack, chat_stock(palette).to_dict()), STOCK, STOCK)
    flows = {REFERENCE: stock, **guarded_chats(stack, palette)}
    found = {
        (kind, answer): Case(flow.behind(f"{kind} {answer}"), answer)
        for kind, flow in flows.items()
        for answer in ANSWERS
    }
    start = stack.langflow.log_path.stat().st_size

    async def make_all() -> None:
        await asyncio.gather(*(case.make(tell_tale) for case in found.values()))
        # Langflow stores in the background: what comes last tells that the others are there.
        last = Case(stock, "200")
        await last.make(tell_tale)
        tables: set[str] = set()
        async with deadline(PATIENCE_S):
            while not tables >= {"message", "vertex_build", "transaction"}:
                await asyncio.sleep(0.1)
                look_into_the_database(stack, {last.prompt.text: last.prompt})
                tables = {place.partition(".")[0] for place in last.prompt.stored}

    asyncio.run(make_all())
    canaries = {canary.text: canary for case in found.values() for canary in (case.key, case.prompt)}
    look_into_the_database(stack, canaries)
    look_into_the_log(stack, canaries, start)
    assert all(tell_tale.asked[text] == 2 for text in canaries)
    return found


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_told_stored_and_logged_nowhere(cases: dict[tuple[str, str], Case], kind: str, answer: str) -> None:
    key = cases[kind, answer].key
    assert (key.told, key.stored, key.logged) == (Counter(), Counter(), set())


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_told_stored_and_logged_where_it_is_without_us_and_nowhere_else(
    cases: dict[tuple[str, str], Case], kind: str, answer: str
) -> None:
    ours, theirs = cases[kind, answer].prompt, cases[REFERENCE, answer].prompt
    assert ours.told <= theirs.told
    assert ours.stored <= theirs.stored
    assert ours.logged <= theirs.logged


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", ["401", "500", "broken stream"])
def test_what_a_provider_quotes_does_not_reach_those_whom_it_reaches_without_us(
    cases: dict[tuple[str, str], Case], kind: str, answer: str
) -> None:
    ours, theirs = cases[kind, answer], cases[REFERENCE, answer]
    assert theirs.key.told
    assert theirs.key.stored
    assert theirs.key.logged
    assert ours.prompt.told.keys() == {"add_message", "STATE_DELTA"}  # of the chat's input
    assert ours.prompt.stored < theirs.prompt.stored
