"""Sluice's own errors that are no translation of another's: of guards, pools, sections and inputs."""

from __future__ import annotations

from langflow_sluice.explain.diagnosis import Diagnosis, Recogniser, recogniser
from langflow_sluice.explain.redis import REDIS

SLUICE = "Sluice"
_GUARDED = "the node that names the guard: {}"


def _own(
    code: str,
    name: str,
    happened: str,
    fix: str,
    where: tuple[str, ...],
    *,
    pattern: str = "",
    words: tuple[str, ...] = (),
    dependency: str = SLUICE,
    is_load: bool = True,
    by_short_name: bool = True,
) -> Recogniser:
    by_name = rf"\blangflow_sluice\.[\w.]{{1,80}}\.{name}\b"
    if by_short_name:
        by_name += rf"|^\W{{0,40}}{name}: "
    return recogniser(
        Diagnosis(code, dependency, happened, fix, where, code, is_load),
        f"{by_name}|{pattern}" if pattern else by_name,
        (name.lower(), *words),
    )


# The fixes are the hints of the errors themselves; a test holds them together.
RECOGNISERS: tuple[Recogniser, ...] = (
    _own(
        "bulkhead_full",
        "BulkheadFull",
        "The queue in front of a guard was full, so the call was turned away at once and never sent.",
        "Send less at once, or raise max_queue or max_concurrency.",
        (
            _GUARDED.format("max_queue, max_concurrency"),
            "Concurrency Gate: on_full = busy to answer instead of failing",
        ),
        pattern=r"\bGuard .{1,120} is full: \d",
        words=(" is full: ",),
    ),
    _own(
        "queue_timeout",
        "QueueTimeout",
        "A call waited in a guard's queue for longer than queue_timeout, and was given up before it was sent.",
        "Send less at once, or raise queue_timeout or the limit that is too low.",
        (_GUARDED.format("queue_timeout, max_concurrency, requests_per_minute, tokens_per_minute"),),
        pattern=r"\bGuard .{1,120} had no free slot within ",
        words=("had no free slot within",),
    ),
    _own(
        "circuit_open",
        "CircuitOpen",
        "The service behind a guard failed again and again; the guard sends it nothing for a while.",
        "Look at the service; the guard lets calls through again by itself as soon as one succeeds.",
        ("the errors before this one: they name the service's failure", "Guarded Model: fallback"),
        pattern=r"\bGuard .{1,120} is open: the service behind it failed",
        words=("is open: the service",),
    ),
    _own(
        "cluster_unavailable",
        "ClusterUnavailable",
        "A guard that all workers share could not ask Redis, and turned the call away before it was sent.",
        "Look at Redis; the guard lets calls through again by itself as soon as it answers. With redis_loss local_share"
        " it would go on with this worker's part of the limits.",
        ("SLUICE_REDIS_URL, or the Redis of Langflow's job queue", _GUARDED.format("redis_loss")),
        pattern=r"\bGuard .{1,120} is shared by all workers through Redis at ",
        words=("is shared by all workers",),
        dependency=REDIS,
        is_load=False,
    ),
    _own(
        "deadline_exceeded",
        "DeadlineExceeded",
        "A call was not done within total_timeout, with waiting and retries.",
        "Raise total_timeout, or lower the load on the service behind the guard.",
        (_GUARDED.format("total_timeout, max_retries, max_concurrency"),),
        pattern=r"did not finish within \S{1,20} s \(total_timeout\)",
        words=("(total_timeout)",),
    ),
    _own(
        "pool_timeout",
        "PoolTimeout",
        "No connection of a shared database pool came free within pool_timeout.",
        "Raise pool_size or max_overflow if the database has connections to spare, raise pool_timeout, or let fewer"
        " callers in at once (max_concurrency).",
        (
            "Pooled PG Retriever and Pooled PG Writer: pool_size, max_overflow, pool_timeout, max_concurrency",
            "SLUICE_MAX_DB_CONNECTIONS",
        ),
        # As they begin; httpx and psycopg_pool have an error of the same name.
        pattern=r"\bNo (?:connection|pool) (?:to|for) \S{1,200} (?:came free|could be had) within pool_timeout \("
        r"|\bThe pool of \S{1,200} is full: \d|all that may at a time, and \d{1,9} wait; none came to its end",
        words=("within pool_timeout (", " is full: ", "none came to its end"),
        by_short_name=False,
    ),
    _own(
        "would_block_loop",
        "WouldBlockLoop",
        "A synchronous call on the thread of an event loop would have waited for that very loop.",
        "Call the asynchronous method (ainvoke, astream), or run the call in a worker thread.",
        ("nodes of your own: await model.ainvoke(...) instead of model.invoke(...)",),
        pattern=r"\bA synchronous (?:call would have to wait for guard|search was called on a thread that runs)",
        words=("a synchronous ",),
        is_load=False,
    ),
    _own(
        "no_result",
        "NoResult",
        "A branch inside a section or Fan-Out led nowhere, so there is no result for this item.",
        "Let every branch lead back, or take the failed output for items that lead nowhere.",
        ("Fan-Out or Concurrency Gate: connect the last node of every branch back to it",),
        pattern=r"\bThe section ended without a result: ",
        words=("section ended without a result",),
        is_load=False,
    ),
    _own(
        "tool_timeout",
        "ToolTimeout",
        "A tool gave no answer within tool_timeout.",
        "Raise tool_timeout if the tool is meant to be this slow.",
        ("Guarded Tools: tool_timeout, max_concurrency",),
        pattern=r"gave no answer within \S{1,20} s \(tool_timeout\)",
        words=("(tool_timeout)",),
    ),
    _own(
        "section_error",
        "SectionError",
        "The part of the canvas inside a Concurrency Gate or Fan-Out cannot be run as it is drawn.",
        "The error's last sentence says what to connect or to separate.",
        ("Concurrency Gate or Fan-Out: the edges of its body",),
        is_load=False,
    ),
    _own(
        "invalid_input",
        "InvalidInput",
        "An input of a node or a setting of a guard is wrong.",
        "The error names the field and says what to enter instead.",
        ("the field that the error names",),
        is_load=False,
    ),
)
