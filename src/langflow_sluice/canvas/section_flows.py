"""The bundled flows around sections: what Fan-Out and Concurrency Gate run between their output and the edge back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.canvas import parts, safe_flows
from langflow_sluice.canvas.build import Flow

if TYPE_CHECKING:
    from langflow_sluice.canvas.build import Node
    from langflow_sluice.canvas.catalog import Catalog

_PLACES = ("harbour", "library", "town hall", "swimming pool")
_TROUBLES = (
    "the front door does not lock",
    "water comes through the roof",
    "the lights flicker after dark",
    "the clock is ten minutes slow",
    "the heating cannot be turned off",
    "a window on the first floor is broken",
    "the sign points the wrong way",
    "the printer is out of paper again",
)
# Of the body's prompt; the question comes from outside of the body, and the flow's batch hangs on it: through the API
# Langflow runs only what the chat input leads to.
_ABOUT = "Say whether this ticket has to do with what is asked below, yes or no. {ticket}\n\n{question}"
_TICKETS = "\n".join(f"At the {place}, {trouble}." for trouble in _TROUBLES for place in _PLACES)


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
    parser, model = parts.row_text(flow), parts.rate_limited_llm(flow)
    flow.connect(text, "message", split, "data_inputs")
    _lane(flow, split, fan, parser, model, result)
    # The body hangs below the line.
    flow.arrange([[text], [split], [fan], [result, parser], [None, model]])
    flow.note(
        """# Fan-Out over rows

**What it shows.** The nodes between *Item* and the edge that comes back to it are the *body*. Fan-Out runs the body
once for each row, several at a time, and gives the results in the order of the rows. The model in the body stands
behind its guard, so the rows never become more calls at once than the provider takes: no 429, and no row lost or paid
twice.

**Use it.** Send one row a line; try a hundred. *Failed* holds the rows whose body failed, with the reason.

**Look at** the Logs of *Item* (the magnifier beside it), and compare with its twin *Batch Run without a limit*, which
sends every row at once and loses them all at the first error.

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
    flow.arrange([[text], [gate], [result, convert], [None, request]])
    flow.note(
        """# Gate around an internal API

**What it shows.** Any part of a flow can be the bottleneck: a licence for three sessions, an old internal API. The
nodes between *Guarded* and the edge that comes back to it are a *section*: they run while a slot is held, and the
slot comes back whatever happens inside. Runs beyond the limit wait; beyond the queue they are turned away with a
clear error, or leave through *Busy*.

**Look at** the server behind *API Request* while 20 clients call this flow: it never sees more than *Max concurrency*
requests at once.

**Change** the URL of *API Request* to your API; the message arrives there as the parameter text. Replace the
section's nodes by whatever needs protection. *On full* chooses between the error and *Busy*."""
    )
    return flow


def priority_lanes(catalog: Catalog) -> Flow:
    """Two Fan-Outs over Rate-Limited LLM on one guard: questions one by one, and a batch of tickets about them."""
    flow = Flow(
        catalog,
        "priority_lanes",
        name="Priority lanes",
        description="A chat and a batch on one guard: the chat's calls go first, the batch takes what is left.",
        tags=["sluice", "chatbots", "batch"],
    )
    questions = parts.chat_input(flow)
    tickets = flow.add(parts.PROMPT, "tickets", title="Batch of tickets", values={"template": _TICKETS})
    chat_rows = parts.lines(flow, title="One question a line")
    batch_rows = parts.lines(flow, "tickets", title="One ticket a line")
    # One at a time: the next question comes when the last one is answered, as from a person.
    chat = flow.add(parts.FAN_OUT, "chat", title="Chat: one by one", values={"max_concurrency": 1})
    # More at once than the model takes calls, so that there is always a queue to be overtaken.
    batch = flow.add(parts.FAN_OUT, "batch", title="Batch: many at once", values={"max_concurrency": 24})
    first = parts.rate_limited_llm(flow, title="LLM, interactive", values={"priority": "interactive"})
    last = parts.rate_limited_llm(flow, "batch", title="LLM, batch", values={"priority": "batch"})
    question, ticket = parts.row_text(flow, "question"), parts.row_text(flow, "ticket")
    about = flow.add(parts.PROMPT, "about", title="Ticket and question", values={"template": _ABOUT})
    answers, found = parts.chat_output(flow, title="Chat"), parts.chat_output(flow, "batch", title="Batch")
    flow.connect(questions, "message", chat_rows, "data_inputs")
    flow.connect(tickets, "prompt", batch_rows, "data_inputs")
    _lane(flow, chat_rows, chat, question, first, answers)
    flow.connect(batch_rows, "dataframe", batch, "data")
    flow.connect(batch, "item", ticket, "input_data")
    flow.connect(ticket, "parsed_text", about, "ticket")
    flow.connect(questions, "message", about, "question")
    flow.connect(about, "prompt", last, "input_value")
    flow.connect(last, "text_output", batch, "item")
    flow.connect(batch, "done", found, "input_value")
    flow.arrange(
        [
            [questions, None, tickets],
            [chat_rows, None, batch_rows],
            [chat, None, batch],
            [answers, question, found, ticket],
            [None, first, None, about],
            [None, None, None, last],
        ]
    )
    flow.note(
        """# Priority lanes

**What it shows.** Both models use one key, so both stand behind one guard with one cap and one queue. The chat's
calls are *interactive*, the batch's are *batch*: a slot that comes free goes to the chat first. The batch loses no
time otherwise: it has every slot that the chat does not want.

**Use it.** Send a few questions, one a line. They are asked one after the other, as a person would, while a batch
looks through 32 tickets for whatever has to do with them.

**Look at** the Playground: *Chat* answers while *Batch* still works. Then set *Priority* of *LLM, interactive* to
batch too: now each question waits behind all tickets that came before it.

**Change** *Batch of tickets* to your own rows, *Priority* and *Max Concurrency* on the models. The lanes count for all
flows that use the same key: give the nodes in your chat flows *interactive* and those in your nightly flows *batch*."""
    )
    return flow


def fan_out_subflows(catalog: Catalog) -> Flow:
    """Chat Input -> Split Text -> Fan-Out, whose body is Parser -> Run Flow of ``chat_rate_limited``; Chat Output."""
    called = safe_flows.chat_rate_limited(catalog)
    flow = Flow(
        catalog,
        "fan_out_subflows",
        name="Fan-Out over a flow",
        description="Runs another flow on every row, several at a time, in order, and loses none.",
        tags=["sluice", "batch"],
    )
    text, split, result = parts.chat_input(flow), parts.lines(flow), parts.chat_output(flow)
    fan = flow.add(parts.FAN_OUT, "rows", values={"max_concurrency": 12})
    parser, run = parts.row_text(flow), flow.add(parts.RUN_FLOW, "chat", calls=called)
    flow.connect(text, "message", split, "data_inputs")
    _lane(flow, split, fan, parser, run, result, into="ChatInput-in~input_value", out_of="ChatOutput-out~message")
    flow.arrange([[text], [split], [fan], [result, parser], [None, run]])
    flow.note(
        f"""# Fan-Out over a flow

**What it shows.** The body is a whole flow: *Run Flow* calls *{called.name}* once for each row. Twelve of them run
at a time, and the model inside stands behind its guard, which all the runs share with everybody else on this server:
the provider sees no more calls at once than the cap.

**Use it.** Import *{called.name}* too, then send one row a line. *Flow Name* in *Run Flow* finds that flow by its
name, whatever its id on your server. If you have renamed it, or every row ends in *Failed* with "Error running flow":
press the refresh button beside *Flow Name* and choose your flow there. sluice flows install does all this for you.

**Look at** the Logs of *Item* (the magnifier beside it), and at *Failed* for the rows whose flow failed.

**Change** the flow in *Run Flow*, then connect its input and its output again: they carry the names of the nodes
inside it. *Max Concurrency* on Fan-Out is how many flows run at once."""
    )
    return flow


def _lane(
    flow: Flow,
    rows: Node,
    fan: Node,
    parser: Node,
    asked: Node,
    result: Node,
    *,
    into: str = "input_value",
    out_of: str = "text_output",
) -> None:
    """Connects rows to a Fan-Out, its body of a parser and what is asked (a model, unless told), and its result."""
    flow.connect(rows, "dataframe", fan, "data")
    flow.connect(fan, "item", parser, "input_data")
    flow.connect(parser, "parsed_text", asked, into)
    flow.connect(asked, out_of, fan, "item")
    flow.connect(fan, "done", result, "input_value")
