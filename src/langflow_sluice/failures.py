"""What a foreign error means: which dependency, what happened, what to change.

One place translates the errors of httpx and of the providers' SDKs. The original texts are not passed on: a provider's
message may quote the prompt or part of the key.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import (
    SluiceError,
    UpstreamError,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from langflow_sluice.guard.waiter import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TOO_MANY_REQUESTS = 429
_UNAVAILABLE = 503
_REQUEST_TIMEOUT = 408
_CONFLICT = 409
_OVERLOADED = 529  # Anthropic's own
_REFUSALS = range(300, 600)
_LONGEST_FIELD = 64
_SERVER_ERRORS = range(500, 600)

_PHASES = {
    "ConnectTimeout": ("could not be connected to", "connect_timeout"),
    "ReadTimeout": ("sent nothing", "read_timeout"),
    "WriteTimeout": ("took nothing", "write_timeout"),
}
_POOL_TIMEOUT = "PoolTimeout"

# The SDKs of model providers and what they send with; LangChain's integrations wrap their errors in their own.
_CLIENTS = frozenset(
    {"httpx", "httpcore", "openai", "anthropic", "ollama", "groq", "cohere", "mistralai", "google", "botocore"}
    | {"requests", "urllib3", "aiohttp", "grpc"}
)
_INTEGRATIONS = "langchain_"
_BUSY_TYPES = frozenset({"overloaded_error", "rate_limit_error", "rate_limit_exceeded", "throttlingException"})
# In the middle of a stream, of the SDKs made by Stainless, of Ollama and of botocore.
_CUT_SHORT = frozenset({"APIError", "ResponseError", "EventStreamError"})

# Of the SDKs made by Stainless, of Python and requests, aiohttp and botocore.
_CONNECTION_ERRORS = frozenset({"APIConnectionError", "ConnectionError", "ClientConnectionError", "HTTPClientError"})
_NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout"})


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
    """Translates an error of a provider's SDK or HTTP client; None for any other.

    Args:
        error: What the client raised.
        resource: The service's name for messages, without credentials (``api.openai.com``).
        now: Unix time against which a ``Retry-After`` date counts; the present if not given.
    """
    fields = _fields_of(error)
    status = _status_of(error)
    if status is not None:
        return _from_status(status, _headers_of(error), fields, resource, now)
    if not _is_foreign(error):
        return None
    if _is_of(error, "openai", "APIResponseValidationError") or isinstance(error, json.JSONDecodeError):
        return _unusable(resource, type(error).__name__)
    if _BUSY_TYPES & {fields.get("type"), fields.get("code")}:
        # An error event in the middle of a stream, or an error in the body of an answer with status 200.
        return _from_status(_TOO_MANY_REQUESTS, {}, fields, resource, now)
    return _from_transport(error, fields, resource)


def _from_transport(error: Exception, fields: Mapping[str, str], resource: str) -> Failure:
    cause = _transport_error(error)
    names = [kind.__name__ for kind in type(cause).__mro__]
    name = names[0]
    if _POOL_TIMEOUT in names:
        msg = f"{resource} was not asked: no connection of the HTTP client's own pool came free in time."
        hint = (
            "Let fewer calls in at once (max_concurrency of the guard), so that they wait in its queue and not in the"
            " client, or give the client a larger pool."
        )
        return Failure(UpstreamTimeout(msg, hint=hint), retryable=True, service_fault=True, reached=False)
    phase = next((each for each in names if each in _PHASES), "")
    if phase or isinstance(cause, (TimeoutError, asyncio.TimeoutError)):
        what, setting = _PHASES[phase or "ReadTimeout"]
        msg = f"{resource} {what} within the timeout ({setting})."
        # A guarded model of another node has its timeout there.
        whose = f"{setting} (of a stock model: its node's timeout)"
        hint = f"Raise {whose} if the service is meant to be this slow, or send it less at once."
        return Failure(
            UpstreamTimeout(msg, hint=hint), retryable=True, service_fault=True, reached=phase not in _NEVER_SENT
        )
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if _is_of(cause, "httpx", "TransportError") or _CONNECTION_ERRORS & {*kinds, *names}:
        msg = f"{resource} could not be reached or broke the connection off ({name})."
        hint = "Check base_url, the network and whether the service is up."
        return Failure(
            UpstreamUnavailable(msg, hint=hint), retryable=True, service_fault=True, reached=name not in _NEVER_SENT
        )
    if _CUT_SHORT & kinds or isinstance(error, ValueError):
        # The SDKs raise their base class for an error event in the middle of a stream; langchain-openai a ValueError
        # for an answer that holds an error.
        msg = f"{resource} ended its answer with an error{_told(fields)}."
        return Failure(
            UpstreamError(msg, hint="Look at the service's status, then try again."),
            retryable=False,
            service_fault=True,
        )
    return _unusable(resource, name)


def _unusable(resource: str, name: str) -> Failure:
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
    if status in {_TOO_MANY_REQUESTS, _OVERLOADED} or (status == _UNAVAILABLE and wait_s is not None):
        msg = f"{resource} answered {status}: it takes no more requests now{told}."
        hint = "Lower max_concurrency or requests_per_minute of the guard to what the service allows."
        return Failure(
            UpstreamThrottled(msg, hint=hint), retryable=True, service_fault=False, retry_after_s=wait_s, reached=False
        )
    if status in _SERVER_ERRORS or status == _REQUEST_TIMEOUT:
        msg = f"{resource} answered {status}: the service itself failed{told}."
        hint = "Look at the service's status; if it fails only now and then, raise max_retries."
        return Failure(UpstreamUnavailable(msg, hint=hint), retryable=True, service_fault=True)
    hints = {
        400: "Check the model's parameters: temperature, max_tokens, tools, response format.",
        401: "Check api_key: it is missing, wrong or expired.",
        403: "The key may not use this model or endpoint: check its permissions.",
        404: "Check model_name and base_url: the model or the path does not exist there.",
    }
    hint = hints.get(status, "Check the parameters of the request.")
    return Failure(
        UpstreamRefused(f"{resource} answered {status}: it refuses this request{told}.", hint=hint, status=status),
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
    """The machine-readable fields of a provider's error; never its message, which may quote the prompt or the key."""
    body = _body_of(error)
    found = {name: body.get(name) for name in ("code", "type", "param")}
    fields = {name: value for name, value in found.items() if isinstance(value, str)}
    constraint = _constraint(str(body.get("message") or ""))
    if constraint:
        fields["reason"] = constraint
    return {name: value for name, value in fields.items() if len(value) < _LONGEST_FIELD}


def _body_of(error: Exception) -> Mapping[str, Any]:
    body: Any = getattr(error, "body", None)
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict) and isinstance(response.get("Error"), dict):  # botocore
        body = {"code": response["Error"].get("Code"), "message": response["Error"].get("Message")}
    if body is None and type(error) is ValueError and error.args:
        body = error.args[0]  # langchain-openai, for an answer of 200 with an error in its body
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        body = body["error"]
    return body if isinstance(body, dict) else {}


def _constraint(message: str) -> str:
    """The phrase, if a provider's message has one, by which Langflow knows what to leave out of the next request.

    Langflow sends a request again without a parameter that the model does not know, if it finds such a phrase in the
    error's text; the phrases are its own, so that nothing of the message is passed on.
    """
    if not message:
        return ""
    try:
        from lfx.base.models.model_remediation import REMEDIATIONS
    except ImportError:
        return ""
    text = message.lower()
    return next((marker for each in REMEDIATIONS for marker in each.markers if marker in text), "")


def _status_of(error: Exception) -> int | None:
    """The HTTP status of a refusal, by whichever name an SDK gives it; None if there was none."""
    for step in _causes(error):
        response: Any = getattr(step, "response", None)
        if isinstance(response, dict):  # botocore
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            found = getattr(step, "status_code", None) or getattr(response, "status_code", None)
        if found is None and _is_foreign(step):
            found = getattr(step, "code", None)  # Google
        # An answer of 200 that cannot be parsed brings its response along too; that status tells nothing.
        if isinstance(found, int) and not isinstance(found, bool) and found in _REFUSALS:
            return int(found)
    code = _body_of(error).get("code")
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    return code if isinstance(code, int) and code in _REFUSALS else None


def _headers_of(error: Exception) -> Mapping[str, str]:
    for step in _causes(error):
        response: Any = getattr(step, "response", None)
        found: Any = getattr(response, "headers", None) or getattr(step, "headers", None)
        if isinstance(response, dict):
            found = response.get("ResponseMetadata", {}).get("HTTPHeaders")
        if found:
            headers: Mapping[str, str] = found
            return headers
    return {}


def _causes(error: Exception) -> Iterator[Exception]:
    """The error and, where it is an SDK's or an integration's own, what it was raised from."""
    step: BaseException | None = error
    while isinstance(step, Exception) and not isinstance(step, SluiceError):
        yield step
        if not _is_foreign(step):
            return
        step = step.__cause__


def _transport_error(error: Exception) -> BaseException:
    """The innermost error of httpx or of the connection: the SDKs wrap it, and its class names the phase."""
    steps = list(_causes(error))
    return next((step for step in steps if type(step).__module__.startswith("httpx")), steps[-1])


def _is_foreign(error: BaseException) -> bool:
    # By all bases: langchain-openai raises subclasses of openai's errors.
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return (
        bool(modules & _CLIENTS)
        or any(module.startswith(_INTEGRATIONS) and module != "langchain_core" for module in modules)
        or isinstance(error, (json.JSONDecodeError, ConnectionError, TimeoutError, asyncio.TimeoutError))
        or (type(error) is ValueError and bool(error.args) and bool(_body_of(error)))
    )


def _is_of(error: BaseException, package: str, name: str) -> bool:
    return any(kind.__name__ == name and kind.__module__.startswith(package) for kind in type(error).__mro__)
