"""OpenAI's wire format: bodies of answers, stream chunks and errors.

The shapes follow the published API reference of chat completions, embeddings and models.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import TYPE_CHECKING, Any

from langflow_sluice.simulator.answers import ChatRequest, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langflow_sluice.simulator.answers import Answer

CHARACTERS_PER_TOKEN = 4
_MOST_CHUNKS = 50


class BadRequest(Exception):
    """A request that OpenAI would refuse with a 400.

    Args:
        message: What is wrong; must not quote the prompt.
        param: The field.
    """

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


def tokens_of(text: str) -> int:
    """Estimates the tokens of a text: a quarter of its characters, rounded up."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def parse_body(body: bytes) -> dict[str, Any]:
    """Parses a request's body.

    Raises:
        BadRequest: If it is not a JSON object.
    """
    try:
        payload = json.loads(body)
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        msg = "The body must be a JSON object."
        raise BadRequest(msg, "body")
    return payload


def parse_chat(payload: Mapping[str, Any]) -> ChatRequest:
    """Checks a chat completion request.

    Raises:
        BadRequest: If the messages are missing or malformed, or more than one choice is asked for.
    """
    messages = payload.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        msg = "messages must be a list of at least one message object."
        raise BadRequest(msg, "messages")
    if payload.get("n") not in {None, 1}:
        msg = "This simulator answers with one choice only: leave n out."
        raise BadRequest(msg, "n")
    tools = payload.get("tools") or []
    functions = [t.get("function") for t in tools if isinstance(t, dict)] if isinstance(tools, list) else []
    if len(functions) != len(tools) or not all(isinstance(f, dict) and f.get("name") for f in functions):
        msg = 'tools must be a list of {"type": "function", "function": {"name": ...}}.'
        raise BadRequest(msg, "tools")
    return ChatRequest(
        messages=messages,
        model=str(payload.get("model", "")),
        tools=[f for f in functions if isinstance(f, dict)],
        tool_choice=payload.get("tool_choice"),
        response_format=payload.get("response_format"),
    )


def parse_inputs(payload: Mapping[str, Any]) -> list[str]:
    """Returns the texts of an embeddings request.

    Raises:
        BadRequest: If the input is empty or made of token ids.
    """
    given = payload.get("input")
    inputs = [given] if isinstance(given, str) else given
    if not isinstance(inputs, list) or not inputs:
        msg = "input must be a string or a list of strings, and not empty."
        raise BadRequest(msg, "input")
    if not all(isinstance(text, str) for text in inputs):
        msg = (
            "This simulator embeds strings, not lists of token ids: send the text itself "
            "(in LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)."
        )
        raise BadRequest(msg, "input")
    if not all(inputs):
        msg = "input must not contain an empty string."
        raise BadRequest(msg, "input")
    return inputs


def subject_of(payload: Mapping[str, Any]) -> str:
    """What a request is about, for its fingerprint: the last user message or the first input; never raises."""
    messages = payload.get("messages")
    if isinstance(messages, list):
        return ChatRequest([m for m in messages if isinstance(m, dict)]).last_user
    given = payload.get("input")
    first = given[0] if isinstance(given, list) and given else given
    return first if isinstance(first, str) else ""


def usage(prompt: str, completion: str) -> dict[str, int]:
    """The ``usage`` object for a prompt and its completion."""
    prompt_tokens, completion_tokens = tokens_of(prompt), tokens_of(completion)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def prompt_text(request: ChatRequest) -> str:
    """All text of a prompt, for counting."""
    return "".join(text_of(message) for message in request.messages)


def limited(text: str, max_tokens: Any) -> tuple[str, str]:
    """Cuts a text to a number of tokens and returns it with its ``finish_reason``."""
    if isinstance(max_tokens, int) and 0 < max_tokens < tokens_of(text):
        return text[: max_tokens * CHARACTERS_PER_TOKEN], "length"
    return text, "stop"


def tool_calls(answer: Answer, serial: int) -> list[dict[str, Any]]:
    """The ``tool_calls`` of an assistant message."""
    return [
        {
            "id": f"call_{serial:08x}_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for index, call in enumerate(answer.tool_calls)
    ]


def completion(head: Mapping[str, Any], message: Mapping[str, Any], reason: str, used: Mapping[str, int]) -> Any:
    """The body of a plain chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "logprobs": None, "finish_reason": reason}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": used}


def deltas(text: str, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The ``delta`` objects of a stream: whole words, at most fifty pieces; then the tool calls."""
    pieces = text.split(" ")
    size = max(1, math.ceil(len(pieces) / _MOST_CHUNKS))
    groups = [" ".join(pieces[i : i + size]) for i in range(0, len(pieces), size)] if text else []
    out: list[dict[str, Any]] = [{"content": g if i == 0 else f" {g}"} for i, g in enumerate(groups)]
    for index, call in enumerate(calls):
        function = call["function"]
        opened = {**call, "index": index, "function": {"name": function["name"], "arguments": ""}}
        out.append({"tool_calls": [opened]})
        out.append({"tool_calls": [{"index": index, "function": {"arguments": function["arguments"]}}]})
    return out


def chunk(head: Mapping[str, Any], delta: Mapping[str, Any], reason: str | None, *, with_usage: bool) -> bytes:
    """One server-sent event of a stream."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    payload = {**head, "object": "chat.completion.chunk", "choices": [choice]}
    return event({**payload, "usage": None} if with_usage else payload)


def event(payload: Mapping[str, Any]) -> bytes:
    """A JSON payload as a server-sent event."""
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def embeddings(model: str, vectors: Sequence[Sequence[float]], encoding: str, tokens: int) -> dict[str, Any]:
    """The body of an embeddings answer; ``base64`` packs little-endian 32-bit floats as OpenAI does."""
    data = [
        {"object": "embedding", "index": i, "embedding": _packed(v) if encoding == "base64" else list(v)}
        for i, v in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def error(message: str, kind: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
