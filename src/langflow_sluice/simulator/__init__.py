"""A simulated model provider: the wire protocols of OpenAI, Anthropic and Ollama over real HTTP, with a real capacity.

It serves chats (plain, streamed, with tools and JSON schemas) in all three, OpenAI's embeddings and list of models on
127.0.0.1, answers 429 with ``Retry-After`` beyond its slots, can be made to fail while it runs, and tells exactly what
it saw. ``ProviderProcess`` runs it in a child process, ``serve_in_thread`` in a thread of this one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langflow_sluice.simulator.answers import Answer, AnswerPolicy, ChatRequest, ToolCall, default_policy
    from langflow_sluice.simulator.control import ProviderControl, ProviderProcess
    from langflow_sluice.simulator.embedding import embed
    from langflow_sluice.simulator.provider import Provider
    from langflow_sluice.simulator.server import serve_in_thread
    from langflow_sluice.simulator.settings import ProviderSettings
    from langflow_sluice.simulator.stats import Call, ProviderStats, fingerprint

__all__ = [
    "Answer",
    "AnswerPolicy",
    "Call",
    "ChatRequest",
    "Provider",
    "ProviderControl",
    "ProviderProcess",
    "ProviderSettings",
    "ProviderStats",
    "ToolCall",
    "default_policy",
    "embed",
    "fingerprint",
    "serve_in_thread",
]

# Names are loaded on first use: running a child process takes no web framework in the parent.
_HOMES = {
    "answers": ("Answer", "AnswerPolicy", "ChatRequest", "ToolCall", "default_policy"),
    "control": ("ProviderControl", "ProviderProcess"),
    "embedding": ("embed",),
    "provider": ("Provider",),
    "server": ("serve_in_thread",),
    "settings": ("ProviderSettings",),
    "stats": ("Call", "ProviderStats", "fingerprint"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
