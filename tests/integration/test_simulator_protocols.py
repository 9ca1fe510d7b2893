from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import ollama
import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langflow_sluice.simulator import Answer, ProviderSettings, ToolCall, fingerprint, serve_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from langchain_core.language_models import BaseChatModel

    from langflow_sluice.simulator import ChatRequest, ProviderControl, ProviderStats

    Clients = tuple[httpx.Client, httpx.AsyncClient]
    Models = Callable[..., Any]

DEADLINE_S = 30.0
QUICK = ProviderSettings(slots=3, service_s=0.0, retry_after_s=1.5)
TEXT = "one two  three\nfour"
# Loading the authorities takes longer than most tests: once for all clients.
TLS = ssl.create_default_context()


class Search(BaseModel):
    """Looks something up."""

    query: str


class Clock(BaseModel):
    """Tells the time."""

    zone: str


def chat_openai(control: ProviderControl, key: str, limit: int, clients: Clients) -> ChatOpenAI:
    return ChatOpenAI(
        model="sim-chat",
        base_url=control.base_url,
        api_key=key,
        max_retries=0,
        max_tokens=limit,
        stream_usage=True,
        http_client=clients[0],
        http_async_client=clients[1],
    )


def chat_anthropic(control: ProviderControl, key: str, limit: int, clients: Clients) -> ChatAnthropic:
    model = ChatAnthropic(model="sim-chat", base_url=control.root_url, api_key=key, max_retries=0, max_tokens=limit)
    # It has no parameter for clients; this is how Langflow's own node gives it some.
    model.__dict__["_client"] = anthropic.Anthropic(**model._client_params, http_client=clients[0])
    model.__dict__["_async_client"] = anthropic.AsyncAnthropic(**model._client_params, http_client=clients[1])
    return model


def chat_ollama(control: ProviderControl, key: str, limit: int, clients: Clients) -> ChatOllama:
    options = {"headers": {"authorization": f"Bearer {key}"}, "verify": TLS}
    model = ChatOllama(model="sim-chat", base_url=control.root_url, num_predict=limit, client_kwargs=options)
    # Its libraries make clients that nobody closes.
    for own, client in zip((model._client, model._async_client), clients, strict=True):
        client.base_url, client.headers = own._client.base_url, own._client.headers
        own._client = client
    return model


@dataclass(frozen=True)
class Protocol:
    """One protocol, as LangChain's class and its library speak it."""

    path: str
    make: Callable[[ProviderControl, str, int, Clients], Any]
    refused: type[Exception]
    broken: type[Exception]
    reason: str = "finish_reason"
    stop: str = "stop"
    length: str = "length"
    tools: str = "tool_calls"
    kinds: dict[int, str] = field(default_factory=dict)


OPENAI = Protocol(
    "/v1/chat/completions",
    chat_openai,
    openai.APIStatusError,
    openai.APIError,
    kinds={400: "invalid_request_error", 401: "invalid_request_error", 429: "requests"}
    | dict.fromkeys((500, 529), "server_error"),
)
ANTHROPIC = Protocol(
    "/v1/messages",
    chat_anthropic,
    anthropic.APIStatusError,
    anthropic.APIError,
    reason="stop_reason",
    stop="end_turn",
    length="max_tokens",
    tools="tool_use",
    kinds={
        400: "invalid_request_error",
        401: "authentication_error",
        429: "rate_limit_error",
        500: "api_error",
        529: "overloaded_error",
    },
)
# Its errors are a text without a kind, and a call of a tool is no reason of its own.
OLLAMA = Protocol("/api/chat", chat_ollama, ollama.ResponseError, ollama.ResponseError, "done_reason", tools="stop")
ALL = pytest.mark.parametrize("protocol", [OPENAI, ANTHROPIC, OLLAMA], ids=["openai", "anthropic", "ollama"])


@pytest.fixture
def provider() -> Iterator[ProviderControl]:
    with serve_in_thread(QUICK) as control:
        yield control


@pytest.fixture
async def models() -> AsyncIterator[Models]:
    """Makes LangChain's models over HTTP clients that are closed at the end."""
    async with contextlib.AsyncExitStack() as stack:

        def make(protocol: Protocol, control: ProviderControl, *, key: str = "any", limit: int = 1000) -> BaseChatModel:
            clients = httpx.Client(trust_env=False, verify=TLS), httpx.AsyncClient(trust_env=False, verify=TLS)
            stack.enter_context(contextlib.closing(clients[0]))
            stack.push_async_callback(clients[1].aclose)
            return protocol.make(control, key, limit, clients)

        yield make


async def seen(control: ProviderControl, condition: Callable[[ProviderStats], bool]) -> ProviderStats:
    """Asks for the statistics until they fulfil the condition."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition(stats := await asyncio.to_thread(control.stats)):
        assert time.monotonic() < deadline, stats
    return stats


def kind_of(body: Any) -> str | None:
    """The kind of error that a body tells."""
    return body["error"]["type"] if isinstance(body["error"], dict) else None


def raw(control: ProviderControl, protocol: Protocol, **fields: Any) -> httpx.Response:
    payload = {"model": "sim-chat", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 1000, **fields}
    return httpx.post(f"{control.root_url}{protocol.path}", json=payload, trust_env=False, verify=TLS)


@ALL
async def test_each_way_to_ask_gets_the_same_answer_and_is_counted_as_a_chat(
    provider: ProviderControl, models: Models, protocol: Protocol
) -> None:
    model = models(protocol, provider)
    answers = [
        await asyncio.to_thread(model.invoke, TEXT),
        await model.ainvoke(TEXT),
        await asyncio.to_thread(lambda: reduce(add, model.stream(TEXT))),
        reduce(add, [chunk async for chunk in model.astream(TEXT)]),
    ]
    assert [answer.text for answer in answers] == [f"Answer to: {TEXT}"] * 4
    for answer in answers:
        used = answer.usage_metadata
        assert (used["input_tokens"], used["output_tokens"], used["total_tokens"]) == (5, 8, 13)
        assert answer.response_metadata[protocol.reason] == protocol.stop
    stats = await seen(provider, lambda stats: len(stats.calls) == 4)
    assert (stats.requests, stats.answered, stats.max_in_flight) == ({"chat": 4}, {200: 4}, {"chat": 1})
    assert (stats.prompt_tokens, stats.completion_tokens, stats.disconnects) == (20, 32, 0)
    assert stats.subjects() == {fingerprint(TEXT): 4}


@ALL
async def test_a_stream_comes_in_pieces(provider: ProviderControl, models: Models, protocol: Protocol) -> None:
    pieces = [chunk.text async for chunk in models(protocol, provider).astream(TEXT)]
    assert [piece for piece in pieces if piece] == ["Answer", " to:", " one", " two", " ", " three\nfour"]


@ALL
async def test_the_system_prompt_is_read(provider: ProviderControl, models: Models, protocol: Protocol) -> None:
    messages = [SystemMessage("Locks lift boats. Dikes keep the sea out."), HumanMessage("What lifts a boat?")]
    assert (await models(protocol, provider).ainvoke(messages)).text == "Locks lift boats."
    assert provider.stats().prompt_tokens == 15


@ALL
async def test_an_answer_is_cut_at_the_tokens_asked_for(
    provider: ProviderControl, models: Models, protocol: Protocol
) -> None:
    answer = await models(protocol, provider, limit=2).ainvoke(TEXT)
    assert answer.text == "Answer t"
    assert answer.response_metadata[protocol.reason] == protocol.length


@ALL
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_tool_is_called_and_its_result_becomes_the_answer(
    provider: ProviderControl, models: Models, protocol: Protocol, *, streamed: bool
) -> None:
    model = models(protocol, provider).bind_tools([Search, Clock])

    async def ask(*messages: Any) -> Any:
        if streamed:
            return reduce(add, [chunk async for chunk in model.astream(list(messages))])
        return await model.ainvoke(list(messages))

    called = await ask(HumanMessage("gates"))
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("Search", {"query": "gates"})]
    assert called.response_metadata[protocol.reason] == protocol.tools
    said = AIMessage(content=called.content, tool_calls=called.tool_calls)
    result = ToolMessage("They open at noon.", tool_call_id=called.tool_calls[0]["id"])
    answer = await ask(HumanMessage("gates"), said, result)
    assert (answer.text, answer.tool_calls) == ("They open at noon.", [])
    # A question behind the result is a new one: Anthropic's client sends both in one message.
    again = await ask(HumanMessage("gates"), said, result, HumanMessage("locks"))
    assert [call["args"] for call in again.tool_calls] == [{"query": "locks"}]
    stats = await seen(provider, lambda stats: len(stats.calls) == 3)
    assert stats.subjects() == {fingerprint("gates"): 2, fingerprint("locks"): 1}


@ALL
@pytest.mark.parametrize("streamed", [False, True])
async def test_text_and_several_tool_calls_travel_together(
    models: Models, protocol: Protocol, *, streamed: bool
) -> None:
    def both(request: ChatRequest) -> Answer:
        assert request.stream is (streamed or protocol is OLLAMA)
        return Answer("Let me see.", (ToolCall("Search", {"query": "a"}), ToolCall("Clock", {"zone": "b"})))

    with serve_in_thread(QUICK, both) as control:
        model = models(protocol, control).bind_tools([Search, Clock])
        if streamed:
            answer = reduce(add, [chunk async for chunk in model.astream("x")])
        else:
            answer = await model.ainvoke("x")
    assert answer.text == "Let me see."
    assert [call["args"] for call in answer.tool_calls] == [{"query": "a"}, {"zone": "b"}]
    assert len({call["id"] for call in answer.tool_calls}) == 2


@pytest.mark.parametrize("protocol", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
async def test_the_tool_that_is_asked_for_is_called(
    provider: ProviderControl, models: Models, protocol: Protocol
) -> None:
    model = models(protocol, provider)
    named = await model.bind_tools([Search, Clock], tool_choice="Clock").ainvoke("x")
    assert [call["name"] for call in named.tool_calls] == ["Clock"]
    none = await model.bind_tools([Search], tool_choice={"type": "none"} if protocol is ANTHROPIC else "none").ainvoke(
        "x"
    )
    assert (none.text, none.tool_calls) == ("Answer to: x", [])


@ALL
@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
async def test_a_structured_answer_fits_its_schema(
    provider: ProviderControl, models: Models, protocol: Protocol, method: str
) -> None:
    model = models(protocol, provider).with_structured_output(Search, method=method)
    assert isinstance(await model.ainvoke("gates"), Search)


async def test_ollama_answers_any_json_where_no_schema_is_given(provider: ProviderControl, models: Models) -> None:
    answer = await models(OLLAMA, provider).bind(format="json").ainvoke("x")
    assert json.loads(answer.text) == {"answer": "Answer to: x"}


async def test_all_protocols_share_the_slots(provider: ProviderControl, models: Models) -> None:
    protocols = (OPENAI, ANTHROPIC, OLLAMA)
    provider.configure(fault="hang")
    holding = [asyncio.create_task(models(protocol, provider).ainvoke("x")) for protocol in protocols]
    await seen(provider, lambda stats: stats.in_flight == {"chat": 3})
    for protocol in protocols:
        with pytest.raises(protocol.refused) as caught:
            await models(protocol, provider).ainvoke("one too many")
        assert caught.value.status_code == 429
    provider.configure(fault="ok")
    assert [answer.text for answer in await asyncio.gather(*holding)] == ["Answer to: x"] * 3


@ALL
def test_a_refusal_says_when_to_come_back_as_its_api_does(provider: ProviderControl, protocol: Protocol) -> None:
    provider.configure(slots=0)
    response = raw(provider, protocol)
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert response.headers.get("retry-after-ms") == ("1500" if protocol is OPENAI else None)
    assert kind_of(response.json()) == protocol.kinds.get(429)
    provider.configure(retry_after_s=None)
    assert "retry-after" not in raw(provider, protocol).headers


@ALL
async def test_a_key_is_wanted_when_there_are_keys_and_never_shown(models: Models, protocol: Protocol) -> None:
    with serve_in_thread(replace(QUICK, keys=("canary-key",))) as control:
        with pytest.raises(protocol.refused) as caught:
            await models(protocol, control, key="canary-wrong").ainvoke("x")
        assert caught.value.status_code == 401
        assert "canary" not in str(caught.value)
        assert kind_of(raw(control, protocol).json()) == protocol.kinds.get(401)
        assert (await models(protocol, control, key="canary-key").ainvoke("x")).text == "Answer to: x"


@ALL
@pytest.mark.parametrize("status", [429, 500, 529])
async def test_a_status_is_answered_in_the_protocols_own_words(
    provider: ProviderControl, models: Models, protocol: Protocol, status: int
) -> None:
    provider.configure(fault=f"status:{status}")
    model = models(protocol, provider)
    with pytest.raises(protocol.refused, match="Simulated fault") as caught:
        await model.ainvoke("x")
    assert caught.value.status_code == status
    with pytest.raises(protocol.refused) as caught:
        await anext(model.astream("x"))
    assert caught.value.status_code == status
    assert kind_of(raw(provider, protocol).json()) == protocol.kinds.get(status)
    stats = await seen(provider, lambda stats: len(stats.calls) == 3)
    assert stats.subjects(status=status) == {fingerprint("x"): 2, fingerprint(TEXT): 1}


@ALL
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_reset_is_seen_as_a_broken_connection(
    provider: ProviderControl, models: Models, protocol: Protocol, *, streamed: bool
) -> None:
    provider.configure(fault="reset")
    model = models(protocol, provider)
    with pytest.raises((openai.APIConnectionError, anthropic.APIConnectionError, httpx.ReadError)):
        await (anext(model.astream("x")) if streamed else model.ainvoke("x"))
    stats = await seen(provider, lambda stats: len(stats.calls) == 1)
    assert (stats.answered, stats.subjects(status=0), stats.disconnects) == ({}, {fingerprint("x"): 1}, 0)


async def begun(model: BaseChatModel, said: list[str]) -> None:
    async for chunk in model.astream(TEXT):
        said.append(chunk.text)  # noqa: PERF401 - what came before the break is what matters


@ALL
async def test_a_stream_that_is_reset_has_brought_its_first_part(
    provider: ProviderControl, models: Models, protocol: Protocol
) -> None:
    provider.configure(fault="stream_reset")
    model = models(protocol, provider)
    said: list[str] = []
    with pytest.raises((openai.APIConnectionError, anthropic.APIConnectionError, httpx.ReadError)):
        await begun(model, said)
    assert "".join(said) == "Answer"
    stats = await seen(provider, lambda stats: len(stats.calls) == 1)
    assert (stats.answered, stats.in_flight, stats.disconnects) == ({200: 1}, {}, 0)
    provider.configure(fault="ok")
    assert (await model.ainvoke("x")).text == "Answer to: x"


@ALL
async def test_a_stream_may_tell_an_error_after_its_first_part(
    provider: ProviderControl, models: Models, protocol: Protocol
) -> None:
    provider.configure(fault="stream_error")
    said: list[str] = []
    with pytest.raises(protocol.broken, match="stream_error") as caught:
        await begun(models(protocol, provider), said)
    assert "".join(said) == "Answer"
    if protocol is ANTHROPIC:
        assert kind_of(caught.value.body) == "overloaded_error"
    stats = await seen(provider, lambda stats: len(stats.calls) == 1)
    assert (stats.answered, stats.in_flight, stats.disconnects) == ({200: 1}, {}, 0)


@ALL
def test_what_is_not_streamed_is_served_while_streams_break(provider: ProviderControl, protocol: Protocol) -> None:
    for fault in ("stream_reset", "stream_error"):
        provider.configure(fault=fault)
        assert raw(provider, protocol, stream=False).status_code == 200


@ALL
@pytest.mark.parametrize("text", ["a long story", ""])
async def test_a_client_who_leaves_in_the_middle_of_a_stream_gives_the_slot_back(
    models: Models, protocol: Protocol, text: str
) -> None:
    with serve_in_thread(replace(QUICK, service_s=3600.0), lambda _: Answer(text)) as control:
        reading = asyncio.create_task(begun(models(protocol, control), []))
        stats = await seen(control, lambda stats: stats.answered == {200: 1})
        assert stats.in_flight == {"chat": 1}
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        stats = await seen(control, lambda stats: stats.disconnects == 1)
        assert (stats.in_flight, [call.left for call in stats.calls]) == ({}, [True])


@ALL
async def test_an_answer_may_be_empty(models: Models, protocol: Protocol) -> None:
    with serve_in_thread(QUICK, lambda _: Answer("")) as control:
        model = models(protocol, control)
        assert (await model.ainvoke("x")).text == "".join([chunk.text async for chunk in model.astream("x")]) == ""


@ALL
def test_a_malformed_request_is_a_bad_request(provider: ProviderControl, protocol: Protocol) -> None:
    for wrong in ({"messages": []}, {"messages": ["x"]}, {"messages": None}, {"tools": ["x"]}, {"tools": [{}]}):
        response = raw(provider, protocol, **wrong)
        assert (response.status_code, next(iter(wrong)) in response.text) == (400, True), wrong
        assert kind_of(response.json()) == protocol.kinds.get(400)


def test_anthropic_wants_to_know_the_most_tokens(provider: ProviderControl) -> None:
    response = raw(provider, ANTHROPIC, max_tokens=None)
    assert (response.status_code, "max_tokens" in response.text) == (400, True)


def test_anthropics_events_come_in_the_documented_order(provider: ProviderControl) -> None:
    tools = [{"name": "search", "input_schema": {"type": "object", "properties": {}}}]
    for fields in ({"tools": tools}, {}):
        lines = raw(provider, ANTHROPIC, stream=True, **fields).text.splitlines()
        names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        assert [event["type"] for event in events] == names
        deltas = names.count("content_block_delta")
        block = ["content_block_start", *["content_block_delta"] * deltas, "content_block_stop"]
        assert names == ["message_start", *block, "message_delta", "message_stop"]
        assert events[0]["message"]["usage"]["input_tokens"] == events[-2]["usage"]["input_tokens"] == 5


@pytest.mark.parametrize("tools", [[], [{"type": "function", "function": {"name": "search", "parameters": {}}}]])
def test_ollama_streams_lines_unless_told_not_to(provider: ProviderControl, tools: list[Any]) -> None:
    response = raw(provider, OLLAMA, tools=tools)
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    whole = raw(provider, OLLAMA, tools=tools, stream=False).json()
    assert "".join(line["message"]["content"] for line in lines) == whole["message"]["content"]
    counts = ("done", "done_reason", "prompt_eval_count", "eval_count", "total_duration")
    assert [lines[-1][name] for name in counts] == [whole[name] for name in counts]
    assert whole["done"] is True
