"""OpenAI's wire format: chat completions, embeddings, models and errors.

The shapes follow the published API reference.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

from langflow_sluice.simulator.wire import SERVER_ERROR, BadRequest, Stream, WireFormat, functions_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langflow_sluice.simulator.answers import ChatRequest
    from langflow_sluice.simulator.wire import Reply

_INVALID_REQUEST = "invalid_request_error"
# Type and code of the errors that have a code.
_CODED = {
    401: (_INVALID_REQUEST, "invalid_api_key"),
    404: (_INVALID_REQUEST, "unknown_url"),
    429: ("requests", "rate_limit_exceeded"),
}


class OpenAIFormat(WireFormat):
    """Chat completions of OpenAI."""

    def subject_of(self, payload: Mapping[str, Any]) -> str:
        """What a request is about, for its fingerprint: the last user message or the first input; never raises."""
        if isinstance(payload.get("messages"), list):
            return super().subject_of(payload)
        given = payload.get("input")
        first = given[0] if isinstance(given, list) and given else given
        return first if isinstance(first, str) else ""

    def retry_headers(self, seconds: float) -> dict[str, str]:
        """The headers that say when to come back; also to the millisecond."""
        return {**super().retry_headers(seconds), "retry-after-ms": f"{seconds * 1000:g}"}

    def parse_chat(self, payload: Mapping[str, Any]) -> ChatRequest:
        """Checks a chat completion request; more than one choice is refused."""
        if payload.get("n") not in {None, 1}:
            msg = "This simulator answers with one choice only: leave n out."
            raise BadRequest(msg, "n")
        return self.request(
            payload,
            tools=functions_of(payload),
            tool_choice=payload.get("tool_choice"),
            response_format=payload.get("response_format"),
            max_tokens=payload.get("max_completion_tokens") or payload.get("max_tokens"),
            stream=bool(payload.get("stream")),
        )

    def whole(self, reply: Reply) -> dict[str, Any]:
        """The body of a plain chat completion."""
        calls = _tool_calls(reply)
        message = {
            "role": "assistant",
            "content": reply.text if reply.text or not calls else None,
            **({"tool_calls": calls} if calls else {}),
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason()}
        return {**_head(reply), "object": "chat.completion", "choices": [choice], "usage": reply.usage}

    def stream(self, reply: Reply, payload: Mapping[str, Any]) -> Stream:
        """The chunks: the role; text and tool calls; the reason, the usage if it was asked for and ``[DONE]``."""
        options = payload.get("stream_options")
        with_usage = bool(isinstance(options, dict) and options.get("include_usage"))
        head = {**_head(reply), "object": "chat.completion.chunk"}

        def chunk(delta: Mapping[str, Any], reason: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
            return self.frame({**head, "choices": [choice], **({"usage": None} if with_usage else {})})

        closing = chunk({}, reply.finish_reason())
        if with_usage:
            closing += self.frame({**head, "choices": [], "usage": reply.usage})
        parts = [chunk(delta) for delta in _deltas(reply) or [{"content": ""}]]
        return Stream(chunk({"role": "assistant", "content": ""}), parts, closing + b"data: [DONE]\n\n")

    def frame(self, payload: Mapping[str, Any]) -> bytes:
        """One server-sent event without a name."""
        return b"data: " + json.dumps(payload).encode() + b"\n\n"

    def error(self, status: int, message: str, *, param: str | None = None) -> dict[str, Any]:
        """The body of an error."""
        kind, code = _CODED.get(status, ("server_error" if status >= SERVER_ERROR else _INVALID_REQUEST, None))
        return {"error": {"message": message, "type": kind, "param": param, "code": code}}


OPENAI = OpenAIFormat()


def _head(reply: Reply) -> dict[str, Any]:
    return {"id": f"chatcmpl-{reply.serial:08x}", "created": int(reply.created_at), "model": reply.model}


def _tool_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{reply.serial:08x}_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for index, call in enumerate(reply.tool_calls)
    ]


def _deltas(reply: Reply) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = [{"content": piece} for piece in reply.pieces()]
    for index, call in enumerate(_tool_calls(reply)):
        function = call["function"]
        opened = {**call, "index": index, "function": {"name": function["name"], "arguments": ""}}
        out.append({"tool_calls": [opened]})
        out.append({"tool_calls": [{"index": index, "function": {"arguments": function["arguments"]}}]})
    return out


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
