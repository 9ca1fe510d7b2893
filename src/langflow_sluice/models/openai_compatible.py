"""Chat models and embeddings of any OpenAI-compatible service, on shared clients and behind a guard."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import SecretStr, ValidationError

from langflow_sluice.errors import InvalidInput
from langflow_sluice.failures import diagnose_http
from langflow_sluice.guard import guard_registry
from langflow_sluice.http_clients import HttpTimeouts, client_cache, fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_openai import ChatOpenAI

    from langflow_sluice.guard import Guard, GuardSettings
    from langflow_sluice.guard.retry import CallPolicy
    from langflow_sluice.http_clients import HttpClients
    from langflow_sluice.models.guarded_embeddings import GuardedEmbeddings

DEFAULT_BASE_URL = "https://api.openai.com/v1"
# Parameters of a request that are fields of ChatOpenAI, with what else is set there.
_FIELDS = frozenset(
    {"temperature", "seed", "reasoning_effort", "max_completion_tokens", "top_p", "n", "presence_penalty"}
    | {"frequency_penalty", "logprobs", "top_logprobs", "logit_bias", "stop", "service_tier", "verbosity"}
    | {"extra_body", "reasoning", "store", "truncation", "include", "use_responses_api", "output_version"}
)


@dataclass(frozen=True, slots=True)
class Upstream:
    """One service and the credential used there.

    Attributes:
        base_url: The API's root; blank for OpenAI's own.
        api_key: The credential; never shown.
        timeouts: Of each phase of a request.
    """

    base_url: str = ""
    api_key: str = field(default="", repr=False)
    timeouts: HttpTimeouts = field(default_factory=HttpTimeouts)

    def __post_init__(self) -> None:
        if not self.api_key:
            msg = "api_key is empty."
            raise InvalidInput(msg, hint="Enter a key or the name of a global variable that holds one.")
        if not _is_address(self.base_url or DEFAULT_BASE_URL):
            # Without the value: it may hold a password.
            msg = "base_url is not the address of an API."
            raise InvalidInput(msg, hint="Start it with https:// or http://, then the host, as in https://host/v1.")

    @property
    def host(self) -> str:
        """Host and port, for messages and names."""
        return httpx.URL(self.base_url or DEFAULT_BASE_URL).netloc.decode()

    @property
    def guard_name(self) -> str:
        """The name of the guard that all users of this service and credential share."""
        return f"{self.host} (key {fingerprint(self.api_key)})"

    def guard(self, name: str, settings: GuardSettings, *, asked_by: str) -> Guard:
        """The guard in front of this service: of that name, or the shared one if it is blank."""
        return guard_registry().guard(name or self.guard_name, settings, asked_by=asked_by)

    def clients(self) -> HttpClients:
        """The shared HTTP clients, under Langflow's rules for endpoints and credentials.

        Raises:
            ValueError: Langflow refuses the endpoint, or to send this credential there.
        """
        from lfx.base.models.provider_ssrf import ensure_credential_endpoint_allowed

        ensure_credential_endpoint_allowed(
            self.api_key, self.base_url, default_url=DEFAULT_BASE_URL, sdk_env_fallback="OPENAI_API_KEY"
        )
        return client_cache().clients(self.base_url, DEFAULT_BASE_URL, self.api_key, self.timeouts)


def chat_model(
    upstream: Upstream,
    guard: Guard,
    policy: CallPolicy,
    *,
    model_name: str,
    temperature: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    reasoning_effort: str = "",
    json_mode: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> ChatOpenAI:
    """A guarded ``ChatOpenAI`` on the shared clients; the SDK's own retries are off.

    Args:
        upstream: The service and the credential.
        guard: The gate in front of it.
        policy: Retries, deadline and priority of each call.
        model_name: The model's name at the service.
        temperature: Left out for reasoning models, which refuse it.
        max_tokens: The most that an answer may have, hidden reasoning included; None for the service's own limit.
        seed: For answers that repeat as far as the service can; left out for reasoning models.
        reasoning_effort: How long a reasoning model thinks; blank for its own default, and for other models.
        json_mode: Whether the answer must be a JSON object.
        model_kwargs: Further parameters of the request, as the service names them.
        **options: Passed on to ``ChatOpenAI``.
    """
    from langchain_openai import ChatOpenAI

    from langflow_sluice.models.guarded_chat import guarded
    from langflow_sluice.models.protection import Protection

    if not model_name:
        raise InvalidInput.of("model_name", model_name, "no model is named", fix="Enter the model's name.")
    clients = upstream.clients()
    parameters = dict(model_kwargs or {})
    # Bound to the guarded copy, which stays a model: to a binding of LangChain's no agent could bind its tools.
    bound = {"response_format": {"type": "json_object"}} if json_mode else {}
    if "response_format" in parameters:
        bound = {"response_format": parameters.pop("response_format")}
    # Parameters that ChatOpenAI has fields for are refused among the others.
    fields = {name: parameters.pop(name) for name in list(parameters) if name in _FIELDS}
    _check_parameters(parameters, ChatOpenAI)
    # OpenAI's client takes what it does not know, as vLLM's top_k, in one place only.
    unknown = {name: parameters.pop(name) for name in list(parameters) if name not in _known_to_client()}
    if unknown:
        fields["extra_body"] = {**unknown, **_mapping(fields.get("extra_body"))}
    reasoning = is_reasoning(model_name)
    options = {
        "temperature": None if reasoning else temperature,
        "seed": None if reasoning else seed,
        "reasoning_effort": reasoning_effort or None,
        "max_completion_tokens": max_tokens or None,
        **fields,
        **options,
    }
    try:
        model = ChatOpenAI(
            model=model_name,
            api_key=SecretStr(upstream.api_key),
            base_url=upstream.base_url or DEFAULT_BASE_URL,
            model_kwargs=parameters,
            max_retries=0,
            timeout=upstream.timeouts.as_httpx(),
            http_client=clients.synchronous,
            http_async_client=clients.asynchronous,
            stream_usage=True,
            openai_proxy=None,
            **_no_chunk_timeout(ChatOpenAI),
            **options,
        )
    except ValidationError as error:
        raise _wrong_value(error, fields) from None
    protection = Protection(guard, policy, functools.partial(diagnose_http, resource=upstream.host))
    return guarded(model, protection, bound)


def embeddings(
    upstream: Upstream,
    guard: Guard,
    policy: CallPolicy,
    *,
    model_name: str,
    dimensions: int | None = None,
    batch_size: int = 256,
    cache_ttl_s: float = 0.0,
) -> GuardedEmbeddings:
    """Guarded embeddings on the shared clients; texts are sent as they are, without tiktoken's download.

    Args:
        upstream: The service and the credential.
        guard: The gate in front of it.
        policy: Retries, deadline and priority of each request.
        model_name: The model's name at the service.
        dimensions: Length of the vectors, for models that let one choose; None for the model's own.
        batch_size: Texts a request; never more than OpenAI's 2,048.
        cache_ttl_s: Seconds for which a vector stands for its text without a request; 0 for never.
    """
    from langchain_openai import OpenAIEmbeddings

    from langflow_sluice.models.guarded_embeddings import MAX_TEXTS, GuardedEmbeddings
    from langflow_sluice.models.protection import Protection
    from langflow_sluice.models.vector_cache import VectorSpace

    if not model_name:
        raise InvalidInput.of("model_name", model_name, "no model is named", fix="Enter the model's name.")
    clients = upstream.clients()
    inner = OpenAIEmbeddings(
        model=model_name,
        dimensions=dimensions or None,
        api_key=SecretStr(upstream.api_key),
        base_url=upstream.base_url or DEFAULT_BASE_URL,
        max_retries=0,
        timeout=upstream.timeouts.as_httpx(),
        http_client=clients.synchronous,
        http_async_client=clients.asynchronous,
        openai_proxy=None,
        check_embedding_ctx_length=False,
        chunk_size=max(1, batch_size),
    )
    protection = Protection(guard, policy, functools.partial(diagnose_http, resource=upstream.host))
    service = ((upstream.base_url or DEFAULT_BASE_URL).rstrip("/"), fingerprint(upstream.api_key))
    space = VectorSpace((*service, model_name, dimensions or None), cache_ttl_s)
    return GuardedEmbeddings(inner, protection, min(batch_size, MAX_TEXTS), space=space)


@functools.cache
def _known_to_client() -> frozenset[str]:
    from openai.resources.chat.completions import Completions
    from openai.resources.responses import Responses

    calls = (Completions.create, Responses.create)
    return frozenset(name for call in calls for name in inspect.signature(call).parameters)


def _mapping(value: Any) -> Mapping[str, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    raise InvalidInput.of("model_kwargs", "extra_body", "its value is no object", fix="Enter a JSON object.")


def _wrong_value(error: ValidationError, further: Mapping[str, Any]) -> InvalidInput:
    """Names the parameter, without its value: pydantic's own text repeats what was entered."""
    named = [str(each["loc"][0]) for each in error.errors(include_url=False, include_input=False) if each["loc"]]
    name = next(iter(named or further), "a parameter")
    field = "model_kwargs" if name in further else name
    return InvalidInput.of(field, name, "its value is none that a request can have", fix=f"Change the value of {name}.")


def _check_parameters(parameters: Mapping[str, Any], kind: type[ChatOpenAI]) -> None:
    names = {*kind.model_fields, *(field.alias for field in kind.model_fields.values()), "messages", "stream"}
    for name in parameters:
        if name in names:
            problem = "it is no parameter of a request, or has an input of its own"
            raise InvalidInput.of("model_kwargs", name, problem, fix=f"Leave {name} out of model_kwargs.")


def _no_chunk_timeout(kind: type[ChatOpenAI]) -> dict[str, Any]:
    """Switches off langchain-openai's own time limit between chunks (120 s), where it has one: ours are the inputs'."""
    return {"stream_chunk_timeout": None} if "stream_chunk_timeout" in kind.model_fields else {}


def _is_address(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in {"http", "https"} and bool(parsed.host)


def is_reasoning(model_name: str) -> bool:
    """Whether Langflow knows the model as one that takes no temperature."""
    from lfx.base.models.openai_constants import OPENAI_REASONING_MODEL_NAMES

    return model_name in OPENAI_REASONING_MODEL_NAMES
