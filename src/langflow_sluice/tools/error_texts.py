"""What an agent's model is told of a tool's call that failed: what happened, and whether to try again.

The texts hold no arguments. A tool's own error message is passed on, as Langflow's agent does; keys in the queries of
URLs, which HTTP clients put into their messages, are not.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import CircuitOpen, QueueTimeout, SluiceError
from langflow_sluice.failures import Failure, diagnose_http
from langflow_sluice.tools.tool_calls import ToolTimeout

if TYPE_CHECKING:
    from collections.abc import Collection

    from langflow_sluice.guard import Guard

# A page that a service answered with instead of an error would fill the model's context.
MAX_MESSAGE = 2000

_OTHERWISE = "or go on without it"
_QUERY = re.compile(r"\?[\w.~%\[\]-]+=[^\s'\"<>)]*")
# What HTTP clients raise of an address that is none, as models make them up: no service has failed.
_BAD_REQUESTS = frozenset(
    {"InvalidSchema", "InvalidURL", "LocalProtocolError", "LocationParseError", "MissingSchema", "UnsupportedProtocol"}
)
_MAX_CAUSES = 8


def diagnose_tool(error: Exception, resource: str = "The service") -> Failure | None:
    """What a tool's error says about the service behind it, or None where it comes from the tool itself.

    Langflow's tools wrap what their HTTP clients raise, so its causes count as well.

    Args:
        error: What the tool raised.
        resource: The service's name for the message.
    """
    if isinstance(error, ToolTimeout):
        return Failure(error, retryable=True, service_fault=True)
    step: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if not isinstance(step, Exception) or isinstance(step, SluiceError):
            return None  # a guarded model or pool inside the tool has told its own guard
        if type(step).__name__ in _BAD_REQUESTS:
            return None
        if not isinstance(step, json.JSONDecodeError):  # a tool parses its arguments and files as JSON too
            failure = diagnose_http(step, resource)
            if failure is not None:
                return failure
        step = step.__cause__
    return None


def turned_away(tool: str, guard: Guard, error: SluiceError) -> str:
    """For a call that the tool's guard did not admit."""
    if isinstance(error, CircuitOpen):
        return (
            f"The tool {tool!r} is out of service: its last calls failed. It is tried again in "
            f"{_seconds(error.retry_in_s)}; go on without it until then."
        )
    running, waiting = guard.admission.in_flight, sum(guard.admission.waiting().values())
    load = f"{running} {'call is' if running == 1 else 'calls are'} running and {waiting} waiting"
    paused_s = guard.admission.paused_until - guard.clock.now()
    if paused_s > 0:
        return (
            f"The tool {tool!r} is busy: its service takes no calls for now ({load}). Try again in "
            f"{_seconds(paused_s)} {_OTHERWISE}."
        )
    if isinstance(error, QueueTimeout):
        limit = f"within {guard.settings.queue_timeout_s:g} s" if guard.settings.queue_timeout_s else "in time"
        return (
            f"The tool {tool!r} is busy: this call's turn did not come {limit}; {load}. Go on without it, or try "
            f"again later."
        )
    return f"The tool {tool!r} is busy: {load}. Try again in a few seconds {_OTHERWISE}."


def wrong_arguments(tool: str, error: Any, known: Collection[str]) -> str:
    """For arguments that do not fit the tool's schema; the tool has not been called.

    Args:
        tool: Its name.
        error: A validation error of pydantic 2 or 1.
        known: The arguments that a model sees; injected ones are none of its business.
    """
    try:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    except TypeError:  # pydantic 1
        problems = error.errors()
    told = [
        f"{'.'.join(str(step) for step in problem['loc'])}: {problem['msg']}"
        for problem in problems
        if problem["loc"] and (problem["loc"][0] in known or problem["type"].startswith("extra"))
    ]
    which = f" ({'; '.join(told)})" if told else ""
    return f"The tool {tool!r} was not called: its arguments do not fit{which}. Correct them and call it again."


def too_late(tool: str, timeout_s: float) -> str:
    """For a call without an answer in time."""
    return (
        f"The tool {tool!r} gave no answer within {timeout_s:g} s and was given up. It may take effect all the same: "
        f"repeat the call only if it changes nothing, {_OTHERWISE}."
    )


def failed(tool: str, error: Exception) -> str:
    """For a call that came to no good end."""
    failure = diagnose_tool(error, f"The service behind tool {tool!r}")
    if failure is None:
        message = _QUERY.sub("?...", str(error).strip() or type(error).__name__)
        if len(message) > MAX_MESSAGE:
            message = message[:MAX_MESSAGE] + "..."
        return f"The tool {tool!r} failed: {message}"
    if not failure.retryable:
        advice = f"The same call will fail again: call it with other arguments, {_OTHERWISE}."
    elif failure.retry_after_s:
        advice = f"Try again in {_seconds(failure.retry_after_s)} {_OTHERWISE}."
    else:
        advice = f"Try again in a few seconds {_OTHERWISE}."
    return f"{failure.error.message} {advice}"


def _seconds(seconds: float) -> str:
    return f"{max(1, math.ceil(seconds))} s"
