"""How many tokens a call will take, before it is made and without a network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage

# OpenAI's rule of thumb for English text ("What are tokens and how to count them?"): about four characters a token.
# tiktoken would know better, but downloads its tables when it is first called.
CHARACTERS_PER_TOKEN = 4
# The chat format's own share of each message (OpenAI cookbook, "How to count tokens with tiktoken").
TOKENS_PER_MESSAGE = 3


def estimate_text(text: str) -> int:
    """Tokens of a text, rounded up."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def estimate_messages(messages: Sequence[BaseMessage], max_tokens: int | None) -> int:
    """Tokens of a chat call: its messages and the most that it may answer.

    Args:
        messages: What is sent.
        max_tokens: The requested maximum of the answer, if any.
    """
    prompt = sum(TOKENS_PER_MESSAGE + _content(message.content) for message in messages)
    return prompt + (max_tokens or 0)


def estimate_tools(tools: Sequence[Any] | None) -> int:
    """Tokens of the tools that go along with a call, by the length of their definitions."""
    return estimate_text(json.dumps(tools, default=str)) if tools else 0


def _content(content: str | list[Any]) -> int:
    if isinstance(content, str):
        return estimate_text(content)
    return sum(estimate_text(part if isinstance(part, str) else str(part.get("text") or "")) for part in content)
