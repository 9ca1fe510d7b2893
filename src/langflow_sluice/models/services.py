"""Which service, with which credential, a model from another node calls; read from the model, nothing is sent."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import SecretStr

from langflow_sluice.http_clients import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where the SDKs' clients hang on LangChain's models, in the order of what tells most. OpenAIEmbeddings hold a resource
# of the SDK's client, which has the client as _client.
SDK_CLIENTS = ("root_async_client", "_async_client", "async_client", "root_client", "_client", "client")
_ADDRESSES = (
    "openai_api_base",
    "azure_endpoint",
    "anthropic_api_url",
    "base_url",
    "api_base",
    "endpoint_url",
    "server_url",
    "inference_server_url",
    "endpoint",
    "url",
)
_KEYS = ("api_key", "token")
_DEFAULTS = {"ChatOllama": "OLLAMA_HOST", "OllamaEmbeddings": "OLLAMA_HOST"}
_OLLAMA = "http://127.0.0.1:11434"
# What Azure's client has for a key where it uses a token of Entra ID.
_NO_KEY = "<missing API key>"


@dataclass(frozen=True, slots=True)
class Service:
    """A service as its users share it.

    Attributes:
        host: Host and port, or the kind of the model where its address cannot be read; for messages.
        guard_name: The name of the guard in front of it: the same for all who call it with the same credential,
            whichever node they use. Blank if the model tells neither an address nor a credential, so that nobody can
            say who shares it.
    """

    host: str
    guard_name: str


def service_of(client: object) -> Service:
    """Reads address and credential from a chat model or embeddings of any LangChain integration.

    Args:
        client: The model; wrappers (``RunnableBinding``, Langflow's ``EmbeddingsWithModels``) are not looked into.
    """
    address = next(_addresses(client), "")
    credential = next(filter(None, _credentials(client)), "")
    kind = type(client).__name__
    if not address and not credential:
        return Service(kind, "")
    host = address or kind
    return Service(host, f"{host} (key {fingerprint(credential)})" if credential else host)


def sdk_clients(model: object) -> Iterator[Any]:
    """The clients of the provider's SDK that a model holds by now; none is made for it."""
    private = getattr(model, "__pydantic_private__", None) or {}
    for name in SDK_CLIENTS:
        # Not by getattr: a cached property would make a client.
        found = vars(model).get(name, private.get(name)) if hasattr(model, "__dict__") else None
        if found is not None:
            yield found
            if getattr(found, "_client", None) is not None:
                yield found._client  # noqa: SLF001 - a resource has its client by no other name


def _addresses(model: object) -> Iterator[str]:
    for client in sdk_clients(model):
        yield from _netloc(getattr(client, "base_url", None))
    for name in _ADDRESSES:
        yield from _netloc(getattr(model, name, None))
    variable = _DEFAULTS.get(type(model).__name__)
    if variable:
        yield from _netloc(os.environ.get(variable) or _OLLAMA)


def _netloc(address: object) -> Iterator[str]:
    if not isinstance(address, (str, httpx.URL)):
        return
    text = str(address)
    try:
        # By parts: user and password may stand in front of the host.
        url = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL:
        return
    if url.host:
        # As Upstream names it, also IPv6 addresses and names that are not ASCII.
        yield url.netloc.decode()


def _credentials(model: object) -> Iterator[str]:
    for client in sdk_clients(model):
        key = getattr(client, "api_key", None)
        if isinstance(key, str) and key and key != _NO_KEY:
            yield key
    fields = getattr(type(model), "model_fields", {})
    for name in fields:
        value = getattr(model, name, None)
        # Keys and tokens, not the access key's secret or a proxy's password beside them.
        if isinstance(value, SecretStr) and value.get_secret_value() and name.endswith(_KEYS):
            yield value.get_secret_value()
    for client in sdk_clients(model):
        if isinstance(client, (httpx.Client, httpx.AsyncClient)):
            # Ollama's SDK: its credential, if it has one, is a header that the node has set.
            yield client.headers.get("authorization", "")
