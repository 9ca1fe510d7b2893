"""What searches found, taken again for a while: one statement for all who ask the same, and never a wrong answer."""

import asyncio
import threading

import pytest

from langflow_sluice.errors import InvalidInput
from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.guard.retry import CallPolicy
from langflow_sluice.models.openai_compatible import Upstream, embeddings
from langflow_sluice.nodes.database_inputs import Database
from langflow_sluice.postgres.documents import DocumentRow
from langflow_sluice.postgres.engines import engine_for
from langflow_sluice.postgres.filters import read_filter
from langflow_sluice.postgres.retrieval import Collection, Retrieval
from langflow_sluice.postgres.search_settings import SearchSettings
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url
from langflow_sluice.postgres.writer import CollectionWriter
from langflow_sluice.simulator.embedding import embed

DIMENSIONS = 64
TTL_S = 300.0
DEEP = "How deep is the well of Oxbarrow?"
TEXTS = ["The well of Oxbarrow is forty-one metres deep.", "The water tower stands thirty metres above the square."]
SETTINGS = PoolSettings(pool_size=2, max_overflow=1)


@pytest.fixture
def guard():
    return Guard("database", GuardSettings(max_concurrency=3))


async def write(url, *texts):
    rows = [DocumentRow(text, {"at": number}, embed(text, DIMENSIONS)) for number, text in enumerate(texts)]
    await CollectionWriter(engine_for(parse_database_url(url), SETTINGS), "notes").write(rows)


MODEL_GUARD = Guard("model", GuardSettings())


def retrieval_of(url, guard, provider, *, ttl_s=TTL_S, **settings):
    upstream = Upstream(provider.base_url, "key")
    model = embeddings(
        upstream,
        MODEL_GUARD,
        CallPolicy(),
        model_name="sim-embedding",
        dimensions=DIMENSIONS,
        cache_ttl_s=ttl_s,
    )
    database = Database(parse_database_url(url), SETTINGS, guard, "normal")
    wanted = SearchSettings(number_of_results=1, **settings)
    return Retrieval(database, Collection("notes"), model, wanted, cache_ttl_s=ttl_s)


async def test_fifty_equal_questions_from_two_loops_and_threads_are_one_request_and_one_statement(
    database_url, guard, provider
):
    await write(database_url, *TEXTS)
    provider.configure(embedding_service_s=0.2)
    found = []
    ready = threading.Barrier(3)

    async def ask(count):
        # Nodes are made anew for each run.
        retrievals = [retrieval_of(database_url, guard, provider) for _ in range(count)]
        await asyncio.to_thread(ready.wait)
        found.extend(await asyncio.gather(*(each.search(DEEP) for each in retrievals)))

    other = threading.Thread(target=lambda: asyncio.run(ask(20)))
    third = threading.Thread(target=lambda: asyncio.run(ask(10)))
    other.start()
    third.start()
    await ask(20)
    await asyncio.to_thread(other.join)
    await asyncio.to_thread(third.join)
    assert [hits[0].content for hits in found] == [TEXTS[0]] * 50
    assert provider.stats().requests == {"embeddings": 1}
    assert guard.statistics().admitted == 1


async def test_a_write_through_the_writer_is_seen_at_once(database_url, guard, provider):
    await write(database_url, TEXTS[1])
    retrieval = retrieval_of(database_url, guard, provider)
    assert [hit.content for hit in await retrieval.search(DEEP)] == [TEXTS[1]]
    await write(database_url, TEXTS[0])
    assert [hit.content for hit in await retrieval.search(DEEP)] == [TEXTS[0]]


async def test_another_filter_is_another_question_and_without_a_time_each_question_is_asked(
    database_url, guard, provider
):
    await write(database_url, *TEXTS)
    first, same = (retrieval_of(database_url, guard, provider) for _ in range(2))
    other = retrieval_of(database_url, guard, provider, filter=read_filter({"at": 1}))
    never = retrieval_of(database_url, guard, provider, ttl_s=0)
    for retrieval, text, statements in ((first, 0, 1), (same, 0, 1), (other, 1, 2), (never, 0, 3), (never, 0, 4)):
        assert [hit.content for hit in await retrieval.search(DEEP)] == [TEXTS[text]]
        assert guard.statistics().admitted == statements


async def test_what_a_caller_does_to_its_hits_is_no_other_ones_business(database_url, guard, provider):
    await write(database_url, *TEXTS)
    retrieval = retrieval_of(database_url, guard, provider)
    (await retrieval.search(DEEP))[0].metadata["at"] = "changed"
    assert (await retrieval.search(DEEP))[0].metadata == {"at": 0}


@pytest.mark.parametrize("value", [-1, "soon", None, True, float("inf")])
def test_a_time_that_is_none_is_refused_by_name(guard, provider, value):
    url = "postgresql://u:p@127.0.0.1/x"
    database = Database(parse_database_url(url), SETTINGS, guard, "normal")
    with pytest.raises(InvalidInput, match="cache_ttl"):
        Retrieval(database, Collection("notes"), None, SearchSettings(search_type="keyword"), cache_ttl_s=value)
    assert provider.stats().requests == {}
