"""A model from another node on shared connections, and without its SDK's own retries.

Those retries pass the guard by and send billed calls again; and an SDK's own connections belong to the event loop that
opened them, and to one run of the flow.
"""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from langflow_sluice.http_clients import client_cache
from langflow_sluice.models.services import SDK_CLIENTS

if TYPE_CHECKING:
    import ssl
    from collections.abc import Hashable

    from langflow_sluice.http_clients import HttpClients

ModelT = TypeVar("ModelT")

# langchain-google-genai takes 0 for "as the SDK likes", which is five.
_FEWEST_ATTEMPTS = {"langchain_google_genai": 1}
# What Langflow's guard against server-side request forgery makes; the shared client keeps to the same addresses.
_SSRF_TRANSPORTS = ("SSRFProtectedTransport", "SSRFProtectedSyncTransport")
_CLIENTS = (httpx.Client, httpx.AsyncClient)
_TRANSPORTS = (httpx.HTTPTransport, httpx.AsyncHTTPTransport)


def without_retries(model: ModelT) -> ModelT:
    """A copy of a chat model or embeddings whose SDK does not retry, on the connections that all runs share.

    Knows the SDKs made by Stainless (OpenAI, Azure, Anthropic, Groq and others), Ollama's, and whoever heeds a
    ``max_retries`` of the model. Of another SDK the retries stay as the node has set them. A client with settings of
    the user's own (a proxy, a certificate) is kept.

    Args:
        model: Stays as it was.
    """
    duplicate: ModelT = _copy(model)
    for name in SDK_CLIENTS:
        _replace(duplicate, name)
    return duplicate


def _copy(model: Any) -> Any:
    fields = getattr(type(model), "model_fields", {})
    if not fields:
        return copy.copy(model)
    package = type(model).__module__.partition(".")[0]
    update = {"max_retries": _FEWEST_ATTEMPTS.get(package, 0)} if "max_retries" in fields else {}
    return model.model_copy(update=update)


def _replace(model: Any, name: str) -> None:
    """Puts a client that does not retry in the place of one that a model holds, or would make when it is first used."""
    private = getattr(model, "__pydantic_private__", None) or {}
    if name in vars(model):
        vars(model)[name] = _shared(vars(model)[name], model)
    elif name in private:
        private[name] = _shared(private[name], model)
    elif isinstance(getattr(type(model), name, None), functools.cached_property):
        vars(model)[name] = _shared(getattr(model, name), model)


def _shared(client: Any, model: Any) -> Any:
    """The same client of an SDK without retries, on shared connections; anything else as it is."""
    if hasattr(client, "with_options"):
        return client.with_options(max_retries=0, **_http_options(client, model))
    inner = getattr(client, "_client", None)
    if hasattr(inner, "with_options"):
        # A resource of a client (``client.chat.completions``) is made from the client alone.
        return type(client)(_shared(inner, model))
    if type(client).__module__.partition(".")[0] == "ollama" and isinstance(inner, (httpx.Client, httpx.AsyncClient)):
        duplicate = copy.copy(client)
        duplicate._client = _ollama_http(inner, model)  # noqa: SLF001 - it takes no client of ours in any other way
        return duplicate
    return client


def _http_options(client: Any, model: Any) -> dict[str, Any]:
    own = client._client  # noqa: SLF001 - a client tells what it sends with by no other name
    if _is_given(own, model) and not (type(own) in _CLIENTS and _is_plain(own)):
        return {}
    clients = _clients(own, str(client.base_url), _credential(client), model)
    if clients is None:
        return {}
    return {"http_client": clients.asynchronous if isinstance(own, httpx.AsyncClient) else clients.synchronous}


def _credential(client: Any) -> Hashable:
    """All by which a client of an SDK says who it is."""
    for name in ("_api_key_provider", "_azure_ad_token_provider", "credentials"):
        if getattr(client, name, None) is not None:
            return _Itself(getattr(client, name))
    told = [getattr(client, name, None) for name in ("api_key", "_azure_ad_token", "auth_token")]
    headers = getattr(client, "_custom_headers", None) or {}
    told += [f"{name}: {value}" for name, value in sorted(headers.items()) if isinstance(value, str)]
    return "\n".join(each for each in told if isinstance(each, str))


class _Itself:
    """A function that tells the credential, anew for each request; equal to none but the same function."""

    def __init__(self, function: object) -> None:
        self._function = function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self._function is other._function

    def __hash__(self) -> int:
        return id(self._function)


def _ollama_http(own: httpx.Client | httpx.AsyncClient, model: Any) -> httpx.Client | httpx.AsyncClient:
    headers = "\n".join(f"{name}: {value}" for name, value in sorted(own.headers.items()))
    clients = _clients(own, str(own.base_url), headers, model) if _is_plain(own, own.headers) else None
    if clients is None:
        return own
    options: dict[str, Any] = {
        "base_url": own.base_url,
        "headers": own.headers,
        "timeout": own.timeout,
        "follow_redirects": own.follow_redirects,
    }
    if isinstance(own, httpx.AsyncClient):
        return httpx.AsyncClient(transport=clients.loop_transport, **options)
    return httpx.Client(transport=clients.blocking_transport, **options)


def _clients(
    own: httpx.Client | httpx.AsyncClient, address: str, credential: Hashable, model: Any
) -> HttpClients | None:
    """The shared clients in the place of one of the model's own, or None where that has to stay."""
    transport = type(own._transport)  # noqa: SLF001 - as above
    if transport not in _TRANSPORTS and transport.__name__ not in _SSRF_TRANSPORTS:
        return None
    if any(name.endswith("proxy") and value for name, value in vars(model).items()):
        return None
    return client_cache().clients_like(own, address, credential)


def _is_given(own: httpx.Client | httpx.AsyncClient, model: Any) -> bool:
    """Whether the node that made the model has made its HTTP client too; the SDKs make subclasses of their own."""
    fields = ("http_client", "http_async_client")
    return type(own) in _CLIENTS or any(own is getattr(model, name, None) for name in fields)


def _is_plain(own: httpx.Client | httpx.AsyncClient, headers: httpx.Headers | None = None) -> bool:
    """Whether a client has no settings of the user's, so that a shared one does the same.

    Langflow itself gives such clients to models at addresses that its operator allows.

    Args:
        own: The client.
        headers: What it may send along.
    """
    if any((not own.trust_env, own.auth, own.cookies, own.params, *own.event_hooks.values())):
        return False
    if own._mounts and _proxies(own) != _proxies(httpx.Client(verify=_usual_tls())):  # noqa: SLF001 - as above
        return False
    if own.headers != (headers or httpx.Client(transport=httpx.BaseTransport()).headers):
        return False
    transport: Any = own._transport  # noqa: SLF001 - as above
    if type(transport).__name__ in _SSRF_TRANSPORTS:
        return True
    pool: Any = getattr(transport, "_pool", None)
    if type(pool).__name__ not in {"ConnectionPool", "AsyncConnectionPool"}:  # those of a proxy have names of their own
        return False
    tls, usual = pool._ssl_context, _usual_tls()  # noqa: SLF001 - as above
    same = (tls.verify_mode, tls.cert_store_stats()) == (usual.verify_mode, usual.cert_store_stats())
    return same and not (pool._uds or pool._local_address or pool._retries)  # noqa: SLF001 - as above


def _proxies(client: httpx.Client | httpx.AsyncClient) -> dict[str, Any]:
    mounts = client._mounts.items()  # noqa: SLF001 - as above
    return {pattern.pattern: getattr(getattr(each, "_pool", None), "_proxy_url", None) for pattern, each in mounts}


@functools.cache
def _usual_tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()
