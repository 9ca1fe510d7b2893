"""The models of other integrations behind a guard: without retries of their own, on connections that all runs share."""

import asyncio
import functools
import ssl
import time
import warnings

import httpx
import pytest

from langflow_sluice.errors import UpstreamRefused, UpstreamUnavailable
from langflow_sluice.failures import diagnose_http
from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.guard.retry import CallPolicy
from langflow_sluice.http_clients import client_cache
from langflow_sluice.http_transports import BlockingTransport, LoopTransport
from langflow_sluice.models.guarded_chat import guarded
from langflow_sluice.models.protection import Protection
from langflow_sluice.models.services import sdk_clients
from langflow_sluice.models.unretried import without_retries
from langflow_sluice.simulator import ProviderSettings, fingerprint, serve_in_thread

from .asking import ask

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langchain_anthropic import ChatAnthropic
    from langchain_ollama import ChatOllama
    from langchain_openai import AzureChatOpenAI, ChatOpenAI
    from lfx.base.models.provider_ssrf import provider_httpx_clients
    from lfx.utils.async_helpers import run_until_complete
    from lfx.utils.ssrf_httpx import ssrf_protected_httpx_client_kwargs_for_url
    from lfx.utils.ssrf_transport import SSRFProtectedSyncTransport, SSRFProtectedTransport
    from lfx_anthropic.anthropic_chat_model import install_anthropic_ssrf_clients

DEADLINE_S = 30.0
KEY = "canary-key"
ONCE = CallPolicy(max_retries=0)
WAYS = ["ainvoke", "invoke", "astream", "stream"]

pytestmark = pytest.mark.usefixtures("reachable")


def chat_openai(provider, key=KEY, **options):
    return ChatOpenAI(model="sim-chat", api_key=key, base_url=provider.base_url, **options)


def azure(provider, key=KEY, **options):
    # Without a deployment the path is the one that the provider serves.
    return AzureChatOpenAI(
        api_key=key, openai_api_base=provider.base_url, validate_base_url=False, api_version="2024-06-01", **options
    )


def anthropic(provider, key=KEY, **options):
    return ChatAnthropic(model="sim-chat", api_key=key, base_url=provider.root_url, **options)


def ollama(provider, key=KEY, **options):
    headers = {"authorization": f"Bearer {key}"}
    return ChatOllama(model="sim-chat", base_url=provider.root_url, client_kwargs={"headers": headers}, **options)


def chat_openai_of_langflow(provider, key=KEY):
    return chat_openai(provider, key, **provider_httpx_clients(provider.base_url))


def anthropic_of_langflow(provider, key=KEY):
    model = anthropic(provider, key)
    install_anthropic_ssrf_clients(model, **provider_httpx_clients(provider.root_url))
    return model


def ollama_of_langflow(provider, key=KEY):
    blocking, asynchronous = ssrf_protected_httpx_client_kwargs_for_url(provider.root_url)
    return ollama(provider, key, sync_client_kwargs=blocking, async_client_kwargs=asynchronous)


FAMILIES = [chat_openai, azure, anthropic, ollama]
MADE_BY_NODES = [*FAMILIES, chat_openai_of_langflow, anthropic_of_langflow, ollama_of_langflow]


def guard_of(**limits):
    return Guard("test", GuardSettings(**limits))


def behind(guard, model, policy=ONCE):
    return guarded(without_retries(model), Protection(guard, policy, functools.partial(diagnose_http, resource="sim")))


async def seen(provider, condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition(stats := await asyncio.to_thread(provider.stats)):
        assert time.monotonic() < deadline, stats
    return stats


def once(texts):
    return {fingerprint(text): 1 for text in texts}


def http_clients(model):
    """The HTTP clients under a model, by whichever SDK holds them."""
    return {
        id(client): client for client in sdk_clients(model) if isinstance(client, (httpx.Client, httpx.AsyncClient))
    }


def transports(model):
    found = [client._transport for client in http_clients(model).values()]
    assert found
    return found


def is_shared(model):
    return all(isinstance(each, (LoopTransport, BlockingTransport)) for each in transports(model))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", FAMILIES)
async def test_a_guarded_model_is_of_its_own_class_and_never_passes_the_cap(provider, make, way):
    provider.configure(service_s=0.02)
    guard = guard_of(max_concurrency=2)
    models = [behind(guard, make(provider)) for _ in range(2)]
    assert all(isinstance(model, type(make(provider))) for model in models)
    texts = [f"row {number}" for number in range(6)]
    answers = await asyncio.gather(*(ask(models[number % 2], way, text) for number, text in enumerate(texts)))
    assert [answer.text for answer in answers] == [f"Answer to: {text}" for text in texts]
    assert all(answer.usage_metadata["total_tokens"] > 0 for answer in answers if way in {"ainvoke", "invoke"})
    stats = await seen(provider, lambda stats: len(stats.calls) == 6)
    assert stats.max_in_flight == {"chat": 2}
    assert stats.subjects() == once(texts)
    assert (guard.statistics().admitted, guard.statistics().in_flight) == (6, 0)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("make", [chat_openai, anthropic])
async def test_a_batch_never_passes_the_cap_also_if_the_model_streams_inside(provider, make, streaming):
    provider.configure(service_s=0.02)
    guard = guard_of(max_concurrency=3)
    texts = [f"row {number}" for number in range(12)]
    answers = await behind(guard, make(provider, streaming=streaming)).abatch(texts)
    assert [answer.text for answer in answers] == [f"Answer to: {text}" for text in texts]
    stats = await seen(provider, lambda stats: len(stats.calls) == 12)
    assert (stats.max_in_flight, guard.statistics().admitted) == ({"chat": 3}, 12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", FAMILIES)
async def test_the_sdk_sends_a_request_that_fails_only_once(provider, make, way):
    provider.configure(fault="status:500")
    model = behind(guard_of(), make(provider, **({} if make is ollama else {"max_retries": 5})))
    with pytest.raises(UpstreamUnavailable) as caught:
        await ask(model, way, "canary prompt")
    assert "canary" not in str(caught.value)
    assert provider.stats().requests == {"chat": 1}


@pytest.mark.parametrize("make", MADE_BY_NODES)
async def test_models_made_anew_for_each_run_share_the_connections(provider, make):
    guard = guard_of(max_concurrency=3)
    for run in range(5):
        texts = [f"run {run} row {number}" for number in range(6)]
        answers = await behind(guard, make(provider)).abatch(texts)
        assert [answer.text for answer in answers] == [f"Answer to: {text}" for text in texts]
    assert provider.stats().connections_opened <= 3
    await asyncio.to_thread(behind(guard, make(provider)).batch, ["a", "b", "c"])
    for _ in range(3):
        await asyncio.to_thread(behind(guard, make(provider)).invoke, "one more")
    assert provider.stats().connections_opened <= 6


@pytest.mark.parametrize("make", MADE_BY_NODES)
def test_one_model_serves_one_event_loop_after_the_other(provider, make):
    model = behind(guard_of(max_concurrency=1), make(provider))
    texts = ["a", "b", "c"]
    for text in texts:
        assert asyncio.run(model.ainvoke(text)).text == f"Answer to: {text}"
    assert provider.stats().subjects() == once(texts)


@pytest.mark.parametrize("make", MADE_BY_NODES)
async def test_the_loop_a_worker_thread_and_a_short_lived_loop_use_one_model_side_by_side(provider, make):
    provider.configure(service_s=0.01)
    guard = guard_of(max_concurrency=3)
    model = behind(guard, make(provider))
    async with asyncio.timeout(DEADLINE_S):
        answers = await asyncio.gather(
            *(model.ainvoke(f"loop {number}") for number in range(4)),
            *(asyncio.to_thread(model.invoke, f"thread {number}") for number in range(3)),
            asyncio.to_thread(run_until_complete, model.ainvoke("a thread's loop")),
            asyncio.to_thread(lambda: asyncio.run(ask(model, "astream", "a thread's stream"))),
        )
    # This one blocks the running loop meanwhile, as Langflow's synchronous nodes do.
    answers.append(run_until_complete(model.ainvoke("loop beside the running one")))
    answers.append(await model.ainvoke("the first loop again"))
    texts = [answer.text.removeprefix("Answer to: ") for answer in answers]
    assert len(set(texts)) == 11
    stats = await seen(provider, lambda stats: len(stats.calls) == 11)
    assert stats.subjects() == once(texts)
    assert stats.max_in_flight["chat"] <= 3
    assert guard.statistics().in_flight == 0


PINS = {"pinned.test": ["127.0.0.1"]}


def pinned_clients():
    return {
        "http_client": httpx.Client(transport=SSRFProtectedSyncTransport(PINS)),
        "http_async_client": httpx.AsyncClient(transport=SSRFProtectedTransport(PINS)),
    }


def pinned_openai(port):
    return ChatOpenAI(model="sim-chat", api_key=KEY, base_url=f"http://pinned.test:{port}/v1", **pinned_clients())


def pinned_anthropic(port):
    model = ChatAnthropic(model="sim-chat", api_key=KEY, base_url=f"http://pinned.test:{port}")
    install_anthropic_ssrf_clients(model, **pinned_clients())
    return model


def pinned_ollama(port):
    return ChatOllama(
        model="sim-chat",
        base_url=f"http://pinned.test:{port}",
        sync_client_kwargs={"follow_redirects": False, "transport": SSRFProtectedSyncTransport(PINS)},
        async_client_kwargs={"follow_redirects": False, "transport": SSRFProtectedTransport(PINS)},
    )


@pytest.mark.parametrize("make", [pinned_openai, pinned_anthropic, pinned_ollama])
async def test_connections_stay_pinned_to_the_addresses_that_langflow_has_checked(provider, make):
    port = provider.base_url.removesuffix("/v1").rpartition(":")[2]
    guard = guard_of(max_concurrency=1)
    # No name server knows the host: only the pin leads to the provider.
    for way in ("ainvoke", "invoke", "ainvoke", "invoke"):
        model = behind(guard, make(port))
        assert is_shared(model)
        assert (await ask(model, way, "hello")).text == "Answer to: hello"
        assert not any(client.follow_redirects for client in http_clients(model).values())
    assert provider.stats().connections_opened == 2


def own_clients(**options):
    return {"http_client": httpx.Client(**options), "http_async_client": httpx.AsyncClient(**options)}


OWN = [
    {"verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)},  # trusts authorities of the user's own
    {"verify": False},
    {"proxy": "http://127.0.0.1:1"},
    {"auth": ("user", "canary-password")},
    {"cookies": {"session": "canary"}},
    {"params": {"tenant": "blue"}},
    {"event_hooks": {"request": [print]}},
    {"trust_env": False},
]


@pytest.mark.parametrize("options", [*OWN, {"headers": {"x-team": "blue"}}])
def test_an_http_client_with_settings_of_the_users_is_kept(provider, options):
    model = without_retries(chat_openai(provider, **own_clients(**options)))
    assert set(http_clients(model).values()) == {model.http_client, model.http_async_client}
    assert model.root_client.max_retries == model.root_async_client.max_retries == 0
    by_hand = anthropic(provider)
    install_anthropic_ssrf_clients(by_hand, **own_clients(**options))
    assert not is_shared(without_retries(by_hand))


@pytest.mark.parametrize("options", OWN)
@pytest.mark.parametrize("field", ["client_kwargs", "sync_client_kwargs"])
def test_a_client_of_ollamas_with_settings_of_the_users_is_kept(provider, field, options):
    model = without_retries(ChatOllama(model="sim-chat", base_url=provider.root_url, **{field: options}))
    assert not isinstance(model._client._client._transport, BlockingTransport)


class Proxied(httpx.HTTPTransport):
    """A transport of the user's own."""


@pytest.mark.parametrize("kind", [httpx.Client, type("OwnClient", (httpx.Client,), {})])
def test_an_http_client_of_the_users_own_kind_is_kept(provider, kind):
    clients = [kind(transport=Proxied()), kind(transport=httpx.HTTPTransport(local_address="127.0.0.1"))]
    clients += [] if kind is httpx.Client else [kind()]
    for client in clients:
        assert without_retries(chat_openai(provider, http_client=client)).root_client._client is client


def test_a_proxy_of_the_models_own_is_kept(provider):
    model = without_retries(ChatOpenAI(model="m", api_key=KEY, openai_proxy="http://127.0.0.1:1"))
    assert {model.http_client, model.http_async_client} == set(http_clients(model).values())
    assert not is_shared(without_retries(anthropic(provider, anthropic_proxy="http://127.0.0.1:1")))


@pytest.mark.parametrize("make", MADE_BY_NODES)
def test_the_proxy_of_the_environment_is_no_setting_of_the_models(provider, make, monkeypatch):
    # Nothing listens on port 1: only the proxy, played by the provider, can answer.
    monkeypatch.setenv("HTTP_PROXY", provider.root_url)
    model = without_retries(make(provider))
    assert is_shared(model)
    assert model.invoke("hello").text == "Answer to: hello"
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    model = without_retries(make(provider, "another key"))
    assert is_shared(model)
    assert model.invoke("hello").text == "Answer to: hello"


@pytest.mark.parametrize("make", MADE_BY_NODES)
async def test_the_model_itself_stays_as_it_was(provider, make):
    model = make(provider)
    private = dict(model.__pydantic_private__ or {})
    before = dict(vars(model)), dict(http_clients(model))
    copy = behind(guard_of(), model)
    await copy.ainvoke("hello")
    await asyncio.to_thread(copy.invoke, "hello")
    assert (dict(vars(model)), dict(http_clients(model))) == before
    assert {**private, **(model.__pydantic_private__ or {})} == private
    assert not any(isinstance(each, (LoopTransport, BlockingTransport)) for each in before[1].values())
    assert getattr(model, "max_retries", None) == getattr(make(provider), "max_retries", None)


CREDENTIALS = {
    "key": (lambda p: chat_openai(p, "one"), lambda p: chat_openai(p, "two")),
    "key of Anthropic": (lambda p: anthropic(p, "one"), lambda p: anthropic(p, "two")),
    "header of Ollama": (lambda p: ollama(p, "one"), lambda p: ollama(p, "two")),
    "other header of Ollama": tuple(
        lambda p, key=key: ChatOllama(model="m", base_url=p.root_url, client_kwargs={"headers": {"x-key": key}})
        for key in ("one", "two")
    ),
    "header": tuple(lambda p, key=key: chat_openai(p, default_headers={"x-key": key}) for key in ("one", "two")),
    "token of Entra ID": tuple(lambda p, key=key: azure(p, None, azure_ad_token=key) for key in ("one", "two")),
    "functions": tuple(lambda p, key=key: chat_openai(p, lambda: key) for key in ("one", "two")),
}


@pytest.mark.parametrize("kind", CREDENTIALS)
async def test_two_credentials_never_share_a_connection(provider, kind):
    one, two = (behind(guard_of(), make(provider)) for make in CREDENTIALS[kind])
    assert not {id(each) for each in transports(one)} & {id(each) for each in transports(two)}
    for model in (one, two, one, two):
        await model.ainvoke("hello")
    assert provider.stats().connections_opened == 2
    again = without_retries(CREDENTIALS[kind][0](provider))
    assert kind == "functions" or {id(each) for each in transports(again)} == {id(each) for each in transports(one)}


async def test_the_credential_reaches_the_service(reachable):  # noqa: ARG001 - for its effect
    with serve_in_thread(ProviderSettings(service_s=0.0, keys=("right",))) as provider:
        for make in MADE_BY_NODES:
            if make is azure:  # its key is a header that the provider does not look at
                continue
            assert (await behind(guard_of(), make(provider, "right")).ainvoke("hello")).text == "Answer to: hello"
            with pytest.raises(UpstreamRefused, match="api_key"):
                await behind(guard_of(), make(provider, "wrong")).ainvoke("hello")
        client_cache().close()


@pytest.mark.parametrize("way", ["astream", "stream"])
@pytest.mark.parametrize("make", FAMILIES)
async def test_streams_one_after_the_other_use_one_connection(provider, make, way):
    guard = guard_of(max_concurrency=1)
    for number in range(4):
        answer = await ask(behind(guard, make(provider)), way, f"row {number}")
        assert answer.text == f"Answer to: row {number}"
    assert provider.stats().connections_opened == 1
    assert provider.stats().disconnects == 0
