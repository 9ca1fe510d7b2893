"""What the shared HTTP clients tell of their connections, against what the service at the other end sees."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from langflow_sluice import http_clients
from langflow_sluice.http_clients import ClientCache, ClientStatistics, HttpClients, HttpTimeouts, client_statistics
from langflow_sluice.metrics.figures import ProcessFigures, figures
from langflow_sluice.simulator import ProviderSettings, ProviderStats, serve_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langflow_sluice.simulator import ProviderControl

DEADLINE_S = 30.0
CANARY = "canary-key"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def provider() -> Iterator[ProviderControl]:
    with serve_in_thread(ProviderSettings(service_s=0.0)) as control:
        yield control


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientCache]:
    made = ClientCache()
    monkeypatch.setattr(http_clients, "_cache", made)
    yield made
    made.close()


def clients_of(cache: ClientCache, provider: ProviderControl, key: str = "key") -> HttpClients:
    return cache.clients("", provider.base_url, key, HttpTimeouts())


def told() -> tuple[int, int, int, int]:
    """Open, in use and waiting connections, and their limit, of the only upstream."""
    [seen] = client_statistics()
    return seen.open, seen.in_use, seen.waiting, seen.limit


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_they_are_what_the_service_sees_at_that_moment(cache: ClientCache, provider: ProviderControl) -> None:
    models = f"{provider.base_url}/models"
    clients = clients_of(cache, provider)
    assert told() == (0, 0, 0, 0)

    async def seen(condition: Callable[[ProviderStats], bool]) -> None:
        await until(lambda: condition(provider.stats()))

    async with clients.asynchronous.stream("GET", models), clients.asynchronous.stream("GET", models) as second:
        with clients.synchronous.stream("GET", models) as blocking:
            await seen(lambda stats: stats.connections_open == 3)
            assert told() == (3, 3, 0, 0)
            blocking.read()
        await second.aread()
        assert told() == (3, 1, 0, 0)
    # The first was left before its end, so its connection is no good any more.
    await seen(lambda stats: stats.connections_open == 2)
    assert told() == (2, 0, 0, 0)


async def test_a_connection_that_the_service_has_closed_is_not_open(cache: ClientCache) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await over.wait()
        writer.close()

    over = asyncio.Event()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        clients = cache.clients("", address, "key", HttpTimeouts())
        await clients.asynchronous.get(address)
        assert told() == (1, 0, 0, 0)
        over.set()
        await until(lambda: told() == (0, 0, 0, 0))


async def test_a_request_whose_connection_is_being_opened_waits(cache: ClientCache) -> None:
    with contextlib.ExitStack() as stack:
        # Its queue is full, so the kernel answers no more attempts to connect.
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        stack.enter_context(socket.create_connection(address))
        clients = cache.clients("", f"http://127.0.0.1:{address[1]}", "key", HttpTimeouts(connect_s=DEADLINE_S))
        tasks = [asyncio.ensure_future(clients.asynchronous.get(f"http://127.0.0.1:{address[1]}")) for _ in range(3)]
        await until(lambda: told()[2] > 0)
        open_, in_use, waiting, _ = told()
        assert open_ == in_use
        assert in_use + waiting == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert told()[1:3] == (0, 0)


async def test_credentials_of_one_upstream_are_one_line_without_them(
    cache: ClientCache, provider: ProviderControl
) -> None:
    port = provider.base_url.split(":")[2].split("/")[0]
    secret = f"http://user:{CANARY}@127.0.0.1:{port}/v1/{CANARY}"
    for clients in (clients_of(cache, provider, CANARY), cache.clients("", secret, CANARY, HttpTimeouts())):
        await clients.asynchronous.get(f"{provider.base_url}/models")
    cache.clients("", "https://api.example.com/v1", CANARY, HttpTimeouts())
    cache.clients("", f"http://[::1]/{CANARY}", CANARY, HttpTimeouts())
    assert client_statistics() == [
        ClientStatistics(f"http://127.0.0.1:{port}", 2, 0, 0, 0),
        ClientStatistics("http://[::1]:80", 0, 0, 0, 0),
        ClientStatistics("https://api.example.com:443", 0, 0, 0, 0),
    ]
    written = json.dumps(figures().to_dict())
    assert CANARY not in written
    assert ProcessFigures.from_dict(json.loads(written)).clients == figures().clients


async def test_those_of_other_loops_and_threads_count_too(cache: ClientCache, provider: ProviderControl) -> None:
    clients = clients_of(cache, provider)
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        async def stream() -> None:
            async with clients.asynchronous.stream("GET", f"{provider.base_url}/models"):
                held.set()
                await asyncio.to_thread(over.wait, DEADLINE_S)

        asyncio.run(stream())

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        await asyncio.to_thread(held.wait, DEADLINE_S)
        assert told() == (1, 1, 0, 0)
    finally:
        over.set()
        thread.join()
    # Its loop is gone, and a connection cannot be used on another one.
    assert told() == (0, 0, 0, 0)


def test_a_loop_that_was_closed_with_a_request_under_way_is_not_held_by_the_count(
    cache: ClientCache, provider: ProviderControl
) -> None:
    clients = clients_of(cache, provider)

    def abandon() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.new_event_loop()
        answer = loop.run_until_complete(
            clients.asynchronous.send(
                clients.asynchronous.build_request("GET", f"{provider.base_url}/models"), stream=True
            )
        )
        assert told() == (1, 1, 0, 0)
        # Only so that no socket is left over; nobody tells the client.
        answer.extensions["network_stream"]._stream._transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return weakref.ref(loop)

    found: list[weakref.ref[asyncio.AbstractEventLoop]] = []
    thread = threading.Thread(target=lambda: found.append(abandon()))
    thread.start()
    thread.join()
    assert told() == (0, 0, 0, 0)
    gc.collect()
    assert found[0]() is None


async def test_reading_waits_for_nobody(cache: ClientCache, provider: ProviderControl) -> None:
    clients = clients_of(cache, provider)
    await clients.asynchronous.get(f"{provider.base_url}/models")
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with cache._lock, clients.blocking_transport._lock:
            held.set()
            done.wait(DEADLINE_S)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(DEADLINE_S)
        assert told() == (1, 0, 0, 0)
    finally:
        done.set()
        holder.join()
