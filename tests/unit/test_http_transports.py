"""What becomes of a connection when a stream has been read to its last event, or has been left before."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from langflow_sluice import http_transports
from langflow_sluice.http_clients import ClientCache, HttpTimeouts

DEADLINE_S = 30.0
HOURS = 3600.0
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(text):
    return b"%x\r\n%s\r\n" % (len(text), text)


WORD, DONE = chunk(b'data: {"word": "one"}\n\n'), chunk(b"data: [DONE]\n\n")


class Server:
    """Answers each request on 127.0.0.1 with the same pieces, waiting before each but the first for ``go``."""

    def __init__(self, *pieces):
        self._pieces = pieces
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = self.ended = 0
        self.go = threading.Event()
        self.left = threading.Event()
        self._open = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append((connection, threading.Thread(target=self._serve, args=(connection,))))
                self._open[-1][1].start()

    def _serve(self, connection):
        with contextlib.suppress(OSError), connection:
            while connection.recv(65536):
                for number, piece in enumerate(self._pieces):
                    if number:
                        self.go.wait()
                    connection.sendall(piece)
        self.ended += 1
        self.left.set()

    def close(self):
        self.go.set()
        with contextlib.suppress(OSError):  # closed before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection, thread in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def serve():
    with contextlib.ExitStack() as stack:

        def start(*pieces):
            server = Server(*pieces)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def cache():
    made = ClientCache()
    yield made
    made.close()


def clients_of(cache, server):
    # No limit on reads: whatever waits for more than it needs to waits for ever.
    return cache.clients("", server.url, "key", HttpTimeouts(read_s=0))


async def read(client, server, last=b"[DONE]"):
    """Reads as the SDKs do: up to the last event, not to the end of the body."""
    async with client.stream("GET", server.url) as answer:
        async for piece in answer.aiter_raw():
            if last in piece:
                return


def read_blocking(client, server, last=b"[DONE]"):
    with client.stream("GET", server.url) as answer:
        for piece in answer.iter_raw():
            if last in piece:
                return


async def in_thread(work, *arguments):
    """Runs blocking work, and fails instead of waiting for ever."""
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    await asyncio.to_thread(thread.join, DEADLINE_S)
    assert not thread.is_alive()


async def read_each_way(clients, server, **options):
    async with asyncio.timeout(DEADLINE_S):
        await read(clients.asynchronous, server, **options)
    await in_thread(lambda: read_blocking(clients.synchronous, server, **options))


@pytest.mark.parametrize(
    "pieces",
    [
        (HEAD + WORD + DONE + END,),
        (HEAD + WORD + DONE, END),
        (HEAD + WORD, DONE, END),
    ],
)
async def test_after_the_last_event_the_little_that_follows_is_read_and_the_connection_is_used_again(
    cache, serve, pieces
):
    server = serve(*pieces)
    server.go.set()
    clients = clients_of(cache, server)
    for _ in range(3):
        await read_each_way(clients, server)
    assert server.connections == 2
    assert clients.idle


async def test_a_service_that_says_nothing_after_the_last_event_is_not_waited_for(cache, serve, monkeypatch):
    monkeypatch.setattr(http_transports, "_DRAIN_S", 0.05)
    server = serve(HEAD + WORD + DONE, END)
    clients = clients_of(cache, server)
    for _ in range(2):
        await read_each_way(clients, server)
    assert not server.go.is_set()
    assert server.connections == 4
    assert clients.idle


async def test_a_service_that_sends_on_after_the_last_event_is_left(cache, serve):
    server = serve(HEAD + DONE, WORD, WORD, WORD, END)
    server.go.set()
    clients = clients_of(cache, server)
    for _ in range(2):
        await read_each_way(clients, server)
    assert clients.idle


@pytest.mark.parametrize("way", ["asynchronous", "synchronous"])
async def test_a_stream_that_is_left_in_the_middle_is_closed_and_not_read_on(cache, serve, monkeypatch, way):
    monkeypatch.setattr(http_transports, "_DRAIN_S", HOURS)
    server = serve(HEAD + WORD, DONE, END)
    clients = clients_of(cache, server)
    if way == "asynchronous":
        async with asyncio.timeout(DEADLINE_S):
            await read(clients.asynchronous, server, last=b"one")
    else:
        await in_thread(lambda: read_blocking(clients.synchronous, server, last=b"one"))
    assert clients.idle
    # The service sees it when it writes, or reads the next request; it has not been told to write.
    server.go.set()
    assert await asyncio.to_thread(server.left.wait, DEADLINE_S)


async def test_cancelling_while_the_end_is_waited_for_closes_the_connection(cache, serve, monkeypatch):
    monkeypatch.setattr(http_transports, "_DRAIN_S", HOURS)
    server = serve(HEAD + DONE, END)
    clients = clients_of(cache, server)
    task = asyncio.ensure_future(read(clients.asynchronous, server))
    deadline = time.monotonic() + DEADLINE_S
    while not server.connections or clients.loop_transport.in_use == 0:
        assert time.monotonic() < deadline
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clients.idle


async def test_a_connection_that_breaks_after_the_last_event_does_no_harm(cache, serve):
    server = serve(HEAD + DONE)
    clients = clients_of(cache, server)
    async with asyncio.timeout(DEADLINE_S):
        async with clients.asynchronous.stream("GET", server.url) as answer:
            await anext(answer.aiter_raw())
            server.close()
    assert clients.idle


def test_the_limit_on_the_last_read_does_not_stay_on_the_connection(cache, serve):
    server = serve(HEAD + DONE + END)
    client = clients_of(cache, server).synchronous
    with client.stream("GET", server.url) as answer:
        network = answer.extensions["network_stream"]
        next(answer.iter_raw())
    assert "read" not in vars(network)


@contextlib.asynccontextmanager
async def begun(client, server):
    """A request whose answer has begun."""
    async with client.stream("GET", server.url) as answer:
        pieces = answer.aiter_raw()
        await anext(pieces)
        yield pieces


@contextlib.contextmanager
def begun_blocking(client, server):
    with client.stream("GET", server.url) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        yield pieces


async def ended(server, count):
    deadline = time.monotonic() + DEADLINE_S
    while server.ended < count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


async def test_a_request_takes_a_connection_that_is_still_open_before_it_opens_another(cache, serve):
    server = serve(HEAD + WORD, DONE + END)
    server.go.set()
    clients = clients_of(cache, server)
    async with begun(clients.asynchronous, server):  # closed in the middle, after the other has come to its end
        await read(clients.asynchronous, server)
    await read(clients.asynchronous, server)
    assert server.connections == 2
    with begun_blocking(clients.synchronous, server):
        read_blocking(clients.synchronous, server)
    read_blocking(clients.synchronous, server)
    assert server.connections == 4


async def test_connections_that_have_been_of_no_use_for_long_are_closed_with_the_next_request(
    cache, serve, monkeypatch
):
    server = serve(HEAD + WORD, DONE + END)
    server.go.set()
    clients = clients_of(cache, server)
    async with begun(clients.asynchronous, server) as pieces:
        await read(clients.asynchronous, server)
        async for _ in pieces:
            pass
    with begun_blocking(clients.synchronous, server) as pieces:
        read_blocking(clients.synchronous, server)
        list(pieces)
    assert (server.connections, server.ended) == (4, 0)
    monkeypatch.setattr(http_transports, "KEEPALIVE_S", -1.0)  # even those of now were used long ago
    await read(clients.asynchronous, server)
    await ended(server, 2)
    read_blocking(clients.synchronous, server)
    await ended(server, 4)
    assert server.connections == 4


async def test_a_pool_that_is_closed_closes_what_is_in_use_when_its_request_has_ended(cache, serve):
    server = serve(HEAD + WORD, DONE + END)
    clients = clients_of(cache, server)
    async with begun(clients.asynchronous, server) as pieces:
        await clients.loop_transport.aclose()
        assert server.ended == 0
        server.go.set()
        assert b"".join([piece async for piece in pieces]).endswith(b"[DONE]\n\n")
    await ended(server, 1)
    await read(clients.asynchronous, server)
    assert server.connections == 2


async def test_fifty_requests_at_once_have_a_connection_each_and_use_it_again(cache, serve):
    server = serve(HEAD + WORD, DONE + END)
    clients = clients_of(cache, server)
    for _ in range(2):
        server.go.clear()
        tasks = [asyncio.ensure_future(read(clients.asynchronous, server)) for _ in range(50)]
        deadline = time.monotonic() + DEADLINE_S
        while server.connections < 50:
            assert time.monotonic() < deadline
            await asyncio.sleep(0)
        server.go.set()
        await asyncio.gather(*tasks)
    assert server.connections == 50
    assert clients.idle
