"""Anthropic's wire format: the Messages API, its streams and its errors.

The shapes follow the published API reference, version ``2023-06-01``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from langflow_sluice.simulator.answers import text_of
from langflow_sluice.simulator.wire import SERVER_ERROR, BadRequest, Stream, WireFormat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langflow_sluice.simulator.answers import ChatRequest
    from langflow_sluice.simulator.wire import Reply

_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class AnthropicFormat(WireFormat):
    """The Messages API of Anthropic."""

    key_header: ClassVar[str] = "x-api-key"

    def messages(self, payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The messages in OpenAI's shape: the system prompt and the results of tools as messages of their own."""
        system = payload.get("system")
        out: list[Mapping[str, Any]] = [{"role": "system", "content": system}] if system else []
        for message in super().messages(payload):
            content = message.get("content")
            blocks = [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []
            results = [b for b in blocks if b.get("type") == "tool_result"]
            out += [{"role": "tool", "tool_call_id": b.get("tool_use_id"), "content": text_of(b)} for b in results]
            rest = [b for b in blocks if b.get("type") != "tool_result"]
            if rest or not results:
                out.append({**message, "content": rest} if results else message)
        return out

    def parse_chat(self, payload: Mapping[str, Any]) -> ChatRequest:
        """Checks a request; tools that Anthropic would run itself are refused."""
        limit = payload.get("max_tokens")
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            msg = "max_tokens must be a whole number of at least 1."
            raise BadRequest(msg, "max_tokens")
        return self.request(
            payload,
            tools=_functions(payload),
            tool_choice=_tool_choice(payload.get("tool_choice")),
            response_format=_response_format(payload.get("output_config")),
            max_tokens=limit,
            stream=bool(payload.get("stream")),
        )

    def whole(self, reply: Reply) -> dict[str, Any]:
        """The body of a plain message."""
        content: list[dict[str, Any]] = [{"type": "text", "text": reply.text}] if reply.text else []
        content += [
            {**block, "input": dict(call.arguments)}
            for block, call in zip(_tool_uses(reply), reply.tool_calls, strict=True)
        ]
        return {**_head(reply), "content": content, **_stop(reply), "usage": _usage(reply)}

    def stream(self, reply: Reply, payload: Mapping[str, Any]) -> Stream:  # noqa: ARG002 - no option of it matters
        """The events: ``message_start``; the content blocks; ``message_delta`` with the usage, ``message_stop``."""
        usage = {**_usage(reply), "output_tokens": 1}
        begun = {**_head(reply), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        parts: list[bytes] = []
        for index, (block, deltas) in enumerate(_blocks(reply)):
            # A part for each delta: the block's beginning and end come with its first and its last.
            events = [[{"type": "content_block_delta", "index": index, "delta": delta}] for delta in deltas]
            events[0].insert(0, {"type": "content_block_start", "index": index, "content_block": block})
            events[-1].append({"type": "content_block_stop", "index": index})
            parts += [self.frames(group) for group in events]
        closing = self.frame({"type": "message_delta", "delta": _stop(reply), "usage": _usage(reply)})
        closing += self.frame({"type": "message_stop"})
        return Stream(self.frame({"type": "message_start", "message": begun}), parts, closing)

    def frame(self, payload: Mapping[str, Any]) -> bytes:
        """One server-sent event, named by its type."""
        return f"event: {payload['type']}\ndata: {json.dumps(payload)}\n\n".encode()

    def error(self, status: int, message: str, *, param: str | None = None) -> dict[str, Any]:  # noqa: ARG002 - the message says it
        """The body of an error."""
        kind = _ERRORS.get(status, "api_error" if status >= SERVER_ERROR else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}}


ANTHROPIC = AnthropicFormat()


def _head(reply: Reply) -> dict[str, Any]:
    return {"id": f"msg_{reply.serial:08x}", "type": "message", "role": "assistant", "model": reply.model}


def _stop(reply: Reply) -> dict[str, Any]:
    reason = reply.finish_reason(stop="end_turn", length="max_tokens", tools="tool_use")
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(reply: Reply) -> dict[str, int]:
    return {"input_tokens": reply.prompt_tokens, "output_tokens": reply.completion_tokens}


def _tool_uses(reply: Reply) -> list[dict[str, Any]]:
    return [
        {"type": "tool_use", "id": f"toolu_{reply.serial:08x}_{index}", "name": call.name, "input": {}}
        for index, call in enumerate(reply.tool_calls)
    ]


def _blocks(reply: Reply) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The content blocks as they begin, each with its deltas."""
    texts = [{"type": "text_delta", "text": piece} for piece in reply.pieces()]
    blocks = [({"type": "text", "text": ""}, texts)] if texts else []
    for block, call in zip(_tool_uses(reply), reply.tool_calls, strict=True):
        pieces = ("", json.dumps(call.arguments))
        blocks.append((block, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]))
    return blocks


def _functions(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tools = payload.get("tools") or []
    if not isinstance(tools, list) or not all(
        isinstance(t, dict) and t.get("name") and isinstance(t.get("input_schema"), dict) for t in tools
    ):
        msg = 'This simulator takes tools of the shape {"name": ..., "input_schema": {...}} only.'
        raise BadRequest(msg, "tools")
    return [
        {"name": t["name"], "description": t.get("description", ""), "parameters": t["input_schema"]} for t in tools
    ]


def _tool_choice(choice: Any) -> Any:
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return {"any": "required"}.get(kind, kind) if isinstance(kind, str) else None


def _response_format(output_config: Any) -> dict[str, Any] | None:
    format_ = output_config.get("format") if isinstance(output_config, dict) else None
    if not isinstance(format_, dict) or format_.get("type") != "json_schema":
        return None
    return {"type": "json_schema", "json_schema": {"schema": format_.get("schema")}}
