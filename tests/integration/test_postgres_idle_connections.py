"""Connections that were idle for a while, on a way to the server that has died without anybody being told."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from langflow_sluice.postgres import pool
from langflow_sluice.postgres.engines import connection, dispose_all, engine_for, pool_of
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

ONE = PoolSettings(pool_size=1, max_overflow=0, pool_timeout_s=5)
NO_TEST = PoolSettings(pool_size=1, max_overflow=0, pool_timeout_s=5, pre_ping=False)


class Relay:
    """Stands between the pool and the server, as a firewall does.

    Attributes:
        port: Where it listens.
        forgets: Whether it closes what it knew of once something is sent over it.
        swallows: Whether it takes what is sent and passes nothing on.
        swallowed: Set when it has done so.
        opened: How many connections it was asked for.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.port = 0
        self.forgets = self.swallows = False
        self.swallowed = asyncio.Event()
        self.opened = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        known = self.opened
        self._tasks.add(asyncio.current_task())
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._target)
        ways = [
            asyncio.ensure_future(self._pass_on(reader, back_writer, known)),
            asyncio.ensure_future(self._pass_on(back_reader, writer, known)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for each in (writer, back_writer):
                each.transport.abort()
            await asyncio.wait(ways)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, known: int) -> None:
        while data := await reader.read(65536):
            if self.forgets and known == 1:
                return
            if self.swallows and known == 1:
                self.swallowed.set()
            else:
                writer.write(data)
                await writer.drain()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)


@contextlib.asynccontextmanager
async def relayed(database_url: str, settings: PoolSettings) -> AsyncIterator[tuple[Relay, AsyncEngine]]:
    url = parse_database_url(database_url)
    relay = Relay(url.port or 0)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    try:
        yield relay, engine_for(url.set(port=server.sockets[0].getsockname()[1]), settings)
    finally:
        dispose_all()
        server.close()
        await relay.close()


async def backend(engine: AsyncEngine) -> object:
    async with connection(engine) as driver:
        row = await (await driver.execute("SELECT pg_backend_pid()")).fetchone()
    return row[0] if row else None


@pytest.fixture(autouse=True)
def _all_were_idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PING_AFTER_S", -1.0)


async def test_a_connection_that_does_not_answer_its_test_is_replaced_before_anybody_gets_it(database_url: str) -> None:
    async with relayed(database_url, ONE) as (relay, engine):
        first = await backend(engine)
        relay.forgets = True
        assert await backend(engine) != first
        assert relay.opened == 2
        assert pool_of(engine).checkedout() == 0


async def test_without_the_test_the_caller_gets_the_dead_connection(database_url: str) -> None:
    async with relayed(database_url, NO_TEST) as (relay, engine):
        await backend(engine)
        relay.forgets = True
        with pytest.raises(Exception, match=r"closed|terminat"):
            await backend(engine)
        assert pool_of(engine).checkedout() == 0


async def test_who_is_cancelled_while_a_connection_is_tested_leaves_nothing_behind(database_url: str) -> None:
    async with relayed(database_url, ONE) as (relay, engine):
        first = await backend(engine)
        relay.swallows = True
        waiting = asyncio.ensure_future(backend(engine))
        await relay.swallowed.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert pool_of(engine).checkedout() == 0
        assert await backend(engine) != first
