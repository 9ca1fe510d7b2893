"""Nodes that several bundled flows use, with the same names and settings in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from langflow_sluice.canvas.catalog import extension_type
from langflow_sluice.canvas.settings import CONNECT_OTHER_MODELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langflow_sluice.canvas.build import Flow, Node

CHAT_MODEL: Final = "gpt-4o-mini"
EMBEDDING_MODEL: Final = "text-embedding-3-small"
COLLECTION: Final = "sluice_documents"
API_KEY_VARIABLE: Final = "OPENAI_API_KEY"
DATABASE_VARIABLE: Final = "SLUICE_DATABASE_URL"

CHAT_INPUT: Final = "ChatInput"
CHAT_OUTPUT: Final = "ChatOutput"
SPLIT_TEXT: Final = "SplitText"
PARSER: Final = "ParserComponent"
PROMPT: Final = "Prompt Template"
BATCH_RUN: Final = "BatchRunComponent"
TYPE_CONVERT: Final = "TypeConverterComponent"
API_REQUEST: Final = "APIRequest"
RUN_FLOW: Final = "RunFlow"
AGENT: Final = "Agent"
OPENAI_MODEL: Final = extension_type("openai", "OpenAIModelComponent")
PGVECTOR: Final = extension_type("pgvector", "PGVectorStoreComponent")
RATE_LIMITED_LLM: Final = extension_type("sluice", "RateLimitedLLMComponent")
RATE_LIMITED_EMBEDDINGS: Final = extension_type("sluice", "RateLimitedEmbeddingsComponent")
GUARDED_MODEL: Final = extension_type("sluice", "GuardedModelComponent")
GUARDED_BATCH_RUN: Final = extension_type("sluice", "GuardedBatchRunComponent")
POOLED_PG_WRITER: Final = extension_type("sluice", "PooledPGWriterComponent")
POOLED_PG_RETRIEVER: Final = extension_type("sluice", "PooledPGRetrieverComponent")
CONCURRENCY_GATE: Final = extension_type("sluice", "ConcurrencyGateComponent")
FAN_OUT: Final = extension_type("sluice", "FanOutComponent")

_ANSWER_PROMPT = """Answer the question from the context alone. If the context does not answer it, say so.

Context:
{context}

Question: {question}

Answer:"""


def chat_input(flow: Flow) -> Node:
    """Adds the node where a message of the Playground or of the API comes in."""
    return flow.add(CHAT_INPUT, "in")


def chat_output(flow: Flow, key: str = "out", title: str | None = None) -> Node:
    """Adds a node whose message the Playground shows and the API returns."""
    return flow.add(CHAT_OUTPUT, key, title=title)


def lines(flow: Flow, key: str = "lines", title: str = "One row a line") -> Node:
    """Adds Split Text, set to make one row of each line of the message."""
    # The splitter joins neighbours up to the chunk size; at 1 it never can. Without clean_output each row would carry
    # the sender, session and timestamp of the chat message as columns.
    values = {"separator": "\\n", "chunk_size": 1, "chunk_overlap": 0, "clean_output": True}
    return flow.add(SPLIT_TEXT, key, title=title, values=values)


def row_text(flow: Flow, key: str = "row") -> Node:
    """Adds a Parser, set to make a message of a row of ``lines``."""
    return flow.add(PARSER, key, title="Row as text", values={"pattern": "{text}"})


def rate_limited_llm(
    flow: Flow, key: str = "llm", title: str | None = None, values: Mapping[str, Any] | None = None
) -> Node:
    """Adds our chat model."""
    return flow.add(
        RATE_LIMITED_LLM,
        key,
        title=title,
        values={"model_name": CHAT_MODEL, **(values or {})},
        variables={"api_key": API_KEY_VARIABLE},
    )


def stock_llm(flow: Flow) -> Node:
    """Adds Langflow's OpenAI model, with its base URL on the face of the node."""
    return flow.add(
        OPENAI_MODEL,
        "llm",
        values={"model_name": CHAT_MODEL},
        variables={"api_key": API_KEY_VARIABLE},
        shown=["openai_api_base"],
    )


def guarded_stock_llm(flow: Flow) -> tuple[Node, Node]:
    """Adds Langflow's OpenAI model and our guard in front of it; returns both, for the layout."""
    model, guard = stock_llm(flow), flow.add(GUARDED_MODEL, "guard")
    flow.connect(model, "model_output", guard, "model")
    return model, guard


def embeddings(flow: Flow) -> Node:
    """Adds our embeddings."""
    return flow.add(
        RATE_LIMITED_EMBEDDINGS,
        "embed",
        values={"model_name": EMBEDDING_MODEL},
        variables={"api_key": API_KEY_VARIABLE},
    )


def batch_run(flow: Flow) -> Node:
    """Adds stock Batch Run over the column that ``lines`` makes, with a handle for its model."""
    values = {
        "model": CONNECT_OTHER_MODELS,
        "column_name": "text",
        "system_message": "Answer in one short sentence.",
    }
    return flow.add(BATCH_RUN, "rows", values=values)


def answer_from(flow: Flow, question: Node, passages: Node, output: str, model: Node) -> tuple[Node, Node]:
    """Adds what turns found passages and a question into an answer, and connects it to ``model``.

    Args:
        flow: The flow.
        question: The chat input.
        passages: The node that searches.
        output: Its output with the passages.
        model: The chat model; its ``input_value`` gets the prompt.

    Returns:
        The parser and the prompt, for the layout.
    """
    parser = flow.add(PARSER, "context", title="Passages", values={"pattern": "{text}", "sep": "\n"})
    prompt = flow.add(PROMPT, "answer", values={"template": _ANSWER_PROMPT})
    flow.connect(passages, output, parser, "input_data")
    flow.connect(parser, "parsed_text", prompt, "context")
    flow.connect(question, "message", prompt, "question")
    flow.connect(prompt, "prompt", model, "input_value")
    return parser, prompt
