from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from langflow_sluice.errors import InvalidInput
from langflow_sluice.simulator import Answer, ProviderProcess, ProviderSettings, fingerprint, serve_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from langflow_sluice.simulator import ChatRequest, ProviderControl, ProviderStats

DEADLINE_S = 30.0
QUICK = ProviderSettings(slots=3, service_s=0.0, retry_after_s=1.5)
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}


@pytest.fixture
def provider() -> Iterator[ProviderControl]:
    with serve_in_thread(QUICK) as control:
        yield control


@pytest.fixture
async def client(provider: ProviderControl) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=provider.base_url, api_key="any", max_retries=0) as sdk:
        yield sdk


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def say(client: openai.AsyncOpenAI, text: str, **options: Any) -> Any:
    return await client.chat.completions.create(model="sim-chat", messages=user(text), **options)


async def seen(control: ProviderControl, condition: Callable[[ProviderStats], bool]) -> ProviderStats:
    """Asks for the statistics until they fulfil the condition."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition(stats := await asyncio.to_thread(control.stats)):
        assert time.monotonic() < deadline, stats
    return stats


async def fill_slots(client: openai.AsyncOpenAI, control: ProviderControl, calls: int) -> set[asyncio.Task[Any]]:
    """Starts calls that hang and returns those that hold a slot, once all the others have been refused."""
    control.configure(fault="hang")
    pending = {asyncio.create_task(say(client, f"row {number}")) for number in range(calls)}
    while len(pending) > QUICK.slots:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED, timeout=DEADLINE_S)
        assert all(isinstance(task.exception(), openai.RateLimitError) for task in done)
    return pending


async def test_calls_beyond_the_slots_are_refused_at_once_and_the_others_are_served(
    provider: ProviderControl, client: openai.AsyncOpenAI
) -> None:
    holding = await fill_slots(client, provider, 12)
    assert provider.stats().in_flight == {"chat": 3}
    provider.configure(fault="ok")
    answers = await asyncio.gather(*holding)
    assert all(answer.choices[0].message.content.startswith("Answer to: row") for answer in answers)
    stats = await seen(provider, lambda stats: len(stats.calls) == 12)
    assert stats.answered == {200: 3, 429: 9}
    assert stats.max_in_flight == {"chat": 3}
    assert stats.in_flight == {}
    assert stats.requests == {"chat": 12}
    assert stats.subjects() == {fingerprint(f"row {number}"): 1 for number in range(12)}
    assert sum(stats.subjects(status=200).values()) == 3
    assert stats.connections_opened == stats.max_connections_open == 12


async def test_a_refusal_says_when_to_come_back(provider: ProviderControl, client: openai.AsyncOpenAI) -> None:
    provider.configure(slots=0)
    with pytest.raises(openai.RateLimitError) as caught:
        await say(client, "hello")
    assert caught.value.response.headers["retry-after"] == "2"
    assert caught.value.response.headers["retry-after-ms"] == "1500"
    assert caught.value.code == "rate_limit_exceeded"
    provider.configure(retry_after_s=None)
    with pytest.raises(openai.RateLimitError) as caught:
        await say(client, "hello")
    assert not {"retry-after", "retry-after-ms"} & set(caught.value.response.headers)


async def test_a_slot_is_free_as_soon_as_its_answer_is_read(
    provider: ProviderControl, client: openai.AsyncOpenAI
) -> None:
    provider.configure(slots=1)
    for number in range(50):
        await say(client, f"plain {number}")
        chunks = await say(client, f"stream {number}", stream=True)
        # The next call starts at the last piece of text's end, not at the end of the connection's answer.
        async for chunk in chunks:
            if chunk.choices[0].finish_reason:
                break
        await say(client, "next")
        await chunks.close()
    assert provider.stats().answered == {200: 150}


async def test_usage_is_a_token_for_four_characters(provider: ProviderControl, client: openai.AsyncOpenAI) -> None:
    answer = await say(client, "x" * 41)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (11, 13, 24)
    stats = provider.stats()
    assert (stats.prompt_tokens, stats.completion_tokens) == (11, 13)


async def test_an_answer_is_cut_at_the_tokens_asked_for(client: openai.AsyncOpenAI) -> None:
    choice = (await say(client, "hello", max_completion_tokens=2)).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Answer t", "length")


async def test_a_stream_brings_the_same_text_in_pieces_and_the_usage_at_the_end(client: openai.AsyncOpenAI) -> None:
    text = "one two  three\nfour"
    stream = await say(client, text, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == f"Answer to: {text}"
    assert len([piece for piece in pieces if piece]) == 6
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == chunks[-1].usage.prompt_tokens + chunks[-1].usage.completion_tokens == 13
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_tool_is_called_and_its_result_becomes_the_answer(client: openai.AsyncOpenAI) -> None:
    first = (await say(client, "sluice gates", tools=[TOOL])).choices[0]
    assert first.finish_reason == "tool_calls"
    call = first.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("search", {"query": "sluice gates"})
    result = {"role": "tool", "tool_call_id": call.id, "content": "They open at noon."}
    messages: Any = [*user("sluice gates"), first.message.model_dump(exclude_none=True), result]
    answer = await client.chat.completions.create(model="sim-chat", messages=messages, tools=[TOOL])
    assert answer.choices[0].message.content == "They open at noon."


async def test_a_streamed_tool_call_is_put_together_from_its_pieces(client: openai.AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "function": {**TOOL["function"], "strict": True}}
    async with client.chat.completions.stream(model="sim-chat", messages=user("gates"), tools=[tool]) as stream:
        choice = (await stream.get_final_completion()).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"query": "gates"}


async def test_a_schema_is_answered_with_an_object_that_fits(client: openai.AsyncOpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    format_ = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    answer = await say(client, "hi", response_format=format_)
    assert json.loads(answer.choices[0].message.content) == {"n": 0}


async def test_embeddings_find_the_document_and_both_encodings_agree(client: openai.AsyncOpenAI) -> None:
    documents = ["Pumps drain the polder.", "Locks lift the boats.", "Dikes keep the sea out."]
    # The SDK asks for base64 by itself.
    packed = await client.embeddings.create(model="sim-embedding", input=["What lifts a boat?", *documents])
    plain = await client.embeddings.create(model="sim-embedding", input=documents, encoding_format="float")
    asked, *vectors = [item.embedding for item in packed.data]
    nearness = [sum(a * b for a, b in zip(asked, vector, strict=True)) for vector in vectors]
    assert nearness.index(max(nearness)) == 1
    assert vectors == [pytest.approx(item.embedding, abs=1e-6) for item in plain.data]
    assert [item.index for item in packed.data] == [0, 1, 2, 3]
    assert len(asked) == 384
    short = await client.embeddings.create(model="sim-embedding", input="one", dimensions=12)
    assert (len(short.data[0].embedding), short.usage.total_tokens) == (12, 1)


@pytest.mark.parametrize("wrong", [[1, 2, 3], [[1, 2]], "", [], ["one", ""]])
async def test_token_ids_and_empty_texts_are_refused_in_plain_words(client: openai.AsyncOpenAI, wrong: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="string"):
        await client.embeddings.create(model="sim-embedding", input=wrong)


async def test_embeddings_have_a_capacity_of_their_own(provider: ProviderControl, client: openai.AsyncOpenAI) -> None:
    provider.configure(slots=0)
    await client.embeddings.create(model="sim-embedding", input="still served")
    provider.configure(slots=1, embedding_slots=0)
    with pytest.raises(openai.RateLimitError):
        await client.embeddings.create(model="sim-embedding", input="refused")
    await say(client, "still served")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"messages": []}', b'{"messages": ["x"]}'])
async def test_a_malformed_request_is_a_bad_request(provider: ProviderControl, body: bytes) -> None:
    async with httpx.AsyncClient() as http:
        response = await http.post(f"{provider.base_url}/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_an_unknown_path_is_an_openai_error(provider: ProviderControl) -> None:
    async with httpx.AsyncClient() as http:
        response = await http.get(f"{provider.base_url}/nothing")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")


async def test_a_client_who_leaves_gives_the_slot_back(provider: ProviderControl, client: openai.AsyncOpenAI) -> None:
    holding = await fill_slots(client, provider, 4)
    for task in holding:
        task.cancel()
    stats = await seen(provider, lambda stats: stats.disconnects == 3)
    assert stats.in_flight == {}
    provider.configure(fault="ok")
    await say(client, "served again")
    assert [call.left for call in provider.stats().calls].count(True) == 3


async def test_a_client_who_leaves_in_the_middle_of_a_stream_gives_the_slot_back(
    provider: ProviderControl, client: openai.AsyncOpenAI
) -> None:
    provider.configure(service_s=3600.0)
    stream = await say(client, "a long story", stream=True)
    await anext(aiter(stream))
    assert provider.stats().in_flight == {"chat": 1}
    await stream.close()
    stats = await seen(provider, lambda stats: stats.disconnects == 1)
    assert stats.in_flight == {}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("status:500", openai.InternalServerError),
        ("status:429", openai.RateLimitError),
        ("status:404", openai.NotFoundError),
        ("reset", openai.APIConnectionError),
        ("garbage", json.JSONDecodeError),
    ],
)
async def test_a_fault_hits_every_request_until_it_is_over(
    provider: ProviderControl, client: openai.AsyncOpenAI, fault: str, error: type[Exception]
) -> None:
    provider.configure(fault=fault)
    for _ in range(2):
        with pytest.raises(error):
            await say(client, "x")
    provider.configure(fault="ok")
    await say(client, "x")
    stats = await seen(provider, lambda stats: len(stats.calls) == 3)
    assert stats.subjects() == {fingerprint("x"): 3}
    assert stats.disconnects == 0


async def test_a_reset_is_seen_as_one_by_the_client(provider: ProviderControl) -> None:
    provider.configure(fault="reset")
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ReadError):
            await http.get(f"{provider.base_url}/models")


async def test_connections_that_are_closed_are_no_longer_open(provider: ProviderControl) -> None:
    async with openai.AsyncOpenAI(base_url=provider.base_url, api_key="any", max_retries=0) as sdk:
        for _ in range(3):
            await say(sdk, "over one connection")
        stats = provider.stats()
        assert (stats.connections_opened, stats.connections_open) == (1, 1)
    stats = await seen(provider, lambda stats: stats.connections_open == 0)
    assert stats.connections_opened == 1


async def test_a_reset_of_the_statistics_starts_afresh(provider: ProviderControl, client: openai.AsyncOpenAI) -> None:
    await say(client, "before")
    holding = await fill_slots(client, provider, 4)
    provider.reset()
    assert provider.stats().in_flight == provider.stats().max_in_flight == {"chat": 3}
    provider.configure(fault="ok")
    await asyncio.gather(*holding)
    stats = await seen(provider, lambda stats: stats.in_flight == {})
    assert (stats.answered, stats.requests, stats.calls) == ({}, {}, ())


async def test_only_the_latest_requests_are_kept() -> None:
    with serve_in_thread(ProviderSettings(record_limit=2)) as control:
        async with openai.AsyncOpenAI(base_url=control.base_url, api_key="any", max_retries=0) as sdk:
            for number in range(5):
                await sdk.embeddings.create(model="m", input=f"text {number}")
        stats = await seen(control, lambda stats: stats.calls_forgotten == 3)
    assert [call.subject for call in stats.calls] == [fingerprint("text 3"), fingerprint("text 4")]


async def test_a_key_is_wanted_when_there_are_keys_and_never_shown() -> None:
    with serve_in_thread(ProviderSettings(keys=("canary-key",), service_s=0.0)) as control:
        async with openai.AsyncOpenAI(base_url=control.base_url, api_key="canary-wrong", max_retries=0) as sdk:
            with pytest.raises(openai.AuthenticationError) as caught:
                await say(sdk, "x")
            assert "canary" not in str(caught.value)
        async with openai.AsyncOpenAI(base_url=control.base_url, api_key="canary-key", max_retries=0) as sdk:
            assert [model.id async for model in sdk.models.list()] == ["sim-chat", "sim-embedding"]
        assert "canary" not in str(control.configure())


async def test_the_answers_are_up_to_the_policy() -> None:
    def shout(request: ChatRequest) -> Answer:
        if request.last_user == "fail":
            raise ValueError
        return Answer(request.last_user.upper())

    with serve_in_thread(ProviderSettings(service_s=0.0), shout) as control:
        async with openai.AsyncOpenAI(base_url=control.base_url, api_key="any", max_retries=0) as sdk:
            assert (await say(sdk, "quiet")).choices[0].message.content == "QUIET"
            with pytest.raises(openai.InternalServerError, match="ValueError"):
                await say(sdk, "fail")
            assert control.stats().in_flight == {}


def test_a_wrong_setting_is_refused_while_running(provider: ProviderControl) -> None:
    with pytest.raises(InvalidInput, match="slots"):
        provider.configure(slots=-1)
    with pytest.raises(InvalidInput, match="keys"):
        provider.configure(keys=["k"])
    assert provider.configure()["slots"] == 3


def test_a_provider_in_a_process_of_its_own_serves_and_ends() -> None:
    settings = ProviderSettings(slots=2, service_s=0.0, keys=("canary-key",))
    with ProviderProcess(settings, policy="langflow_sluice.simulator:default_policy") as process:
        with openai.OpenAI(base_url=process.base_url, api_key="canary-key", max_retries=0) as sdk:
            assert sdk.chat.completions.create(model="m", messages=user("hi")).choices[0].message.content
        assert process.stats().answered == {200: 1}
        process.configure(fault="hang")
        group = process.pid
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{group}/cmdline", "rb") as arguments:  # noqa: PTH123
            assert b"canary" not in arguments.read()
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_a_provider_that_cannot_start_says_so() -> None:
    with (
        serve_in_thread() as other,
        pytest.raises(RuntimeError, match="did not start"),
        ProviderProcess(port=int(other.base_url.rsplit(":", 1)[1].removesuffix("/v1"))),
    ):
        pass


def test_the_child_ends_when_its_parent_is_killed() -> None:
    code = (
        "import sys, time\n"
        "from langflow_sluice.simulator import ProviderProcess\n"
        "with ProviderProcess() as process:\n"
        "    print(process.base_url, flush=True)\n"
        "    time.sleep(3600)\n"
    )
    # The child inherits the parent's standard error: its end means that both are gone.
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    base_url = parent.stdout.readline().strip()
    assert httpx.get(f"{base_url}/models").status_code == 200
    parent.kill()
    _, complaints = parent.communicate(timeout=DEADLINE_S)
    assert complaints == ""
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{base_url}/models")
