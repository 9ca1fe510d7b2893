"""What the simulated model answers: deterministic and, for questions about a given text, right."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langflow_sluice.simulator.words import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_LABEL = re.compile(
    r"^\s*(?:[-*#>]+\s*)?(?:(?:context|question|documents?|text|input|user|human)\s*:\s*)?", re.IGNORECASE
)
_QUESTION_LABEL = re.compile(r"question\s*:\s*(?P<question>[^\n]+)", re.IGNORECASE)
_FEWEST_CONTEXT_SENTENCES = 2


@dataclass(frozen=True)
class ChatRequest:
    """The parts of a chat request that an answer can depend on, in OpenAI's shapes whatever the protocol.

    Attributes:
        messages: The messages as sent; system prompts and results of tools that another protocol has elsewhere are
            messages of their own.
        model: Name of the model.
        tools: The function definitions, unwrapped from ``{"type": "function", "function": ...}``.
        tool_choice: ``None``, ``"auto"``, ``"none"``, ``"required"`` or a dict that names a function.
        response_format: What the text is to fit, or ``None``.
        max_tokens: Tokens after which the answer's text is cut; ``None`` does not cut it.
        stream: Whether the answer is streamed.
    """

    messages: Sequence[Mapping[str, Any]]
    model: str = ""
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: Any = None
    response_format: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    stream: bool = False

    @property
    def last_user(self) -> str:
        """Text of the last user message, or an empty string."""
        return next((text_of(m) for m in reversed(self.messages) if m.get("role") == "user"), "")

    @property
    def tool_result(self) -> str | None:
        """Text of the tool messages that follow the last user message, or ``None`` when there is none."""
        results: list[str] = []
        for message in reversed(self.messages):
            if message.get("role") == "user":
                break
            if message.get("role") in {"tool", "function"}:
                results.append(text_of(message))
        return "\n".join(reversed(results)) if results else None


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool, with its arguments as a JSON object."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the model says, or the tools it wants called first."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


AnswerPolicy = Callable[[ChatRequest], Answer]
"""Decides the answer to a request; called on the server's loop, so it must be quick and must not block."""


def text_of(message: Mapping[str, Any]) -> str:
    """Returns the text of a message, whose content may be a string, a list of parts or absent."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict) and "text" in part)
    return ""


def default_policy(request: ChatRequest) -> Answer:
    """Calls the first tool once, then answers from the tool, from the context in the prompt, or with an echo.

    A JSON ``response_format`` gets the same text inside an object that fits the schema.
    """
    result = request.tool_result
    if result is None:
        tool = _tool_to_call(request)
        if tool is not None:
            schema = tool.get("parameters") or {"type": "object"}
            arguments = fit_schema(schema, request.last_user)
            return Answer(tool_calls=(ToolCall(str(tool.get("name", "")), arguments),))
        text = _sentence_that_answers(request) or f"Answer to: {request.last_user}"
    else:
        text = result
    return Answer(_in_format(request.response_format, text))


def _tool_to_call(request: ChatRequest) -> Mapping[str, Any] | None:
    if not request.tools or request.tool_choice == "none":
        return None
    if isinstance(request.tool_choice, dict):
        wanted = (request.tool_choice.get("function") or {}).get("name")
        return next((tool for tool in request.tools if tool.get("name") == wanted), None)
    return request.tools[0]


def _in_format(response_format: Mapping[str, Any] | None, text: str) -> str:
    kind = (response_format or {}).get("type", "text")
    if response_format is None or kind == "text":
        return text
    if kind == "json_schema":
        schema = (response_format.get("json_schema") or {}).get("schema") or {"type": "object"}
        return json.dumps(fit_schema(schema, text))
    return json.dumps({"answer": text})


def _sentences(text: str) -> list[str]:
    return [s for s in (_LABEL.sub("", part, count=1).strip() for part in _SENTENCE_END.split(text)) if s]


def _question(text: str) -> str:
    labelled = _QUESTION_LABEL.search(text)
    if labelled:
        return labelled["question"].strip()
    return next((s for s in reversed(_sentences(text)) if s.endswith("?")), "")


def _sentence_that_answers(request: ChatRequest) -> str | None:
    """The sentence of the prompt that shares the most telling words with the question, or ``None``."""
    question = _question(request.last_user)
    if not question:
        return None
    prompt = "\n".join(text_of(m) for m in request.messages if m.get("role") in {"system", "developer"})
    asked = set(words(question))
    context = {s: set(words(s)) for s in _sentences(f"{prompt}\n{request.last_user}") if s not in question}
    if len(context) < _FEWEST_CONTEXT_SENTENCES:
        return None
    # Words that stand in many sentences tell little: weigh them by the inverse of how many they stand in.
    spread = Counter(word for stems in context.values() for word in stems)
    best, best_score = None, 0.0
    for sentence, stems in context.items():
        score = sum(math.log(1.0 + len(context) / spread[word]) for word in asked & stems)
        if score > best_score and not sentence.endswith("?"):
            best, best_score = sentence, score
    return best


_FORMATS = {
    "date": "2024-01-01",
    "date-time": "2024-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_DEEPEST = 8


def fit_schema(schema: Mapping[str, Any], text: str) -> Any:
    """Makes a simple value that fits a JSON schema.

    Strings take the text, numbers their minimum or 0, arrays one item, objects all required properties (or all of them
    when none is required); ``enum``, ``const``, ``default``, local ``$ref``, ``anyOf``, ``oneOf`` and ``allOf`` are
    followed. ``pattern`` is not.

    Args:
        schema: The schema.
        text: What the strings say.
    """
    return _fit(schema, text, schema, 0)


def _fit(schema: Mapping[str, Any], text: str, root: Mapping[str, Any], depth: int) -> Any:
    schema = _resolved(schema, root)
    for keyword in ("const", "default"):
        # An empty text is what Langflow gives as default where a tool's argument has none.
        value = schema.get(keyword)
        if value is not None and value != "":
            return value
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type") or ("object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), "null")
    if kind == "object":
        properties = schema.get("properties") or {}
        names = [n for n in schema.get("required") or properties if depth < _DEEPEST or n in schema.get("required", ())]
        return {n: _fit(properties.get(n) or {}, text, root, depth + 1) for n in names if depth < 2 * _DEEPEST}
    if kind == "array":
        count = max(int(schema.get("minItems", 0)), 1 if depth < _DEEPEST else 0)
        count = min(count, int(schema.get("maxItems", count)))
        return [_fit(schema.get("items") or {}, text, root, depth + 1) for _ in range(count)]
    return _scalar(kind, schema, text)


def _scalar(kind: str, schema: Mapping[str, Any], text: str) -> Any:
    if kind in {"integer", "number"}:
        least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        most = schema.get("maximum", least)
        number = min(least, most)
        return int(number) if kind == "integer" else float(number)
    if kind == "boolean":
        return False
    if kind == "null":
        return None
    value = _FORMATS.get(schema.get("format", ""), text).ljust(int(schema.get("minLength", 0)), ".")
    return value[: schema.get("maxLength")]


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(_DEEPEST):
        if "$ref" in schema:
            target: Any = root
            for part in filter(None, str(schema["$ref"]).removeprefix("#").split("/")):
                target = target.get(part, {}) if isinstance(target, dict) else {}
            schema = target
            continue
        choices = schema.get("anyOf") or schema.get("oneOf")
        if choices:
            schema = next((c for c in choices if c.get("type") != "null"), choices[0])
            continue
        if schema.get("allOf"):
            merged: dict[str, Any] = {k: v for k, v in schema.items() if k != "allOf"}
            for part in schema["allOf"]:
                resolved = _resolved(part, root)
                properties = {**merged.get("properties", {}), **resolved.get("properties", {})}
                required = [*merged.get("required", ()), *resolved.get("required", ())]
                merged = {**merged, **resolved, "properties": properties, "required": required}
            return merged
        return schema
    return schema
