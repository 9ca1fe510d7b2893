"""A hundred searches at a time: what the database sees of them, and of the same searches through stock PGVector."""

import asyncio
import random
import warnings

import pytest

from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.postgres.documents import DocumentRow
from langflow_sluice.postgres.engines import dispose_all, engine_for
from langflow_sluice.postgres.search import CollectionSearch
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url
from langflow_sluice.postgres.writer import CollectionWriter

DIMENSIONS = 16
ROWS = 500
SEARCHES = 2_000
AT_ONCE = 100
SETTINGS = PoolSettings(pool_size=5, max_overflow=5)


@pytest.fixture
def server(reachable):  # noqa: ARG001 - for its effect
    with EmbeddedPostgres() as server:
        yield server
        dispose_all()


def vector_of(number):
    numbers = random.Random(number)  # noqa: S311 - no secret
    return [numbers.gauss(0, 1) for _ in range(DIMENSIONS)]


async def limited(work, count):
    """Does so much work, a hundred at a time; returns what each did or raised."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number):
        async with gate:
            return await work(number)

    return await asyncio.gather(*(one(number) for number in range(count)), return_exceptions=True)


async def test_two_thousand_searches_a_hundred_at_a_time_need_no_more_connections_than_the_pool_has(server):
    url = parse_database_url(server.url)
    rows = [DocumentRow(f"Row {number}", {"n": number}, vector_of(number)) for number in range(ROWS)]
    await CollectionWriter(engine_for(url, SETTINGS), "load").write(rows)

    async def search(number):
        found = CollectionSearch(engine_for(url, SETTINGS), "load").similarity(
            vector_of(number % ROWS), k=1, exact=True
        )
        return [hit.metadata["n"] for hit in await found]

    with server.watch() as watch:
        found = await limited(search, SEARCHES)
    assert found == [[number % ROWS] for number in range(SEARCHES)]
    assert 1 <= watch.peak() <= SETTINGS.capacity


async def test_the_same_searches_through_stock_pgvector_use_up_the_server(server):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_community.vectorstores import PGVector
        from langchain_core.embeddings import FakeEmbeddings

    stores = []

    def search(number):
        # As the stock node does: a store for each search, which nobody closes.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store = PGVector.from_existing_index(
                FakeEmbeddings(size=DIMENSIONS),
                collection_name="load",
                connection_string=server.url.replace("postgresql://", "postgresql+psycopg2://"),
                use_jsonb=True,
            )
        stores.append(store)
        return store.similarity_search_by_vector(vector_of(number), k=1)

    with server.watch() as watch:
        found = await limited(lambda number: asyncio.to_thread(search, number), 150)
    failed = [each for each in found if isinstance(each, Exception)]
    for store in stores:
        store._bind.dispose()
    assert watch.peak() > SETTINGS.capacity
    assert failed
