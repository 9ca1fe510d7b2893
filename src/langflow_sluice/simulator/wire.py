"""What the wire formats of the simulated provider share: a chat answer before it takes the form of one of them."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from langflow_sluice.simulator.answers import ChatRequest, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from langflow_sluice.simulator.answers import Answer, ToolCall

CHARACTERS_PER_TOKEN = 4
SERVER_ERROR = 500
_MOST_PIECES = 50


class BadRequest(Exception):
    """A request that the provider would refuse with a 400.

    Args:
        message: What is wrong; must not quote the prompt.
        param: The field.
    """

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


@dataclass(frozen=True)
class Reply:
    """The answer to a chat request, with what every wire format tells of it.

    Attributes:
        serial: Number of the answer, for its ids.
        model: Name of the model.
        text: What the model says, cut at the tokens asked for.
        tool_calls: The tools it wants called.
        shortened: Whether the text was cut.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of the text and of the tools' arguments.
        created_at: Seconds since the epoch.
        service_s: Seconds that the answer takes.
    """

    serial: int
    model: str
    text: str
    tool_calls: tuple[ToolCall, ...]
    shortened: bool
    prompt_tokens: int
    completion_tokens: int
    created_at: float
    service_s: float

    @classmethod
    def of(cls, request: ChatRequest, answer: Answer, serial: int, service_s: float) -> Reply:
        """Makes the reply to a request out of the policy's answer."""
        text, shortened = _limited(answer.text, request.max_tokens)
        arguments = "".join(json.dumps(call.arguments) for call in answer.tool_calls)
        prompt = "".join(text_of(message) for message in request.messages)
        return cls(
            serial=serial,
            model=request.model,
            text=text,
            tool_calls=answer.tool_calls,
            shortened=shortened,
            prompt_tokens=tokens_of(prompt),
            completion_tokens=tokens_of(text + arguments),
            created_at=time.time(),
            service_s=service_s,
        )

    @property
    def usage(self) -> dict[str, int]:
        """The tokens as the statistics count them and OpenAI reports them."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def finish_reason(self, *, stop: str = "stop", length: str = "length", tools: str = "tool_calls") -> str:
        """Why the answer ends, in the words of a wire format."""
        if self.tool_calls:
            return tools
        return length if self.shortened else stop

    def pieces(self) -> list[str]:
        """The text as a stream brings it: whole words, at most fifty pieces; none for an empty text."""
        words = self.text.split(" ")
        size = max(1, math.ceil(len(words) / _MOST_PIECES))
        groups = [" ".join(words[i : i + size]) for i in range(0, len(words), size)] if self.text else []
        return [group if i == 0 else f" {group}" for i, group in enumerate(groups)]


@dataclass(frozen=True)
class Stream:
    """The bytes of a streamed reply.

    Attributes:
        opening: Sent at once.
        parts: Spread over the seconds of service.
        closing: Sent once the slot is free again.
    """

    opening: bytes
    parts: Sequence[bytes]
    closing: bytes


class WireFormat(ABC):
    """How one provider's API says a chat; has no state, so one object serves all requests.

    Attributes:
        key_header: The header that brings the API key, with or without ``Bearer``.
        stream_type: The content type of a stream.
    """

    key_header: ClassVar[str] = "authorization"
    stream_type: ClassVar[str] = "text/event-stream; charset=utf-8"

    def messages(self, payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The messages in OpenAI's shape; leaves out what is none and never raises."""
        messages = payload.get("messages")
        return [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []

    def subject_of(self, payload: Mapping[str, Any]) -> str:
        """What a request is about, for its fingerprint: the last user message; never raises."""
        return ChatRequest(self.messages(payload)).last_user

    def retry_headers(self, seconds: float) -> dict[str, str]:
        """The headers that say when to come back."""
        return {"retry-after": str(math.ceil(seconds))}

    @abstractmethod
    def parse_chat(self, payload: Mapping[str, Any]) -> ChatRequest:
        """Checks a chat request.

        Raises:
            BadRequest: If the API would refuse it, or the simulator cannot serve it.
        """

    @abstractmethod
    def whole(self, reply: Reply) -> dict[str, Any]:
        """The body of an answer that is not streamed."""

    @abstractmethod
    def stream(self, reply: Reply, payload: Mapping[str, Any]) -> Stream:
        """The answer as a stream, for a request."""

    @abstractmethod
    def frame(self, payload: Mapping[str, Any]) -> bytes:
        """One event of a stream."""

    @abstractmethod
    def error(self, status: int, message: str, *, param: str | None = None) -> dict[str, Any]:
        """The body of an error, also in the middle of a stream."""

    def frames(self, payloads: Iterable[Mapping[str, Any]]) -> bytes:
        """Some events of a stream, one behind the other."""
        return b"".join(self.frame(payload) for payload in payloads)

    def request(self, payload: Mapping[str, Any], **fields: Any) -> ChatRequest:
        """Makes a request of a payload's messages and model and of the fields that the protocol has its own way for.

        Raises:
            BadRequest: If the messages are missing or malformed.
        """
        messages = payload.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            msg = "messages must be a list of at least one message object."
            raise BadRequest(msg, "messages")
        return ChatRequest(messages=self.messages(payload), model=str(payload.get("model", "")), **fields)


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


def functions_of(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The function definitions of tools in OpenAI's shape.

    Raises:
        BadRequest: If one is malformed.
    """
    tools = payload.get("tools") or []
    functions = [t.get("function") for t in tools if isinstance(t, dict)] if isinstance(tools, list) else []
    if len(functions) != len(tools) or not all(isinstance(f, dict) and f.get("name") for f in functions):
        msg = 'tools must be a list of {"type": "function", "function": {"name": ...}}.'
        raise BadRequest(msg, "tools")
    return [f for f in functions if isinstance(f, dict)]


def _limited(text: str, max_tokens: int | None) -> tuple[str, bool]:
    if isinstance(max_tokens, int) and 0 < max_tokens < tokens_of(text):
        return text[: max_tokens * CHARACTERS_PER_TOKEN], True
    return text, False
