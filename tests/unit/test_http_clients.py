"""What the shared HTTP clients guarantee, over real connections to the simulated provider."""

import asyncio
import gc
import http.server
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref

import httpx
import pytest

from langflow_sluice import http_clients
from langflow_sluice.errors import InvalidInput
from langflow_sluice.http_clients import ClientCache, HttpTimeouts, fingerprint
from langflow_sluice.simulator import ProviderSettings, serve_in_thread
from langflow_sluice.simulator import fingerprint as subject

DEADLINE_S = 30.0
DEFAULT = "https://api.openai.com/v1"
PROXIES = [name + "_proxy" for name in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def langflow_settings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lfx warns of its own code when its settings load
        from lfx.services.deps import get_settings_service

        get_settings_service()


@pytest.fixture
def allowed(monkeypatch, langflow_settings):  # noqa: ARG001 - for its effect
    monkeypatch.setenv("LANGFLOW_SSRF_ALLOWED_HOSTS", "127.0.0.1,localhost")


@pytest.fixture
def provider():
    with serve_in_thread(ProviderSettings(service_s=0.0)) as control:
        yield control


@pytest.fixture
def cache():
    made = ClientCache()
    yield made
    made.close()


def clients_of(cache, provider, key="key", **timeouts):
    """Clients for the provider as if it were the default endpoint, which needs no check."""
    return cache.clients("", provider.base_url, key, HttpTimeouts(**timeouts))


def seen(provider, condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition(stats := provider.stats()):
        assert time.monotonic() < deadline, stats
    return stats


async def seen_soon(provider, condition):
    return await asyncio.to_thread(seen, provider, condition)


async def embed(client, provider, text):
    answer = await client.post(f"{provider.base_url}/embeddings", json={"model": "m", "input": text})
    assert answer.status_code == 200


def embed_blocking(client, provider, text):
    assert client.post(f"{provider.base_url}/embeddings", json={"model": "m", "input": text}).status_code == 200


def in_thread(work):
    """Runs a coroutine as lfx does for synchronous code: on a new loop of a new thread, closed without any notice."""
    loops = []

    def run():
        loop = asyncio.new_event_loop()
        loops.append(weakref.ref(loop))
        try:
            loop.run_until_complete(work())
        finally:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return loops[0]


def test_one_endpoint_credential_and_timeouts_share_a_client(cache):
    first = cache.clients("", DEFAULT, "key", HttpTimeouts())
    assert cache.clients("", DEFAULT, "key", HttpTimeouts(5.0, 120)) is first
    assert cache.clients("", DEFAULT, "other key", HttpTimeouts()) is not first
    assert cache.clients("", DEFAULT, "key", HttpTimeouts(read_s=3)) is not first
    assert cache.clients("", "https://api.example.com/v1", "key", HttpTimeouts()) is not first


def test_timeouts_of_each_phase_reach_the_client_and_0_turns_one_off(cache):
    timeout = cache.clients("", DEFAULT, "key", HttpTimeouts(connect_s=3, read_s=7, write_s=5)).asynchronous.timeout
    assert (timeout.connect, timeout.read, timeout.write, timeout.pool) == (3, 7, 5, None)
    assert HttpTimeouts(connect_s=0, read_s=0, write_s=0).as_httpx() == httpx.Timeout(None)


@pytest.mark.parametrize("value", [-1, "soon", None, True, float("nan"), float("inf")])
def test_a_wrong_timeout_is_refused_by_the_name_of_its_input(value):
    with pytest.raises(InvalidInput, match="connect_timeout is"):
        HttpTimeouts(connect_s=value)
    with pytest.raises(InvalidInput, match="read_timeout is"):
        HttpTimeouts(read_s=value)


def test_one_client_serves_event_loops_one_after_the_other_and_no_request_is_sent_twice(cache, provider):
    client = clients_of(cache, provider).asynchronous
    for name in "abc":
        asyncio.run(embed(client, provider, name))
    stats = seen(provider, lambda stats: len(stats.calls) == 3)
    assert stats.subjects() == {subject(name): 1 for name in "abc"}


async def test_one_client_serves_the_main_loop_and_a_foreign_one_in_turn(cache, provider):
    client = clients_of(cache, provider).asynchronous
    await embed(client, provider, "main")
    await asyncio.to_thread(in_thread, lambda: embed(client, provider, "foreign"))
    await embed(client, provider, "main again")
    stats = await seen_soon(provider, lambda stats: len(stats.calls) == 3 and stats.connections_open == 1)
    assert stats.connections_opened == 2
    assert set(stats.subjects().values()) == {1}


async def test_twenty_calls_four_at_a_time_open_four_connections_at_most(cache, provider):
    provider.configure(embedding_service_s=0.01)
    client = clients_of(cache, provider).asynchronous
    four = asyncio.Semaphore(4)

    async def call(number):
        async with four:
            await embed(client, provider, f"text {number}")

    await asyncio.gather(*(call(number) for number in range(20)))
    stats = await seen_soon(provider, lambda stats: len(stats.calls) == 20)
    assert stats.connections_opened <= 4
    assert stats.max_in_flight == {"embeddings": 4}


def test_a_short_lived_loop_leaves_neither_a_connection_nor_itself_behind(cache, provider):
    client = clients_of(cache, provider).asynchronous

    async def three_calls():
        for name in "abc":
            await embed(client, provider, name)

    loops = [in_thread(three_calls) for _ in range(3)]
    seen(provider, lambda stats: stats.connections_open == 0 and len(stats.calls) == 9)
    gc.collect()  # sockets left open would warn now
    assert [loop() for loop in loops] == [None, None, None]


def test_connections_are_closed_when_the_main_loop_ends(cache, provider):
    client = clients_of(cache, provider).asynchronous

    async def call():
        await embed(client, provider, "a")
        return (await seen_soon(provider, lambda stats: len(stats.calls) == 1)).connections_open

    assert asyncio.run(call()) == 1
    seen(provider, lambda stats: stats.connections_open == 0)


def test_threads_share_one_synchronous_client_and_its_connections(cache, provider):
    client = clients_of(cache, provider).synchronous
    for name in "abc":
        thread = threading.Thread(target=embed_blocking, args=(client, provider, name))
        thread.start()
        thread.join()
    assert seen(provider, lambda stats: len(stats.calls) == 3).connections_opened == 1


@pytest.fixture
def two_at_most(monkeypatch):
    monkeypatch.setattr(http_clients, "MAX_CLIENTS", 2)


@pytest.mark.usefixtures("two_at_most")
async def test_the_client_used_least_recently_is_dropped_and_its_connections_are_closed(cache, provider):
    oldest, kept = (clients_of(cache, provider, key) for key in ("oldest", "kept"))
    await embed(oldest.asynchronous, provider, "a")
    await asyncio.to_thread(embed_blocking, oldest.synchronous, provider, "b")
    await seen_soon(provider, lambda stats: stats.connections_open == 2)
    assert clients_of(cache, provider, "kept") is kept
    clients_of(cache, provider, "new")
    await seen_soon(provider, lambda stats: stats.connections_open == 0)
    assert clients_of(cache, provider, "kept") is kept
    assert clients_of(cache, provider, "oldest") is not oldest


@pytest.mark.usefixtures("two_at_most")
async def test_whoever_still_holds_a_dropped_client_can_go_on_using_it(cache, provider):
    held = clients_of(cache, provider, "held")
    await embed(held.asynchronous, provider, "a")
    for key in "xyz":
        clients_of(cache, provider, key)
    await embed(held.asynchronous, provider, "b")
    await asyncio.to_thread(embed_blocking, held.synchronous, provider, "c")
    stats = await seen_soon(provider, lambda stats: stats.connections_open == 0)
    assert stats.answered == {200: 3}


@pytest.mark.usefixtures("two_at_most")
async def test_a_client_in_use_is_not_dropped_however_long_ago_it_was_asked_for(cache, provider):
    models = f"{provider.base_url}/models"
    first, second = (clients_of(cache, provider, key) for key in "ab")
    async with first.asynchronous.stream("GET", models) as answer:
        with second.synchronous.stream("GET", models) as blocking_answer:
            for key in "xyz":
                clients_of(cache, provider, key)
            assert clients_of(cache, provider, "a") is first
            assert clients_of(cache, provider, "b") is second
            assert blocking_answer.read()
        assert await answer.aread()
    for key in "uvw":
        clients_of(cache, provider, key)
    assert clients_of(cache, provider, "a") is not first
    assert clients_of(cache, provider, "b") is not second


async def test_requests_under_way_when_their_client_is_dropped_are_not_cut_off(cache, provider):
    clients = clients_of(cache, provider)
    provider.configure(fault="hang")
    calls = asyncio.gather(
        embed(clients.asynchronous, provider, "a"),
        asyncio.to_thread(embed_blocking, clients.synchronous, provider, "b"),
    )
    await seen_soon(provider, lambda stats: stats.in_flight == {"embeddings": 2})
    for entry in cache._entries.values():
        entry.close_soon()
    await asyncio.sleep(0)
    provider.configure(fault="ok")
    await calls
    await seen_soon(provider, lambda stats: stats.connections_open == 0)


async def test_closing_the_cache_closes_connections_of_running_loops_and_of_threads(cache, provider):
    clients = clients_of(cache, provider)
    await embed(clients.asynchronous, provider, "a")
    await asyncio.to_thread(embed_blocking, clients.synchronous, provider, "b")
    assert provider.stats().connections_open == 2
    cache.close()
    await seen_soon(provider, lambda stats: stats.connections_open == 0)


async def test_a_call_that_fails_or_is_cancelled_no_longer_counts_as_in_use(cache, provider):
    clients = clients_of(cache, provider)
    (entry,) = cache._entries.values()
    provider.configure(fault="reset")
    with pytest.raises(httpx.ReadError):
        await embed(clients.asynchronous, provider, "a")
    with pytest.raises(httpx.ReadError):
        await asyncio.to_thread(embed_blocking, clients.synchronous, provider, "b")
    provider.configure(fault="hang")
    task = asyncio.ensure_future(embed(clients.asynchronous, provider, "c"))
    await seen_soon(provider, lambda stats: stats.in_flight)
    assert not entry.idle
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert entry.idle


@pytest.mark.usefixtures("langflow_settings")
def test_langflow_refuses_a_loopback_endpoint_that_the_operator_has_not_allowed(cache, provider, monkeypatch):
    monkeypatch.delenv("LANGFLOW_SSRF_ALLOWED_HOSTS", raising=False)
    with pytest.raises(ValueError, match="SSRF"):
        cache.clients(provider.base_url, DEFAULT, "key", HttpTimeouts())


@pytest.mark.usefixtures("allowed")
async def test_an_allowed_endpoint_is_reached(cache, provider):
    clients = cache.clients(provider.base_url, DEFAULT, "key", HttpTimeouts())
    await embed(clients.asynchronous, provider, "a")
    await asyncio.to_thread(embed_blocking, clients.synchronous, provider, "b")


@pytest.mark.usefixtures("langflow_settings")
async def test_connections_to_a_custom_endpoint_go_to_the_addresses_that_were_checked(cache, provider, monkeypatch):
    monkeypatch.delenv("LANGFLOW_SSRF_ALLOWED_HOSTS", raising=False)
    clients = cache.clients("https://93.184.215.14/v1", DEFAULT, "key", HttpTimeouts())
    with pytest.raises(RuntimeError, match="pin"):
        await embed(clients.asynchronous, provider, "a")
    with pytest.raises(RuntimeError, match="pin"):
        embed_blocking(clients.synchronous, provider, "b")


@pytest.mark.usefixtures("allowed")
async def test_a_custom_endpoint_cannot_send_the_credential_elsewhere_by_a_redirect(cache, provider):
    class Redirecting(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(307)
            self.send_header("location", f"{provider.base_url}/models")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/v1"
            clients = cache.clients(url, DEFAULT, "key", HttpTimeouts())
            assert (await clients.asynchronous.get(f"{url}/models")).status_code == 307
            assert (await asyncio.to_thread(clients.synchronous.get, f"{url}/models")).status_code == 307
        finally:
            cache.close()
            server.shutdown()
            thread.join()
    assert provider.stats().requests == {}


@pytest.mark.usefixtures("allowed")
def test_a_key_from_the_servers_environment_does_not_go_to_a_custom_endpoint(provider, monkeypatch):
    from langflow_sluice.models.openai_compatible import Upstream

    monkeypatch.setenv("OPENAI_API_KEY", "canary-key-of-the-operator")
    with pytest.raises(ValueError, match="environment") as caught:
        Upstream(base_url=provider.base_url, api_key="canary-key-of-the-operator").clients()
    assert "canary" not in str(caught.value)
    Upstream(base_url=provider.base_url, api_key="a key of the user's own").clients()


async def test_the_default_endpoint_is_reached_through_the_proxy_of_the_environment(cache, provider, monkeypatch):
    # Nothing listens on port 1: only the proxy, played by the provider, can answer.
    monkeypatch.setenv("HTTP_PROXY", provider.base_url.removeprefix("http://").removesuffix("/v1"))
    clients = cache.clients("", "http://127.0.0.1:1/v1", "key", HttpTimeouts())
    assert (await clients.asynchronous.get("http://127.0.0.1:1/v1/models")).status_code == 200
    assert (await asyncio.to_thread(clients.synchronous.get, "http://127.0.0.1:1/v1/models")).status_code == 200
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    clients = cache.clients("", "http://127.0.0.1:1/v1", "another key", HttpTimeouts())
    with pytest.raises(httpx.ConnectError):
        await clients.asynchronous.get("http://127.0.0.1:1/v1/models")


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"https_proxy": "http://one:3128"}, "http://one:3128"),
        ({"https_proxy": "one:3128"}, "http://one:3128"),
        ({"HTTPS_PROXY": "http://one:3128", "ALL_PROXY": "http://two:3128"}, "http://one:3128"),
        ({"all_proxy": "http://two:3128"}, "http://two:3128"),
        ({"http_proxy": "http://plain:3128"}, None),
        ({"https_proxy": "http://one:3128", "no_proxy": "example.com,openai.com"}, None),
        ({"https_proxy": "http://one:3128", "no_proxy": "example.com"}, "http://one:3128"),
        ({"https_proxy": "http://one:3128", "no_proxy": "*"}, None),
    ],
)
def test_the_proxy_is_the_one_that_httpx_would_choose(monkeypatch, environment, proxy):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert http_clients._proxy(DEFAULT) == proxy
    mounts = [transport for pattern, transport in httpx.Client()._mounts.items() if pattern.matches(httpx.URL(DEFAULT))]
    chosen = mounts[0]._pool._proxy_url if mounts and mounts[0] is not None else None
    assert (chosen and f"http://{chosen.host.decode()}:{chosen.port}") == proxy


def test_the_fingerprint_tells_credentials_apart_and_does_not_tell_them(cache):
    assert fingerprint("canary-one") != fingerprint("canary-two")
    assert "canary" not in fingerprint("canary-one")
    cache.clients("", DEFAULT, "canary-one", HttpTimeouts())
    assert "canary" not in repr(cache._entries)


def run_script(source, *arguments):
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", textwrap.dedent(source), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S * 2, check=False)


def test_connections_are_closed_before_the_process_ends(provider):
    # Registered before ours and so called after it.
    ended = run_script(
        """
        import atexit, json, sys, urllib.request

        def ask():
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            for _ in range(1000):
                stats = json.load(opener.open(root + "/_sim/stats"))
                if not stats["connections_open"]:
                    print("closed after", stats["connections_opened"])
                    return

        root = sys.argv[1].removesuffix("/v1")
        atexit.register(ask)
        from langflow_sluice.http_clients import HttpTimeouts, client_cache
        client = client_cache().clients("", sys.argv[1], "key", HttpTimeouts()).synchronous
        client.get(sys.argv[1] + "/models")
        """,
        provider.base_url,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("closed after 1\n", "", 0)


def test_a_forked_child_has_clients_of_its_own_even_if_the_parent_was_making_one():
    ended = run_script(
        """
        import os
        from langflow_sluice.http_clients import HttpTimeouts, client_cache
        parents = client_cache()
        ours = parents.clients("", "https://api.openai.com/v1", "key", HttpTimeouts())
        with parents._lock:
            child = os.fork()
            if not child:
                theirs = client_cache().clients("", "https://api.openai.com/v1", "key", HttpTimeouts())
                os._exit(theirs is ours)
        print(os.waitpid(child, 0)[1])
        """
    )
    assert (ended.stdout, ended.stderr) == ("0\n", "")
