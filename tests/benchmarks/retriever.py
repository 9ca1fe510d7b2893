"""Searches a second through the shared pool, beside the same SQL on psycopg's pool, SQLAlchemy and stock PGVector.

Run it: ``uv run python tests/benchmarks/retriever.py [rows ...]`` (10,000 and 100,000 unless told otherwise; the latter
takes some minutes to index). Everything runs on an embedded PostgreSQL with query vectors at hand, 20 callers at a
time over 10 connections. Figures and ratios are printed; nothing is asserted.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.postgres import vectors
from langflow_sluice.postgres.documents import DocumentRow
from langflow_sluice.postgres.engines import dispose_all, engine_for
from langflow_sluice.postgres.search import CollectionSearch
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url
from langflow_sluice.postgres.writer import CollectionWriter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import psycopg

DIMENSIONS = 384
CALLERS = 20
CONNECTIONS = 10
SEARCHES = 4_000
STOCK_SEARCHES = 200
ROUNDS = 3
K = 4
COLLECTION = "benchmark"
PART = 5_000


@dataclass(frozen=True)
class Speed:
    """One contestant's round: searches a second, and the 95th percentile of a search in milliseconds."""

    per_s: float
    p95_ms: float


async def drive(search: Callable[[Sequence[float]], Awaitable[object]], queries: Sequence[list[float]]) -> Speed:
    """Asks all questions, so many callers at a time."""
    todo = iter(queries)
    took: list[float] = []

    async def caller() -> None:
        for query in todo:
            started = time.perf_counter()
            await search(query)
            took.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    total = time.perf_counter() - started
    return Speed(len(took) / total, statistics.quantiles(took, n=20)[-1] * 1000)


def embeddings(count: int, seed: int) -> np.ndarray:
    """Unit vectors in clusters, as embeddings of texts on so many topics are."""
    numbers = np.random.default_rng(seed)
    topics = np.random.default_rng(1).normal(size=(200, DIMENSIONS))
    found = topics[numbers.integers(0, len(topics), count)] + numbers.normal(size=(count, DIMENSIONS))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


async def fill(url: str, rows: int) -> float:
    """Writes the collection with our writer; returns seconds, the index included."""
    writer = CollectionWriter(engine_for(parse_database_url(url), PoolSettings(statement_timeout_s=0)), COLLECTION)
    data = embeddings(rows, seed=2)
    started = time.perf_counter()
    for start in range(0, rows, PART):
        part = [
            DocumentRow(f"Document {start + number}", {"number": start + number}, vector.tolist())
            for number, vector in enumerate(data[start : start + PART])
        ]
        await writer.write(part, build_index=start + PART >= rows)
    return time.perf_counter() - started


async def of_raw(url: str, queries: Sequence[list[float]]) -> Speed:
    statement = (
        f"SELECT content, metadata, embedding <=> %s::vector AS distance FROM {COLLECTION}"  # noqa: S608 - our own name
        f" ORDER BY distance LIMIT {K}"
    )

    async def configure(connection: psycopg.AsyncConnection) -> None:
        await connection.set_autocommit(True)
        vectors.register(connection)

    async with AsyncConnectionPool(
        url, min_size=CONNECTIONS, max_size=CONNECTIONS, configure=configure, open=False
    ) as pool:

        async def search(query: Sequence[float]) -> object:
            async with pool.connection() as connection:
                cursor = await connection.execute(statement, [vectors.encode(query, "vector")])
                return await cursor.fetchall()

        await drive(search, queries[:200])
        return await drive(search, queries)


async def of_sluice(url: str, queries: Sequence[list[float]]) -> Speed:
    settings = PoolSettings(pool_size=CONNECTIONS, max_overflow=0)
    parsed = parse_database_url(url)

    async def search(query: Sequence[float]) -> object:
        return await CollectionSearch(engine_for(parsed, settings), COLLECTION).similarity(query, k=K)

    await drive(search, queries[:200])
    return await drive(search, queries)


async def of_sqlalchemy(url: str, queries: Sequence[list[float]]) -> Speed:
    engine = create_async_engine(
        parse_database_url(url), pool_size=CONNECTIONS, max_overflow=0, isolation_level="AUTOCOMMIT"
    )
    statement = text(
        f"SELECT content, metadata, embedding <=> CAST(:query AS vector) AS distance FROM {COLLECTION}"  # noqa: S608
        f" ORDER BY distance LIMIT {K}"
    )

    async def search(query: Sequence[float]) -> object:
        async with engine.connect() as connection:
            return (await connection.execute(statement, {"query": str(query)})).fetchall()

    await drive(search, queries[:200])
    speed = await drive(search, queries)
    await engine.dispose()
    return speed


async def of_stock(url: str, queries: Sequence[list[float]], data: np.ndarray) -> Speed:
    """Stock PGVector as Langflow's node uses it: a store made anew for each search, in a thread."""
    from langchain_community.vectorstores import PGVector
    from langchain_core.embeddings import FakeEmbeddings

    options = {"connection_string": url.replace("postgresql://", "postgresql+psycopg2://"), "use_jsonb": True}
    model = FakeEmbeddings(size=DIMENSIONS)
    first = PGVector.from_existing_index(model, collection_name=COLLECTION, **options)
    texts = [f"Document {number}" for number in range(len(data))]
    for start in range(0, len(data), PART):
        part = data[start : start + PART].tolist()
        first.add_embeddings(texts[start : start + PART], part, metadatas=[{"number": start} for _ in part])
    first._bind.dispose()

    def search_blocking(query: Sequence[float]) -> object:
        store = PGVector.from_existing_index(model, collection_name=COLLECTION, **options)
        try:
            return store.similarity_search_by_vector(list(query), k=K)
        finally:
            # Langflow's node leaves it open; here that would end the benchmark when the server has no more to give.
            store._bind.dispose()

    async def search(query: Sequence[float]) -> object:
        return await asyncio.to_thread(search_blocking, query)

    return await drive(search, queries)


def show(name: str, speed: Speed, raw: Speed) -> None:
    print(f"  {name:<22} {speed.per_s:8.0f}/s  p95 {speed.p95_ms:7.2f} ms   {speed.per_s / raw.per_s:5.2f} x raw")


async def contest(url: str, rows: int) -> None:
    seconds = await fill(url, rows)
    print(f"{rows:,} x {DIMENSIONS}, HNSW; written and indexed in {seconds:.1f} s")
    queries = embeddings(SEARCHES, seed=3).tolist()
    rounds: dict[str, list[Speed]] = {}
    for _ in range(ROUNDS):
        for name, contestant in (
            ("raw psycopg_pool", of_raw),
            ("sluice", of_sluice),
            ("SQLAlchemy async", of_sqlalchemy),
        ):
            rounds.setdefault(name, []).append(await contestant(url, queries))
    best = {name: max(speeds, key=lambda speed: speed.per_s) for name, speeds in rounds.items()}
    stock = await of_stock(url, queries[:STOCK_SEARCHES], embeddings(min(rows, 10_000), seed=2))
    raw = best["raw psycopg_pool"]
    for name, speed in best.items():
        show(name, speed, raw)
    show("stock PGVector", stock, raw)
    print(f"  sluice / stock: {best['sluice'].per_s / stock.per_s:.0f} x")
    dispose_all()


def main() -> None:
    sizes = [int(argument) for argument in sys.argv[1:]] or [10_000, 100_000]
    os.environ.setdefault("LANGFLOW_SSRF_ALLOWED_HOSTS", "127.0.0.1,localhost")
    warnings.simplefilter("ignore")
    with EmbeddedPostgres(settings={"maintenance_work_mem": "1GB", "shared_buffers": "512MB"}) as postgres:
        for rows in sizes:
            asyncio.run(contest(postgres.create_database(), rows))


if __name__ == "__main__":
    main()
