"""The bundled flows around guarded services: models, databases, an agent that uses both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.canvas import parts
from langflow_sluice.canvas.build import Flow
from langflow_sluice.canvas.settings import CONNECT_OTHER_MODELS

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

**Look at** the Logs of *Rate-Limited LLM* after a run (the magnifier beside its output): how long it waited, what it
retried, how many were in flight. Call the flow 50 times at once through the API: each call gets its answer, and the
provider sees no more than the cap.

**Change** the advanced settings *Max concurrency* and *Requests per minute* to what your provider allows. The key
comes from the global variable OPENAI_API_KEY; *Base URL* takes any server that speaks OpenAI's protocol."""
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

**Change** the global variables SLUICE_DATABASE_URL (a database with the extension pgvector) and OPENAI_API_KEY,
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

**Look at** SELECT count(*) FROM pg_stat_activity while 20 clients ask at once. Its twin *RAG, stock PGVector* opens
a new engine for every search and keeps it.

**Change** SLUICE_DATABASE_URL, OPENAI_API_KEY, and the pool's size in the retriever's advanced settings. Run
*Ingest documents* first."""
    )
    return flow


def guarded_agent(catalog: Catalog) -> Flow:
    """Chat Input -> Agent, with OpenAI behind Guarded Model and Pooled PG Retriever as its tool -> Chat Output."""
    flow = Flow(
        catalog,
        "guarded_agent",
        name="Guarded agent",
        description="An agent whose model calls go through a guard, and whose searches share one pool of connections.",
        tags=["sluice", "agents", "rag"],
    )
    question, answer = parts.chat_input(flow), parts.chat_output(flow)
    model, guard = parts.guarded_stock_llm(flow)
    embed = parts.embeddings(flow)
    search = flow.add(
        parts.POOLED_PG_RETRIEVER,
        "search",
        title="Search documents (tool)",
        values={"collection_name": parts.COLLECTION},
        variables={"database_url": parts.DATABASE_VARIABLE},
        actions={
            "search_documents": "Finds the passages of our documents that answer a question. Ask a full question."
        },
    )
    agent = flow.add(
        parts.AGENT,
        "agent",
        values={
            "model": CONNECT_OTHER_MODELS,
            "system_prompt": "Answer from our documents: search them before you answer. If they do not say, say so.",
            "add_current_date_tool": False,
            "add_calculator_tool": False,
        },
    )
    flow.connect(embed, "embeddings", search, "embedding")
    flow.connect(question, "message", agent, "input_value")
    flow.connect(guard, "model_output", agent, "model")
    flow.connect(search, "component_as_tool", agent, "tools")
    flow.connect(agent, "response", answer, "input_value")
    flow.arrange([[question, model, embed], [None, guard, search], [agent], [answer]])
    flow.note(
        """# Guarded agent

**What it shows.** An agent asks its model several times for one question, and searches in between. *Guarded Model*
stands in front of the stock *OpenAI* node: each of those calls waits for a slot, and the stock node's own retries are
off, since they would pass the guard by. The tool is *Pooled PG Retriever* in *Tool Mode*: its searches borrow
connections from the one pool that all flows share.

**Look at** the agent's steps in the Playground, then call the flow 20 times at once through the API: the provider sees
no more calls at once than *Max Concurrency* of *Guarded Model*, PostgreSQL no more connections than the pool has.

**Change** the model: any node with a *Language Model* output fits in front of *Guarded Model*. *Actions* on the tool
says what the agent is told of it. Needs OPENAI_API_KEY and SLUICE_DATABASE_URL; run *Ingest documents* first."""
    )
    return flow


def batch_classify(catalog: Catalog) -> Flow:
    """Chat Input -> Split Text -> Guarded Batch Run on the stock OpenAI model -> a Chat Output each for its tables."""
    flow = Flow(
        catalog,
        "batch_classify",
        name="Classify a batch",
        description="Classifies every row of a table with a stock model, and keeps what succeeds when some rows fail.",
        tags=["sluice", "batch"],
    )
    text, split, model = parts.chat_input(flow), parts.lines(flow), parts.stock_llm(flow)
    batch = flow.add(
        parts.GUARDED_BATCH_RUN,
        "rows",
        title="Classify each row",
        values={
            "column_name": "text",
            "output_column_name": "category",
            "system_message": "Classify the message: complaint, question, praise or other. Answer with that word.",
        },
    )
    classified = parts.chat_output(flow, title="Classified rows")
    failed = parts.chat_output(flow, "failed", title="Failed rows")
    flow.connect(text, "message", split, "data_inputs")
    flow.connect(split, "dataframe", batch, "df")
    flow.connect(model, "model_output", batch, "model")
    flow.connect(batch, "batch_results", classified, "input_value")
    flow.connect(batch, "failed", failed, "input_value")
    flow.arrange([[text], [split, model], [batch], [classified, failed]])
    flow.note(
        """# Classify a batch

**What it shows.** A table goes in, the same table comes out with a column more. *Guarded Batch Run* takes the place
of stock *Batch Run*, with the same inputs: it sends a few rows at a time through a guard, tries again what the
provider refuses, and a row that fails for good costs that row alone.

**Use it.** Send one message a line; try a hundred. *Classified rows* has them in their order. *Failed rows* has those
that failed, each with its error and number of attempts; it is an empty table where all went well.

**Look at** the Logs of *Classify each row* (the magnifier beside its output): rows done and failed, tokens used, what
the guard went through. Its twin *Batch Run without a limit* sends all rows at once and loses them all at the first
error.

**Change** the instructions, the column, the model (any node with a *Language Model* output) and *Max Concurrency*.
*Split Text* stands for your table: a file, a query, a spreadsheet. Feed *Failed* into a second run to try those
again."""
    )
    return flow
