"""What a foreign error means: which dependency, what happened, what to change.

One place translates the errors of httpx and openai. The original texts are not passed on: a provider's message may
quote the prompt or part of the key.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import (
    UpstreamError,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from langflow_sluice.guard.waiter import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langflow_sluice.errors import SluiceError

_TOO_MANY_REQUESTS = 429
_UNAVAILABLE = 503
_REQUEST_TIMEOUT = 408
_CONFLICT = 409
_SUCCESSES = range(100, 300)
_SERVER_ERRORS = range(500, 600)

_PHASES = {
    "ConnectTimeout": ("could not be connected to", "connect_timeout"),
    "ReadTimeout": ("sent nothing", "read_timeout"),
    "WriteTimeout": ("took nothing", "read_timeout"),
    "PoolTimeout": ("had no free connection in the client's pool", "max_concurrency"),
}

_NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})


@dataclass(frozen=True, slots=True)
class Failure:
    """A foreign error, understood.

    Attributes:
        error: What to raise to the user.
        retryable: Whether the same request may succeed later.
        service_fault: Whether it speaks against the service's health, not against this request.
        retry_after_s: Seconds for which the service asked to be left alone, if it did.
        reached: Whether the service has worked on the request, so that it counts against its budgets.
    """

    error: SluiceError
    retryable: bool
    service_fault: bool
    retry_after_s: float | None = None
    reached: bool = True

    @property
    def outcome(self) -> Outcome:
        """What it tells the guard about the service."""
        if isinstance(self.error, UpstreamTimeout):
            return Outcome.TIMEOUT
        if self.service_fault:
            return Outcome.FAULT
        return Outcome.OVERLOADED if isinstance(self.error, UpstreamThrottled) and self.retryable else Outcome.OK


def diagnose_http(error: Exception, resource: str, *, now: float | None = None) -> Failure | None:
    """Translates an error of httpx or openai; None for any other.

    Args:
        error: What the client raised.
        resource: The service's name for messages, without credentials (``api.openai.com``).
        now: Unix time against which a ``Retry-After`` date counts; the present if not given.
    """
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    # An answer of 200 that cannot be parsed brings its response along too; that status tells nothing.
    if isinstance(status, int) and status not in _SUCCESSES:
        headers = getattr(response, "headers", None) or {}
        return _from_status(status, headers, _fields_of(error), resource, now)
    if not _is_foreign(error):
        return None
    cause = _transport_error(error)
    name = type(cause).__name__
    if name in _PHASES:
        what, setting = _PHASES[name]
        msg = f"{resource} {what} within the timeout ({setting})."
        hint = f"Raise {setting} if the service is meant to be this slow, or send it less at once."
        return Failure(
            UpstreamTimeout(msg, hint=hint), retryable=True, service_fault=True, reached=name not in _NEVER_SENT
        )
    if _is_of(cause, "httpx", "TransportError") or _is_of(error, "openai", "APIConnectionError"):
        msg = f"{resource} could not be reached or broke the connection off ({name})."
        hint = "Check base_url, the network and whether the service is up."
        return Failure(
            UpstreamUnavailable(msg, hint=hint), retryable=True, service_fault=True, reached=name not in _NEVER_SENT
        )
    if _is_of(error, "openai", "APIError") and status is None:
        # The SDK raises its base class for an error event in the middle of a stream.
        msg = f"{resource} ended its answer with an error{_told(_fields_of(error))}."
        return Failure(
            UpstreamError(msg, hint="Look at the service's status, then try again."),
            retryable=False,
            service_fault=True,
        )
    msg = f"{resource} sent an answer that cannot be used ({name})."
    hint = "Check that base_url is the API's root (it usually ends in /v1) and not a web page or a proxy's error."
    return Failure(UpstreamError(msg, hint=hint), retryable=False, service_fault=False)


def _from_status(
    status: int, headers: Mapping[str, str], fields: Mapping[str, str], resource: str, now: float | None
) -> Failure:
    told = _told(fields)
    wait_s = retry_after(headers, now=now)
    if status == _TOO_MANY_REQUESTS and fields.get("code") == "insufficient_quota":
        msg = f"{resource} answered 429: the account's quota is used up{told}."
        hint = "Waiting does not help: check the plan and the billing of the account that the key belongs to."
        return Failure(UpstreamThrottled(msg, hint=hint), retryable=False, service_fault=False)
    if status == _TOO_MANY_REQUESTS or (status == _UNAVAILABLE and wait_s is not None):
        msg = f"{resource} answered {status}: it takes no more requests now{told}."
        hint = "Lower max_concurrency or requests_per_minute of the guard to what the service allows."
        return Failure(
            UpstreamThrottled(msg, hint=hint), retryable=True, service_fault=False, retry_after_s=wait_s, reached=False
        )
    if status in _SERVER_ERRORS or status == _REQUEST_TIMEOUT:
        msg = f"{resource} answered {status}: the service itself failed{told}."
        return Failure(
            UpstreamUnavailable(msg, hint="Look at the service's status; retries have been used up."),
            retryable=True,
            service_fault=True,
        )
    hints = {
        400: "Check the model's parameters: temperature, max_tokens, tools, response format.",
        401: "Check api_key: it is missing, wrong or expired.",
        403: "The key may not use this model or endpoint: check its permissions.",
        404: "Check model_name and base_url: the model or the path does not exist there.",
    }
    hint = hints.get(status, "Check the parameters of the request.")
    return Failure(
        UpstreamRefused(f"{resource} answered {status}: it refuses this request{told}.", hint=hint),
        retryable=status == _CONFLICT,
        service_fault=False,
    )


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds to wait by the headers of an answer, or None.

    Reads ``retry-after-ms`` (OpenAI), then ``Retry-After`` as seconds or as an HTTP date (RFC 9110, section 10.2.3).
    """
    seconds = _number(headers.get("retry-after-ms"))
    if seconds is not None:
        return max(0.0, seconds / 1000)
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None:
        return max(0.0, seconds)
    if not text:
        return None
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=dt.timezone.utc)
    if now is None:
        now = time.time()
    return max(0.0, when.timestamp() - now)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _told(fields: Mapping[str, str]) -> str:
    return f" ({', '.join(f'{name}: {value}' for name, value in fields.items())})" if fields else ""


def _fields_of(error: Exception) -> dict[str, str]:
    """The machine-readable fields of an OpenAI error; never its message, which may quote the prompt or the key."""
    body: Any = getattr(error, "body", None)
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        body = body["error"]
    if not isinstance(body, dict):
        return {}
    found = {name: body.get(name) for name in ("code", "type", "param")}
    return {name: value for name, value in found.items() if isinstance(value, str) and len(value) < 64}  # noqa: PLR2004


def _transport_error(error: Exception) -> BaseException:
    """The innermost httpx error: openai wraps it, and its class names the phase."""
    found: BaseException = error
    step: BaseException | None = error
    while step is not None:
        if type(step).__module__.startswith("httpx"):
            found = step
            break
        step = step.__cause__
    return found


def _is_foreign(error: Exception) -> bool:
    # By all bases: langchain-openai raises subclasses of openai's errors.
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(modules & {"httpx", "httpcore", "openai"}) or isinstance(error, json.JSONDecodeError)


def _is_of(error: BaseException, package: str, name: str) -> bool:
    return any(kind.__name__ == name and kind.__module__.startswith(package) for kind in type(error).__mro__)
