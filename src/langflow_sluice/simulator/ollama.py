"""Ollama's wire format: its chat API, whose streams are lines of JSON, and its errors.

The shapes follow the published API reference.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ClassVar

from langflow_sluice.simulator.wire import Stream, WireFormat, functions_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langflow_sluice.simulator.answers import ChatRequest
    from langflow_sluice.simulator.wire import Reply

_NANOSECONDS = 1_000_000_000


class OllamaFormat(WireFormat):
    """The chat API of Ollama."""

    stream_type: ClassVar[str] = "application/x-ndjson"

    def parse_chat(self, payload: Mapping[str, Any]) -> ChatRequest:
        """Checks a chat request; without ``stream`` it is answered with a stream."""
        options = payload.get("options")
        return self.request(
            payload,
            tools=functions_of(payload),
            response_format=_response_format(payload.get("format")),
            max_tokens=options.get("num_predict") if isinstance(options, dict) else None,
            stream=payload.get("stream") is not False,
        )

    def whole(self, reply: Reply) -> dict[str, Any]:
        """The body of a plain answer."""
        calls = {"tool_calls": _tool_calls(reply)} if reply.tool_calls else {}
        return {**_line(reply, content=reply.text, **calls), **_done(reply)}

    def stream(self, reply: Reply, payload: Mapping[str, Any]) -> Stream:  # noqa: ARG002 - no option of it matters
        """The lines: the pieces of the text, each tool call whole, the counts."""
        lines = [_line(reply, content=piece) for piece in reply.pieces()]
        lines += [_line(reply, content="", tool_calls=[call]) for call in _tool_calls(reply)]
        parts = [self.frame(line) for line in lines]
        return Stream(b"", parts, self.frame({**_line(reply, content=""), **_done(reply)}))

    def frame(self, payload: Mapping[str, Any]) -> bytes:
        """One line of JSON."""
        return json.dumps(payload).encode() + b"\n"

    def error(self, status: int, message: str, *, param: str | None = None) -> dict[str, Any]:  # noqa: ARG002 - a text is all
        """The body of an error."""
        return {"error": message}


OLLAMA = OllamaFormat()


def _line(reply: Reply, **message: Any) -> dict[str, Any]:
    created_at = datetime.fromtimestamp(reply.created_at, timezone.utc).isoformat().replace("+00:00", "Z")
    said = {"role": "assistant", **message}
    return {"model": reply.model, "created_at": created_at, "message": said, "done": False}


def _done(reply: Reply) -> dict[str, Any]:
    duration = int(reply.service_s * _NANOSECONDS)
    return {
        "done": True,
        # A call of a tool is no reason of its own here.
        "done_reason": reply.finish_reason(tools="stop"),
        "total_duration": duration,
        "load_duration": 0,
        "prompt_eval_count": reply.prompt_tokens,
        "prompt_eval_duration": 0,
        "eval_count": reply.completion_tokens,
        "eval_duration": duration,
    }


def _tool_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{reply.serial:08x}_{index}",
            "function": {"index": index, "name": call.name, "arguments": dict(call.arguments)},
        }
        for index, call in enumerate(reply.tool_calls)
    ]


def _response_format(format_: Any) -> dict[str, Any] | None:
    if isinstance(format_, dict):
        return {"type": "json_schema", "json_schema": {"schema": format_}}
    return {"type": "json_object"} if format_ == "json" else None
