"""The unsafe twins: the same jobs built as one would build them from stock nodes, to measure against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.canvas import parts
from langflow_sluice.canvas.build import Flow

if TYPE_CHECKING:
    from langflow_sluice.canvas.catalog import Catalog

_TAGS = ["sluice", "unsafe"]


def batch_run_unbounded(catalog: Catalog) -> Flow:
    """Chat Input -> Split Text -> Batch Run, fed by the OpenAI model -> Chat Output; twin of ``fan_out_rows``."""
    flow = Flow(
        catalog,
        "batch_run_unbounded",
        name="Batch Run without a limit (unsafe)",
        description="Stock Batch Run sends every row at once; one error loses them all.",
        tags=_TAGS,
    )
    text, split, model = parts.chat_input(flow), parts.lines(flow), parts.stock_llm(flow)
    batch, result = parts.batch_run(flow), parts.chat_output(flow)
    flow.connect(text, "message", split, "data_inputs")
    flow.connect(split, "dataframe", batch, "df")
    flow.connect(model, "model_output", batch, "model")
    flow.connect(batch, "batch_results", result, "input_value")
    flow.arrange([[text], [split, model], [batch], [result]])
    flow.note(
        """# Unsafe: Batch Run without a limit

**What it shows.** Stock *Batch Run* hands every row to the model at once. With more rows than the provider has slots,
most calls are answered 429, each retries on its own, and when one runs out of retries the whole run fails: no row is
kept, all of them are paid for.

**Look at** the provider's count of requests after sending a hundred lines, one row each.

**Instead** use *Fan-Out over rows*: the same rows, as many calls as the provider takes, every row kept.""",
        colour="rose",
    )
    return flow


def rag_pgvector(catalog: Catalog) -> Flow:
    """Chat Input -> stock PGVector -> Parser -> Prompt -> OpenAI -> Chat Output; twin of ``rag_pooled_postgres``."""
    flow = Flow(
        catalog,
        "rag_pgvector",
        name="RAG, stock PGVector (unsafe)",
        description="Stock PGVector opens a new engine for every search and never closes it.",
        tags=_TAGS,
    )
    question, embed = parts.chat_input(flow), parts.embeddings(flow)
    search = flow.add(
        parts.PGVECTOR,
        "search",
        values={"collection_name": parts.COLLECTION},
        variables={"pg_server_url": parts.DATABASE_VARIABLE},
    )
    model, answer = parts.stock_llm(flow), parts.chat_output(flow)
    flow.connect(question, "message", search, "search_query")
    flow.connect(embed, "embeddings", search, "embedding")
    parser, prompt = parts.answer_from(flow, question, search, "search_results", model)
    flow.connect(model, "text_output", answer, "input_value")
    flow.arrange([[question, embed], [search], [parser], [prompt], [model], [answer]])
    flow.note(
        """# Unsafe: RAG on stock PGVector

**What it shows.** Stock *PGVector* makes a new engine for each search, runs `CREATE EXTENSION` and `CREATE TABLE`,
and never gives the connection back. Twenty clients at once use up PostgreSQL's connections; then this flow and every
other client of that database fails with "too many clients already".

**Look at** `SELECT count(*) FROM pg_stat_activity` while it runs. Only on a database that you can spare.

**Instead** use *RAG on a shared pool*. The embeddings here are Sluice's, so that the search alone differs.""",
        colour="rose",
    )
    return flow
