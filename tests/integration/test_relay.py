"""A way to a server that a test can make slow, stop, forget or cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from langflow_sluice.testing import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

# Long enough for whatever is on its way on this machine to arrive, were it let through.
A_WHILE_S = 0.1


class Echo:
    """Sends back what it is sent, and keeps it."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self._socket.getsockname()[1]
        self.received = b""
        self.ended = threading.Semaphore(0)
        self._threads: list[threading.Thread] = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self._threads.append(threading.Thread(target=self._answer, args=(connection,)))
                self._threads[-1].start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                self.received += data
                connection.sendall(data)
        self.ended.release()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def relay(echo: Echo) -> Iterator[Relay]:
    with Relay(echo.port) as running:
        yield running


@pytest.fixture
def client(relay: Relay) -> Iterator[socket.socket]:
    with connected(relay) as connection:
        yield connection


def connected(relay: Relay) -> socket.socket:
    return socket.create_connection(("127.0.0.1", relay.port), timeout=10)


def echoed(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return received(connection, len(data))


def received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(65536)):
        data += more
    return data


def silent(connection: socket.socket) -> bool:
    connection.settimeout(A_WHILE_S)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(10)
    return False


def within_ten_seconds(condition) -> bool:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_all_that_is_sent_arrives_both_ways(client: socket.socket) -> None:
    data = bytes(range(256)) * 8192
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert received(client, len(data)) == data
    sender.join()


def test_an_end_in_order_reaches_the_other_side_and_back(client: socket.socket, echo: Echo, relay: Relay) -> None:
    assert echoed(client, b"word") == b"word"
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert echo.ended.acquire(timeout=10)
    assert within_ten_seconds(lambda: relay.open_now == 0)


def test_it_counts_what_is_open_now_was_ever_and_at_most(relay: Relay) -> None:
    for _ in range(2):
        connections = [connected(relay) for _ in range(3)]
        for each in connections:
            assert echoed(each, b"-") == b"-"
        assert relay.open_now == 3
        for each in connections:
            each.close()
        assert within_ten_seconds(lambda: relay.open_now == 0)
    assert (relay.opened, relay.most_open) == (6, 3)


def test_what_is_held_comes_in_order_after_the_release(client: socket.socket, echo: Echo, relay: Relay) -> None:
    assert echoed(client, b"one") == b"one"
    relay.hold()
    client.sendall(b"two")
    assert relay.held.wait(10)
    with connected(relay) as later:
        later.sendall(b"other")
        assert silent(client)
        assert silent(later)
        assert echo.received == b"one"
        assert relay.open_now == 2
        client.sendall(b"three")
        relay.release()
        assert received(client, 8) == b"twothree"
        assert received(later, 5) == b"other"
    assert not relay.held.is_set()


def test_held_answers_are_of_requests_that_were_done(client: socket.socket, echo: Echo, relay: Relay) -> None:
    assert echoed(client, b"one") == b"one"
    relay.hold(requests=False)
    client.sendall(b"two")
    assert relay.held.wait(10)
    assert echo.received == b"onetwo"
    assert silent(client)
    relay.release()
    assert received(client, 3) == b"two"


def test_the_server_does_not_learn_of_a_client_that_leaves_while_all_is_held(echo: Echo, relay: Relay) -> None:
    with connected(relay) as client:
        assert echoed(client, b"-") == b"-"
        relay.hold()
    assert relay.held.wait(10)
    assert not echo.ended.acquire(timeout=A_WHILE_S)
    relay.release()
    assert echo.ended.acquire(timeout=10)


@pytest.mark.parametrize("held", [False, True])
def test_a_cut_resets_what_is_open_at_both_ends_and_takes_new_ones(
    client: socket.socket, echo: Echo, relay: Relay, *, held: bool
) -> None:
    assert echoed(client, b"-") == b"-"
    if held:
        relay.hold()
        client.sendall(b"lost")
        assert relay.held.wait(10)
    relay.cut()
    assert relay.open_now == 0
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.ended.acquire(timeout=10)
    relay.release()
    with connected(relay) as later:
        assert echoed(later, b"+") == b"+"
    assert echo.received == b"-+"


def test_a_forgotten_connection_is_reset_by_its_clients_next_word(
    client: socket.socket, echo: Echo, relay: Relay
) -> None:
    assert echoed(client, b"-") == b"-"
    relay.forget()
    assert silent(client)
    client.sendall(b"lost")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connected(relay) as later:
        assert echoed(later, b"+") == b"+"
    assert echo.received == b"-+"


def test_a_silently_forgotten_connection_swallows_what_is_sent(client: socket.socket, echo: Echo, relay: Relay) -> None:
    assert echoed(client, b"-") == b"-"
    relay.forget(silently=True)
    client.sendall(b"lost")
    assert relay.held.wait(10)
    assert silent(client)
    with connected(relay) as later:
        assert echoed(later, b"+") == b"+"
    assert echo.received == b"-+"


@pytest.mark.parametrize("way", ["request_delay_s", "answer_delay_s", "delay_s"])
def test_a_delay_holds_back_each_way_it_is_set_for(client: socket.socket, relay: Relay, way: str) -> None:
    assert echoed(client, b"-") == b"-"
    setattr(relay, way, A_WHILE_S * 2)
    assert relay.delay_s == A_WHILE_S * 2
    client.sendall(b"late")
    assert silent(client)
    assert received(client, 4) == b"late"
    relay.delay_s = 0
    assert (relay.request_delay_s, relay.answer_delay_s) == (0, 0)


def test_a_delay_that_ends_lets_nothing_overtake_what_was_delayed(client: socket.socket, relay: Relay) -> None:
    relay.request_delay_s = A_WHILE_S * 2
    client.sendall(b"one")
    assert silent(client)
    relay.request_delay_s = 0
    client.sendall(b"two")
    assert received(client, 6) == b"onetwo"


def test_an_unreachable_server_ends_the_clients_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with Relay(port) as relay:
        # Either may come first: that the connection is there, or that it is reset.
        with contextlib.suppress(ConnectionResetError), connected(relay) as client:
            assert client.recv(1) == b""
        assert within_ten_seconds(lambda: (relay.opened, relay.open_now) == (1, 0))


def test_leaving_it_resets_what_is_open_and_ends_its_thread(echo: Echo) -> None:
    with Relay(echo.port) as relay:
        client = connected(relay)
        assert echoed(client, b"-") == b"-"
        thread = relay._thread
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)
    assert thread is not None
    assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="not running"):
        relay.cut()


async def test_it_serves_callers_on_any_loop(relay: Relay) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    writer.write(b"word")
    assert await reader.readexactly(4) == b"word"
    writer.close()
    await writer.wait_closed()


def test_an_address_leads_through_it_with_all_its_other_parts(relay: Relay) -> None:
    here = f"127.0.0.1:{relay.port}"
    assert relay.through("redis://me:p%40ss@h:1/2?ssl=no") == f"redis://me:p%40ss@{here}/2?ssl=no"
    assert relay.through("postgresql://h/db") == f"postgresql://{here}/db"
