"""How fast a collection is written, and what that does to those who read at the same time.

Run it: ``uv run python tests/benchmarks/postgres_writer.py``. Figures and ratios are printed; nothing is asserted. The
embeddings cost nothing here, so that the database's part is seen.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import psycopg
from langchain_core.embeddings import Embeddings

from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.nodes.database_inputs import Database
from langflow_sluice.postgres.engines import dispose_all, engine_for
from langflow_sluice.postgres.ingestion import ingest
from langflow_sluice.postgres.search import CollectionSearch
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DIMENSIONS = 384
ROWS = 10_000
STOCK_ROWS = 2_000
ROUNDS = 3
SEARCHES_PER_S = 100
SECONDS = 4.0

numbers = random.Random(7)  # noqa: S311 - any numbers do
VECTORS = [[numbers.gauss(0, 1) for _ in range(DIMENSIONS)] for _ in range(2000)]
_WORDS = ("sluice", "gate", "river", "mill", "lock", "weir", "canal", "flood", "barge", "ferry", "dam", "spring")


class AtHand(Embeddings):
    """Vectors that are there already."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [VECTORS[hash(text) % len(VECTORS)] for text in texts]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def texts(count: int, kind: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{kind} {i}: " + " ".join(numbers.choices(_WORDS, k=60)), {"source": f"{kind}.txt", "page": i})
        for i in range(count)
    ]


def database_of(url: str) -> Database:
    guard = Guard("database", GuardSettings(max_concurrency=10))
    return Database(parse_database_url(url), PoolSettings(), guard, "normal")


async def write(
    database: Database, collection: str, given: Sequence[tuple[str, dict[str, Any]]]
) -> tuple[float, float]:
    """Seconds until all rows were stored, and until the index was there too."""
    stored: list[float] = []
    report = await ingest(
        database,
        collection,
        AtHand(),
        given,
        on_conflict="skip",
        batch_size=500,
        progress=lambda progress: stored.append(progress.seconds),
    )
    return stored[-1], report.seconds


def raw_copy(url: str, given: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """The least that can be done: the same columns, no identity, no index."""
    from pgvector import Vector
    from pgvector.psycopg import register_vector
    from psycopg.types.json import Jsonb

    with psycopg.connect(url, autocommit=True) as connection:
        register_vector(connection)
        connection.execute(f"CREATE TABLE raw (content text, metadata jsonb, embedding vector({DIMENSIONS}))".encode())
        with connection.cursor().copy("COPY raw FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["text", "jsonb", "vector"])
            for content, metadata in given:
                copy.write_row((content, Jsonb(metadata), Vector(VECTORS[hash(content) % len(VECTORS)])))


def stock(url: str, given: Sequence[tuple[str, dict[str, Any]]]) -> None:
    from langchain_community.vectorstores import PGVector

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and what Langflow's node uses
        PGVector.from_texts(
            [content for content, _ in given],
            AtHand(),
            [metadata for _, metadata in given],
            collection_name="stock",
            connection_string=url,
        )


def speeds(server: EmbeddedPostgres) -> None:
    given, few, more = texts(ROWS, "a"), texts(STOCK_ROWS, "s"), texts(STOCK_ROWS, "b")
    best: dict[str, float] = {}

    def rate(name: str, count: int, seconds: float) -> None:
        best[name] = max(best.get(name, 0.0), count / seconds)

    # In turns, so that what else the machine does falls on all of them.
    for _ in range(ROUNDS):
        url = server.create_database()
        rate("stock PGVector.from_texts, no index", STOCK_ROWS, timed(stock, url, few))
        rate("raw COPY, no index, no identity", ROWS, timed(raw_copy, url, given))
        stored, whole = asyncio.run(write(database_of(url), "whole", given))
        rate("Sluice, all but the HNSW index", ROWS, stored)
        rate("Sluice, the node's whole work", ROWS, whole)
        rate("Sluice, the same texts again", ROWS, asyncio.run(write(database_of(url), "whole", given))[1])
        rate(
            "Sluice, into a collection with its HNSW index",
            STOCK_ROWS,
            asyncio.run(write(database_of(url), "whole", more))[1],
        )
        dispose_all()
    base = next(iter(best.values()))
    for name, rows_s in best.items():
        print(f"{name:<58}{rows_s:>10.0f} rows/s{rows_s / base:>8.2f} x stock")


def timed(work: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


async def read(database: Database, stop: asyncio.Event) -> list[float]:
    """Milliseconds of each search, so many started a second whatever becomes of them."""
    took: list[float] = []

    async def one(vector: list[float]) -> None:
        started = time.perf_counter()
        engine = engine_for(database.url, database.settings)
        async with database.guard.slot():
            await CollectionSearch(engine, "whole").similarity(vector, k=4)
        took.append((time.perf_counter() - started) * 1e3)

    tasks = []
    started = time.perf_counter()
    while not stop.is_set():
        tasks.append(asyncio.create_task(one(VECTORS[len(tasks) % len(VECTORS)])))
        await asyncio.sleep(max(0.0, started + len(tasks) / SEARCHES_PER_S - time.perf_counter()))
    await asyncio.gather(*tasks)
    return took


async def beside(database: Database, name: str, work: Callable[[], Any]) -> None:
    """Rounds without and with the work in turns, so that what else the machine does falls on both."""
    took: dict[bool, list[float]] = {False: [], True: []}
    written, writing_s = 0, 0.0
    for busy in (False, True) * ROUNDS:
        stop = asyncio.Event()
        reading = asyncio.create_task(read(database, stop))
        started = time.perf_counter()
        if busy:
            while time.perf_counter() - started < SECONDS:
                written += await work()
            writing_s += time.perf_counter() - started
        else:
            await asyncio.sleep(SECONDS)
        stop.set()
        took[busy] += await reading
    (quiet, quiet_p95), (median, p95) = (
        (statistics.median(each), statistics.quantiles(each, n=20)[-1]) for each in took.values()
    )
    print(
        f"{name:<48}{quiet:>7.2f} ->{median:>6.2f}{quiet_p95:>10.2f} ->{p95:>6.2f} ms{p95 / quiet_p95:>7.2f} x"
        f"{written / writing_s:>9.0f} rows/s written"
    )


async def readers(server: EmbeddedPostgres) -> None:
    database = database_of(server.create_database())
    await write(database, "whole", texts(ROWS, "a"))
    rounds = 0

    async def into(collection: str, count: int) -> int:
        nonlocal rounds
        rounds += 1
        await write(database, collection, texts(count, f"r{rounds}"))
        return count

    async def four() -> int:
        return sum(await asyncio.gather(*(into("whole", 500) for _ in range(4))))

    print(f"\n{f'{SEARCHES_PER_S} searches/s over {ROWS} rows with HNSW':<48}{'median':>17}{'p95':>20}")
    await beside(database, "one writes to the collection that is read", lambda: into("whole", 1000))
    await beside(database, "four write to it at once", four)
    await beside(database, "one writes new collections, with their indexes", lambda: into(f"new{rounds}", 3000))
    dispose_all()


def main() -> None:
    """Runs all; ``readers`` as an argument leaves the speeds out."""
    os.environ["LANGFLOW_SSRF_ALLOWED_HOSTS"] = "127.0.0.1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with EmbeddedPostgres() as server:
            if "readers" not in sys.argv:
                speeds(server)
            asyncio.run(readers(server))


if __name__ == "__main__":
    main()
