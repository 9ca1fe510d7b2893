"""The bundled flows that show Sluice's nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.canvas import parts
from langflow_sluice.canvas.build import Flow

if TYPE_CHECKING:
    from langflow_sluice.canvas.catalog import Catalog


def chat_rate_limited(catalog: Catalog) -> Flow:
    """Chat Input -> Rate-Limited LLM -> Chat Output."""
    flow = Flow(
        catalog,
        "chat_rate_limited",
        name="Rate-limited chat",
        description="A chat whose model calls share one guard with every other flow on this server.",
        tags=["sluice", "chatbots"],
    )
    question, model, answer = parts.chat_input(flow), parts.rate_limited_llm(flow), parts.chat_output(flow)
    flow.connect(question, "message", model, "input_value")
    flow.connect(model, "text_output", answer, "input_value")
    flow.arrange([[question], [model], [answer]])
    flow.note(
        """# Rate-limited chat

**What it shows.** The model sits behind a *guard*: at most so many calls in flight, so many a minute, and a bounded
queue before them. The guard belongs to the credential, not to this node: every flow on this server that calls the
model with the same key waits in the same queue.

**Look at** the status of *Rate-Limited LLM* after a run: how long it waited, what it retried, how many were in
flight. Call the flow 50 times at once through the API: each call gets its answer, and the provider sees no more than
the cap.

**Change** the advanced settings *Max concurrency* and *Requests per minute* to what your provider allows. The key
comes from the global variable `OPENAI_API_KEY`; *Base URL* takes any server that speaks OpenAI's protocol."""
    )
    return flow


def ingest_documents(catalog: Catalog) -> Flow:
    """Chat Input -> Split Text -> Pooled PG Writer, fed by Rate-Limited Embeddings -> Chat Output."""
    flow = Flow(
        catalog,
        "ingest_documents",
        name="Ingest documents",
        description="Writes one document a line into PostgreSQL with pgvector, over a shared pool.",
        tags=["sluice", "rag"],
    )
    documents, split, embed = parts.chat_input(flow), parts.lines(flow), parts.embeddings(flow)
    writer = flow.add(
        parts.POOLED_PG_WRITER,
        "docs",
        values={"collection_name": parts.COLLECTION},
        variables={"database_url": parts.DATABASE_VARIABLE},
    )
    result = parts.chat_output(flow)
    flow.connect(documents, "message", split, "data_inputs")
    flow.connect(split, "dataframe", writer, "ingest_data")
    flow.connect(embed, "embeddings", writer, "embedding")
    flow.connect(writer, "ingest_result", result, "input_value")
    flow.arrange([[documents], [split, embed], [writer], [result]])
    flow.note(
        """# Ingest documents

**What it shows.** Documents go into PostgreSQL in batches, over connections from one pool that all flows share, and
their embeddings are asked for in batches behind a guard.

**Use it.** Send the documents as one message, one document a line. The answer says how many were written, how many
were there already and how long it took. Then ask with *RAG on a shared pool*.

**Change** the global variables `SLUICE_DATABASE_URL` (a database with the extension pgvector) and `OPENAI_API_KEY`,
and the collection's name if you keep several."""
    )
    return flow


def rag_pooled_postgres(catalog: Catalog) -> Flow:
    """Chat Input -> Pooled PG Retriever -> Parser -> Prompt Template -> Rate-Limited LLM -> Chat Output."""
    flow = Flow(
        catalog,
        "rag_pooled_postgres",
        name="RAG on a shared pool",
        description="Answers from the ingested documents, with no more connections than the pool allows.",
        tags=["sluice", "rag"],
    )
    question, embed = parts.chat_input(flow), parts.embeddings(flow)
    search = flow.add(
        parts.POOLED_PG_RETRIEVER,
        "search",
        values={"collection_name": parts.COLLECTION},
        variables={"database_url": parts.DATABASE_VARIABLE},
    )
    model, answer = parts.rate_limited_llm(flow), parts.chat_output(flow)
    flow.connect(question, "message", search, "search_query")
    flow.connect(embed, "embeddings", search, "embedding")
    parser, prompt = parts.answer_from(flow, question, search, "search_results", model)
    flow.connect(model, "text_output", answer, "input_value")
    flow.arrange([[question, embed], [search], [parser], [prompt], [model], [answer]])
    flow.note(
        """# RAG on a shared pool

**What it shows.** Each question searches PostgreSQL over a connection borrowed from one pool, shared by every run on
this server, and creates nothing there. However many questions come at once, the database sees no more connections
than *Pool size* plus *Max overflow*; the rest wait their turn. Embeddings and model stand behind guards.

**Look at** `SELECT count(*) FROM pg_stat_activity` while 20 clients ask at once. Its twin *RAG, stock PGVector* opens
a new engine for every search and keeps it.

**Change** `SLUICE_DATABASE_URL`, `OPENAI_API_KEY`, and the pool's size in the retriever's advanced settings. Run
*Ingest documents* first."""
    )
    return flow


def fan_out_rows(catalog: Catalog) -> Flow:
    """Chat Input -> Split Text -> Fan-Out, whose body is Parser -> Rate-Limited LLM; done -> Chat Output."""
    flow = Flow(
        catalog,
        "fan_out_rows",
        name="Fan-Out over rows",
        description="Runs a model on every row, several at a time, in order, and loses none.",
        tags=["sluice", "batch"],
    )
    text, split, result = parts.chat_input(flow), parts.lines(flow), parts.chat_output(flow)
    # A few more rows at once than the model takes calls: it stays busy while other rows are being prepared.
    fan = flow.add(parts.FAN_OUT, "rows", values={"max_concurrency": 12})
    parser = flow.add(parts.PARSER, "row", title="Row as text", values={"pattern": "{text}"})
    model = parts.rate_limited_llm(flow)
    flow.connect(text, "message", split, "data_inputs")
    flow.connect(split, "dataframe", fan, "data")
    flow.connect(fan, "item", parser, "input_data")
    flow.connect(parser, "parsed_text", model, "input_value")
    flow.connect(model, "text_output", fan, "item")
    flow.connect(fan, "done", result, "input_value")
    # The body hangs below the line from left to right, so that the edge that comes back crosses nothing.
    flow.arrange([[text], [split], [fan], [None, parser], [None, model], [result]])
    flow.note(
        """# Fan-Out over rows

**What it shows.** The nodes between *Item* and the edge that comes back to it are the *body*. Fan-Out runs the body
once for each row, several at a time, and gives the results in the order of the rows. The model in the body stands
behind its guard, so the rows never become more calls at once than the provider takes: no 429, and no row lost or paid
twice.

**Use it.** Send one row a line; try a hundred. *Failed* holds the rows whose body failed, with the reason.

**Look at** the status of *Fan-Out*, and compare with its twin *Batch Run without a limit*, which sends every row at
once and loses them all at the first error.

**Change** *Max concurrency* on Fan-Out (how many bodies run at once), the guard of the model (how many calls), and
*On error*."""
    )
    return flow


def gated_section(catalog: Catalog) -> Flow:
    """Chat Input -> Concurrency Gate around Type Convert -> API Request; done -> Chat Output."""
    flow = Flow(
        catalog,
        "gated_section",
        name="Gate around an internal API",
        description="Lets only so many runs at once through a part of the flow; the others wait their turn.",
        tags=["sluice"],
    )
    text, result = parts.chat_input(flow), parts.chat_output(flow)
    gate = flow.add(parts.CONCURRENCY_GATE, "api")
    convert = flow.add(parts.TYPE_CONVERT, "params", title="Message as parameters", values={"output_type": "JSON"})
    request = flow.add(
        parts.API_REQUEST, "call", values={"url_input": "https://httpbin.org/get"}, shown=["query_params"]
    )
    flow.connect(text, "message", gate, "value")
    flow.connect(gate, "guarded", convert, "input_data")
    flow.connect(convert, "data_output", request, "query_params")
    flow.connect(request, "data", gate, "guarded")
    flow.connect(gate, "done", result, "input_value")
    flow.arrange([[text], [gate], [None, convert], [None, request], [result]])
    flow.note(
        """# Gate around an internal API

**What it shows.** Any part of a flow can be the bottleneck: a licence for three sessions, an old internal API. The
nodes between *Guarded* and the edge that comes back to it are a *section*: they run while a slot is held, and the
slot comes back whatever happens inside. Runs beyond the limit wait; beyond the queue they are turned away with a
clear error, or leave through *Busy*.

**Look at** the server behind *API Request* while 20 clients call this flow: it never sees more than *Max concurrency*
requests at once.

**Change** the URL of *API Request* to your API; the message arrives there as the parameter `text`. Replace the
section's nodes by whatever needs protection. *On full* chooses between the error and *Busy*."""
    )
    return flow
