from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langflow_sluice.embedded.postgres import EmbeddedPostgres
    from langflow_sluice.embedded.redis import EmbeddedRedis


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL for all tests that want one; started by the first of them."""
    from langflow_sluice.embedded.postgres import EmbeddedPostgres

    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
def database_url(postgres_server: EmbeddedPostgres, reachable: None) -> Iterator[str]:  # noqa: ARG001 - for its effect
    """A fresh database with pgvector; its engines are closed and it is dropped afterwards."""
    from langflow_sluice.postgres.engines import dispose_all

    url = postgres_server.create_database()
    yield url
    dispose_all()
    postgres_server.drop_database(url.rsplit("/", 1)[1])


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """One Redis for all tests that want one and neither stop nor flush it; they are skipped where there is none."""
    from langflow_sluice.embedded import redis

    if redis.program() is None:
        pytest.skip(redis.MISSING)
    with redis.EmbeddedRedis(password="of the tests") as server:
        yield server
