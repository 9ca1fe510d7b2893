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
from langflow_sluice.testing import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

ONE = PoolSettings(pool_size=1, max_overflow=0, pool_timeout_s=5)
NO_TEST = PoolSettings(pool_size=1, max_overflow=0, pool_timeout_s=5, pre_ping=False)


@contextlib.contextmanager
def relayed(database_url: str, settings: PoolSettings) -> Iterator[tuple[Relay, AsyncEngine]]:
    url = parse_database_url(database_url)
    with Relay(url.port or 0) as relay:
        try:
            yield relay, engine_for(url.set(port=relay.port), settings)
        finally:
            dispose_all()


async def backend(engine: AsyncEngine) -> object:
    async with connection(engine) as driver:
        row = await (await driver.execute("SELECT pg_backend_pid()")).fetchone()
    return row[0] if row else None


@pytest.fixture(autouse=True)
def _all_were_idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PING_AFTER_S", -1.0)


async def test_a_connection_that_does_not_answer_its_test_is_replaced_before_anybody_gets_it(database_url: str) -> None:
    with relayed(database_url, ONE) as (relay, engine):
        first = await backend(engine)
        relay.forget()
        assert await backend(engine) != first
        assert relay.opened == 2
        assert pool_of(engine).checkedout() == 0


async def test_without_the_test_the_caller_gets_the_dead_connection(database_url: str) -> None:
    with relayed(database_url, NO_TEST) as (relay, engine):
        await backend(engine)
        relay.forget()
        with pytest.raises(Exception, match=r"closed|terminat"):
            await backend(engine)
        assert pool_of(engine).checkedout() == 0


async def test_who_is_cancelled_while_a_connection_is_tested_leaves_nothing_behind(database_url: str) -> None:
    with relayed(database_url, ONE) as (relay, engine):
        first = await backend(engine)
        relay.forget(silently=True)
        waiting = asyncio.ensure_future(backend(engine))
        await asyncio.to_thread(relay.held.wait)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert pool_of(engine).checkedout() == 0
        assert await backend(engine) != first
