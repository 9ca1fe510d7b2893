"""Errors of model providers and of the HTTP clients that their SDKs use."""

from __future__ import annotations

import httpx

from langflow_sluice.explain.diagnosis import Diagnosis, Recogniser, diagnosed, own_words, recogniser
from langflow_sluice.failures import Failure, diagnose_http

PROVIDER = "model provider"
_RESOURCE = "The provider"
_LIMITS = "Rate-Limited LLM, Rate-Limited Embeddings or Guarded Model: {}"
_TIMEOUTS = "Rate-Limited LLM or Rate-Limited Embeddings: {}; of a stock model its own Timeout"
_LONGER_THAN = "This is no load problem: the same request fails every time, also alone."


class _Answer(Exception):
    """An answer with an error status, as the SDKs' errors carry it."""

    def __init__(self, status: int, code: str | None = None) -> None:
        super().__init__(status)
        self.status_code = status
        self.body = {"code": code}


def _told(error: Exception) -> Failure:
    failure = diagnose_http(error, _RESOURCE)
    assert failure is not None, error  # noqa: S101 - of our own making, see the test of the table
    return failure


def _recogniser(
    cause: str,
    error: Exception,
    where: tuple[str, ...],
    pattern: str,
    words: tuple[str, ...],
    *,
    more: str = "",
    vague: bool = False,
    is_load: bool = True,
    with_own: bool = True,
) -> Recogniser:
    failure = _told(error).error
    own = own_words(failure, _RESOURCE, f" ({type(error).__name__})", " (code: ") if with_own else ""
    diagnosis = diagnosed(cause, PROVIDER, failure, where, more=more, is_load=is_load)
    return recogniser(diagnosis, pattern, words, own=own, vague=vague)


def _timeout(phase: str, error: Exception, where: str, pattern: str, words: tuple[str, ...]) -> Recogniser:
    # By the full name; without the module as rich prints it at the start of a line; or as httpcore's debug log has it.
    name = type(error).__name__
    pattern = rf"\b(?:httpx2?|httpcore)\.{name}\b|^\W{{0,40}}{name}(?:: |\W{{0,20}}$)|exception={name}\(|{pattern}"
    return _recogniser(f"provider_{phase}_timeout", error, (where,), pattern, (name.lower(), *words))


_TOO_LONG = recogniser(
    Diagnosis(
        "context_length_exceeded",
        PROVIDER,
        "The prompt, together with the answer's max_tokens, is longer than the model's context.",
        f"Send less: fewer or shorter documents, a shorter chat history, a smaller max_tokens. {_LONGER_THAN}",
        (
            "Pooled PG Retriever: number_of_results; Split Text: Chunk Size",
            "Agent or Message History: number of messages",
            "Rate-Limited LLM: max_tokens, or a model_name with a longer context",
        ),
        code="upstream_refused",
        is_load=False,
    ),
    r"\bcontext_length_exceeded\b|maximum context length (?:is|of) \d|prompt is too long: \d{1,9} tokens"
    r"|exceeds? the (?:model'?s? )?(?:maximum )?context (?:window|limit|length)"
    r"|input token count .{0,60}exceeds the maximum number of tokens",
    (
        "context_length_exceeded",
        "maximum context length",
        "prompt is too long",
        "context window",
        "context limit",
        "context length",
        "input token count",
    ),
)
_TOO_LARGE = recogniser(
    Diagnosis(
        "request_above_the_rate_limit",
        PROVIDER,
        "One request asks for more tokens than the account may use in a whole minute; the provider answers 429.",
        f"Send less in one request, or ask the provider for a higher limit. {_LONGER_THAN}",
        ("Rate-Limited LLM: max_tokens; number_of_results and Chunk Size of what fills the prompt",),
        code="upstream_throttled",
        is_load=False,
    ),
    r"request too large for .{0,200}\btokens per (?:min|day)",
    ("request too large for",),
)
_QUOTA = _recogniser(
    "provider_quota",
    _Answer(429, "insufficient_quota"),
    ("the account at the provider: plan, billing, spending limit", "api_key: that of another account"),
    r"\binsufficient_quota\b|billing_hard_limit_reached|credit balance is too low|\bInsufficient Balance\b"
    r"|\bRESOURCE_EXHAUSTED\b.{0,1000}PerDay|\bPerDayPer.{0,1000}\bRESOURCE_EXHAUSTED\b"
    r"|exceeded your current quota, please check your plan and billing details(?!.{0,200}ai\.google\.dev)",
    (
        "insufficient_quota",
        "billing_hard_limit_reached",
        "credit balance is too low",
        "insufficient balance",
        "resource_exhausted",
        "exceeded your current quota",
    ),
    is_load=False,
)
_THROTTLING = (
    _LIMITS.format("max_concurrency, requests_per_minute, tokens_per_minute, adaptive"),
    "Guarded Batch Run or Fan-Out: max_concurrency",
)
_EXHAUSTED = _recogniser(
    "provider_resource_exhausted",
    _Answer(429),
    (*_THROTTLING, "the project's quotas at Google, if it does not pass with less traffic"),
    # gRPC uses the same status for a message that is too large.
    r"\bRESOURCE_?EXHAUSTED\b(?!.{0,200}message larger than max)|Resource (?:has been )?exhausted ?[.(]"
    r"|exceeded your current quota, please check your plan and billing details.{0,200}ai\.google\.dev",
    (
        "resource_exhausted",
        "resourceexhausted",
        "resource has been exhausted",
        "resource exhausted",
        "exceeded your current quota",
    ),
    more="Google says the same when the quota of a day is used up: then waiting for a minute does not help.",
    with_own=False,
)
_OVERLOADED = _recogniser(
    "provider_overloaded",
    _Answer(529),
    (*_THROTTLING, "Guarded Model: fallback, fallback_after, max_retries"),
    r"\boverloaded_error\b|\bOverloadedError\b|Error code: 529\b|\b529 (?:\{|Overloaded)|\(HTTP 529\)"
    r"|model is (?:currently )?overloaded|engine is currently overloaded",
    ("overloaded", "529"),
    more="The provider itself is short of capacity: it passes without you, and fewer calls at once pass sooner.",
)
_THROTTLED = _recogniser(
    "provider_throttled",
    _Answer(429),
    _THROTTLING,
    r"Error code: 429\b|\bRateLimitError\b|\brate_limit_(?:error|exceeded)\b|Rate limit reached for\b"
    r"|\b429 (?:Client Error|Too Many Requests|Rate limit)|status(?:[ _]?code)?['\"]?\W{1,3}429\b"
    r"|\bThrottlingException\b|would exceed (?:the|your) (?:organization's )?rate limit|\bRateLimitReached\b",
    ("429", "ratelimit", "rate_limit_", "rate limit", "throttlingexception"),
)
_CREDENTIAL = _recogniser(
    "provider_credential",
    _Answer(401),
    ("Rate-Limited LLM or the stock model: api_key", "Settings > Global Variables: the key's variable"),
    r"\binvalid_api_key\b|Incorrect API key provided|\bAuthenticationError: Error code: 401\b|Error code: 401\b"
    r"|invalid x-api-key|API key not valid",
    ("invalid_api_key", "incorrect api key", "error code: 401", "x-api-key", "api key not valid"),
    is_load=False,
)
_MISSING = _recogniser(
    "provider_unknown_model",
    _Answer(404),
    ("Rate-Limited LLM or the stock model: model_name, base_url",),
    r"\bmodel_not_found\b|\bNotFoundError: Error code: 404\b"
    r"|model ['\"`][^'\"`]{1,100}['\"`] (?:does not exist|not found)",
    ("model_not_found", "error code: 404", "does not exist", "not found"),
    is_load=False,
)
_FAILED = _recogniser(
    "provider_failed",
    _Answer(503),
    ("Guarded Model: max_retries, fallback, fallback_after", "the service's status page"),
    r"\bInternalServerError: Error code: 5\d\d\b|Error code: 50[0-4]\b|server had an error (?:while )?processing your"
    r"|\bServiceUnavailableError\b",
    ("error code: 50", "server had an error", "serviceunavailableerror", "internalservererror"),
)
_VAGUE_TIMEOUT = _recogniser(
    "provider_timeout",
    TimeoutError(),
    (_TIMEOUTS.format("connect_timeout, read_timeout, total_timeout"),),
    r"\bAPITimeoutError\b|\bopenai\.error\.Timeout\b|\blitellm\.(?:exceptions\.)?Timeout\b"
    r"|\berror: Request timed out\.",
    ("apitimeouterror", "openai.error.timeout", "litellm.", "request timed out"),
    vague=True,
    with_own=False,
    more="The text does not say which phase it was; the first error of the traceback does.",
)
_BROKE_OFF = _recogniser(
    "provider_broke_off",
    httpx.RemoteProtocolError(""),
    ("Rate-Limited LLM: max_retries", "proxies between Langflow and the provider: their read timeout"),
    r"\b(?:httpx2?|httpcore)\.(?:RemoteProtocolError|ReadError|WriteError)\b|\bServerDisconnectedError\b"
    r"|peer closed connection without sending complete message body|Server disconnected without sending a response",
    ("remoteprotocolerror", "readerror", "writeerror", "serverdisconnectederror", "peer closed", "server disconnected"),
    with_own=False,
)
_UNREACHABLE = _recogniser(
    "provider_unreachable",
    httpx.ConnectError(""),
    ("Rate-Limited LLM or the stock model: base_url", "the server's network: proxy, firewall"),
    r"\bAPIConnectionError\b|\b(?:httpx2?|httpcore)\.ConnectError\b|\bAPI error: Connection error\."
    r"|\bError communicating with OpenAI\b|^\W{0,40}ConnectError: ",
    ("apiconnectionerror", "connecterror", "connection error", "error communicating with openai"),
    vague=True,
)

# In this order: the first that matches a line counts.
RECOGNISERS: tuple[Recogniser, ...] = (
    _TOO_LONG,
    _TOO_LARGE,
    _QUOTA,
    _EXHAUSTED,
    _OVERLOADED,
    _THROTTLED,
    _CREDENTIAL,
    _MISSING,
    _timeout(
        "connect",
        httpx.ConnectTimeout(""),
        _TIMEOUTS.format("connect_timeout"),
        r"Connection to .{1,200} timed out\. \(connect timeout|\bConnectTimeoutError\(",
        ("connect timeout", "connecttimeouterror"),
    ),
    _timeout(
        "read",
        httpx.ReadTimeout(""),
        _TIMEOUTS.format("read_timeout"),
        r"\bReadTimeoutError\b|Read timed out\. \(read timeout|The read operation timed out|Read timeout on endpoint",
        ("readtimeouterror", "read timed out", "read operation timed out", "read timeout on endpoint"),
    ),
    _timeout(
        "write",
        httpx.WriteTimeout(""),
        _TIMEOUTS.format("write_timeout"),
        r"The write operation timed out",
        ("write operation timed out",),
    ),
    _timeout(
        "pool",
        httpx.PoolTimeout(""),
        _LIMITS.format("max_concurrency, so that calls wait in the guard and not in the client"),
        r"All connections in the connection pool are occupied",
        ("connection pool are occupied",),
    ),
    _FAILED,
    _VAGUE_TIMEOUT,
    _BROKE_OFF,
    _UNREACHABLE,
)
