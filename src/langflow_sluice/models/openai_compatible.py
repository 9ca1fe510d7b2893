"""Chat models and embeddings of any OpenAI-compatible service, on shared clients and behind a guard."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import SecretStr

from langflow_sluice.errors import InvalidInput
from langflow_sluice.failures import diagnose_http
from langflow_sluice.guard import guard_registry
from langflow_sluice.http_clients import HttpTimeouts, client_cache, fingerprint

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

    from langflow_sluice.guard import Guard, GuardSettings
    from langflow_sluice.guard.retry import CallPolicy
    from langflow_sluice.http_clients import HttpClients
    from langflow_sluice.models.guarded_embeddings import GuardedEmbeddings

DEFAULT_BASE_URL = "https://api.openai.com/v1"


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
    **options: Any,
) -> ChatOpenAI:
    """A guarded ``ChatOpenAI`` on the shared clients; the SDK's own retries are off.

    Args:
        upstream: The service and the credential.
        guard: The gate in front of it.
        policy: Retries, deadline and priority of each call.
        model_name: The model's name at the service.
        temperature: Left out for reasoning models, which refuse it.
        max_tokens: The most that an answer may have; None for the service's own limit.
        **options: Passed on to ``ChatOpenAI``.
    """
    from langchain_openai import ChatOpenAI

    from langflow_sluice.models.guarded_chat import Protection, guarded

    if not model_name:
        raise InvalidInput.of("model_name", model_name, "no model is named", fix="Enter the model's name.")
    clients = upstream.clients()
    model = ChatOpenAI(
        model=model_name,
        api_key=SecretStr(upstream.api_key),
        base_url=upstream.base_url or DEFAULT_BASE_URL,
        temperature=None if is_reasoning(model_name) else temperature,
        max_completion_tokens=max_tokens or None,
        max_retries=0,
        timeout=upstream.timeouts.as_httpx(),
        http_client=clients.synchronous,
        http_async_client=clients.asynchronous,
        stream_usage=True,
        openai_proxy=None,
        **_no_chunk_timeout(ChatOpenAI),
        **options,
    )
    return guarded(model, Protection(guard, policy, functools.partial(diagnose_http, resource=upstream.host)))


def embeddings(
    upstream: Upstream,
    guard: Guard,
    policy: CallPolicy,
    *,
    model_name: str,
    dimensions: int | None = None,
    batch_size: int = 256,
) -> GuardedEmbeddings:
    """Guarded embeddings on the shared clients; texts are sent as they are, without tiktoken's download.

    Args:
        upstream: The service and the credential.
        guard: The gate in front of it.
        policy: Retries, deadline and priority of each request.
        model_name: The model's name at the service.
        dimensions: Length of the vectors, for models that let one choose; None for the model's own.
        batch_size: Texts a request.
    """
    from langchain_openai import OpenAIEmbeddings

    from langflow_sluice.models.guarded_chat import Protection
    from langflow_sluice.models.guarded_embeddings import GuardedEmbeddings

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
    return GuardedEmbeddings(inner, protection, batch_size)


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
