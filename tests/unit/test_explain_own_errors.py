"""Sluice's own errors are known by their code wherever they are printed, and the advice is that of the error itself."""

import pytest

from langflow_sluice.errors import (
    BulkheadFull,
    CircuitOpen,
    ClusterUnavailable,
    DeadlineExceeded,
    InvalidInput,
    NoResult,
    PoolTimeout,
    QueueTimeout,
    SectionError,
    WouldBlockLoop,
)
from langflow_sluice.explain.scan import explain_text
from langflow_sluice.guard.guard import Guard
from langflow_sluice.guard.settings import GuardSettings
from langflow_sluice.guard.waiter import Waiter, WaiterState
from langflow_sluice.postgres import pool
from langflow_sluice.testing import ManualClock
from langflow_sluice.tools.tool_calls import ToolTimeout


def turned_away(state):
    guard = Guard("model, with a space", GuardSettings(max_concurrency=1, max_queue=1), clock=ManualClock())
    waiter = Waiter(0, "normal", None)
    waiter.state = state
    return guard.turned_away(waiter)


def late():
    message = (
        "A call through guard 'x' did not finish within 2 s (total_timeout), waiting and 1 failed attempts included."
    )
    return DeadlineExceeded(message, hint="Raise total_timeout, or lower the load on the service behind the guard.")


OWN = [
    (turned_away(WaiterState.REFUSED), BulkheadFull),
    (turned_away(WaiterState.EXPIRED), QueueTimeout),
    (turned_away(WaiterState.BROKEN), CircuitOpen),
    (turned_away(WaiterState.CUT_OFF), ClusterUnavailable),
    (late(), DeadlineExceeded),
    (
        PoolTimeout(
            "No connection to db:5432/rag came free within pool_timeout (5 s): 3 of 3 are in use (pool_size 1,"
            " max_overflow 2), 0 others wait.",
            hint=pool._MORE,
        ),
        PoolTimeout,
    ),
    (
        WouldBlockLoop(
            "A synchronous call would have to wait for guard 'x' on a thread that runs an event loop, and nothing on"
            " that loop could finish meanwhile, the calls it waits for included.",
            hint="Call the asynchronous method (ainvoke, astream), or run the call in a worker thread.",
        ),
        WouldBlockLoop,
    ),
    (
        NoResult(
            "The section ended without a result: Parser did not run for this item.",
            hint="Let every branch lead back, or take the failed output for items that lead nowhere.",
        ),
        NoResult,
    ),
    (
        ToolTimeout(
            "Tool 'search' gave no answer within 3 s (tool_timeout).",
            hint="Raise tool_timeout if the tool is meant to be this slow.",
        ),
        ToolTimeout,
    ),
]


@pytest.mark.parametrize(("error", "kind"), OWN, ids=lambda each: getattr(each, "code", ""))
def test_an_error_of_ours_is_known_by_its_words_and_by_its_name(error, kind):
    assert type(error) is kind
    texts = (
        str(error),
        f"Error building Component Rate-Limited LLM: {error}",
        f"{kind.__module__}.{kind.__qualname__}: {error}",
        f'Traceback (most recent call last):\n  File "x.py", line 1\n{kind.__module__}.{kind.__qualname__}: {error}',
        f"{kind.__name__}: {error}",
    )
    for text in texts:
        root = explain_text(text).root
        assert root is not None, text
        assert root.diagnosis.dependency == ("Redis" if kind is ClusterUnavailable else "Sluice")
        assert (root.diagnosis.cause, root.diagnosis.code) == (kind.code, kind.code)
        assert root.diagnosis.fix == error.hint


@pytest.mark.parametrize(
    "error",
    [
        SectionError("x is not connected.", hint="Connect it."),
        InvalidInput.of("pool_size", 0, "there must be one", fix="Enter 1."),
    ],
    ids=lambda error: error.code,
)
def test_an_error_of_ours_of_many_reasons_is_known_by_its_name_and_points_to_its_own_words(error):
    root = explain_text(f"langflow_sluice.errors.{type(error).__name__}: {error}").root
    assert root.diagnosis.code == error.code
    assert str(error) in root.excerpt


def test_an_open_breaker_follows_from_the_provider_that_failed():
    text = f"httpx.ReadTimeout\n{turned_away(WaiterState.BROKEN)}\n"
    assert {each.diagnosis.cause: each.follows for each in explain_text(text).findings} == {
        "provider_read_timeout": "",
        "circuit_open": "provider_read_timeout",
    }
