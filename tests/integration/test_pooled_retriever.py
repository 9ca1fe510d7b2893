"""The retriever as flows use it: the node, an agent's tool, and LangChain's entry points of both kinds."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.embeddings import Embeddings

from langflow_sluice.errors import InvalidInput, WouldBlockLoop
from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.nodes.database_inputs import Database
from langflow_sluice.postgres import side_loop
from langflow_sluice.postgres.documents import DocumentRow
from langflow_sluice.postgres.engines import engine_for, pool_statistics
from langflow_sluice.postgres.filters import read_filter
from langflow_sluice.postgres.retrieval import Collection, PooledRetriever, Retrieval
from langflow_sluice.postgres.search_settings import SEARCH_TYPES, SearchSettings
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url
from langflow_sluice.postgres.writer import CollectionWriter
from langflow_sluice.simulator.embedding import embed

if TYPE_CHECKING:
    from collections.abc import Callable

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from lfx.custom.eval import eval_custom_component_code

NODE = Path(__file__).parents[2] / "components" / "sluice" / "pooled_pg_retriever.py"
TEXTS = {
    "The well of Oxbarrow is forty-one metres deep.": {"place": "well", "year": 1887},
    "The water tower stands thirty metres above the square.": {"place": "tower", "year": 1912},
    "The spare pump XK-4417 stands beside the steam engine.": {"place": "pump", "year": 1990},
    "The cat of the pump house is called Impeller.": {"place": "pump", "year": 2020},
}
DEEP = "How deep is the well of Oxbarrow?"
DIMENSIONS = 64
SETTINGS = PoolSettings(pool_size=2, max_overflow=1)


class Words(Embeddings):
    """The simulator's embeddings without its server; counts, and can be made to wait or to call back."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.before: Callable[[], None] = lambda: None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [embed(text, DIMENSIONS) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        raise NotImplementedError(text)

    async def aembed_query(self, text: str) -> list[float]:
        self.asked.append(text)
        self.before()
        return embed(text, DIMENSIONS)

    def __deepcopy__(self, memo: dict[int, object]) -> Words:
        return self


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def guard() -> Guard:
    return Guard("database", GuardSettings(max_concurrency=3, queue_timeout_s=0))


@pytest.fixture
def filled(database_url: str) -> str:
    async def fill() -> None:
        rows = [DocumentRow(text, metadata, embed(text, DIMENSIONS)) for text, metadata in TEXTS.items()]
        await CollectionWriter(engine_for(parse_database_url(database_url)), "notes").write(rows)

    asyncio.run(fill())
    return database_url


@pytest.fixture
def make(filled: str, words: Words, guard: Guard) -> Callable[..., Retrieval]:
    def retrieval(embedding: Embeddings | None = words, **settings: Any) -> Retrieval:
        database = Database(parse_database_url(filled), SETTINGS, guard, "normal")
        return Retrieval(
            database, Collection("notes"), embedding, SearchSettings(**{"number_of_results": 1, **settings})
        )

    return retrieval


class TestRetrieval:
    @pytest.mark.parametrize("search_type", SEARCH_TYPES)
    async def test_a_question_is_embedded_only_where_embeddings_are_compared(
        self, make: Callable[..., Retrieval], words: Words, search_type: str
    ) -> None:
        [hit] = await make(search_type=search_type).search(DEEP)
        assert hit.metadata["place"] == "well"
        assert len(words.asked) == (search_type != "keyword")

    async def test_keywords_need_no_embedding_model_and_the_others_name_what_is_missing(
        self, make: Callable[..., Retrieval]
    ) -> None:
        assert await make(None, search_type="keyword").search(DEEP)
        for search_type in set(SEARCH_TYPES) - {"keyword"}:
            with pytest.raises(InvalidInput, match=rf"embedding is None: a {search_type} search") as missing:
                make(None, search_type=search_type)
            assert "keyword" in missing.value.hint

    async def test_it_is_itself_when_an_agent_copies_it(self, make: Callable[..., Retrieval]) -> None:
        retrieval = make()
        assert copy.deepcopy(retrieval) is retrieval

    async def test_the_slot_is_held_for_the_database_alone(
        self, make: Callable[..., Retrieval], words: Words, guard: Guard
    ) -> None:
        in_flight: list[int] = []
        words.before = lambda: in_flight.append(guard.admission.in_flight)
        assert await make().search(DEEP)
        assert in_flight == [0]
        assert (guard.statistics().admitted, guard.statistics().in_flight) == (1, 0)


class TestSynchronousCallers:
    def test_threads_share_one_loop_and_its_pool(self, make: Callable[..., Retrieval], words: Words) -> None:
        threads: set[int] = set()
        words.before = lambda: threads.add(threading.get_ident())
        retriever = PooledRetriever(retrieval=make())
        with ThreadPoolExecutor(8) as executor:
            found = list(executor.map(retriever.invoke, [DEEP] * 40))
        assert {documents[0].metadata["place"] for documents in found} == {"well"}
        assert len(threads) == 1
        assert threads.isdisjoint({threading.get_ident()})
        pools = [pool for pool in pool_statistics() if pool.pool_size == SETTINGS.pool_size]
        assert sum(pool.idle + pool.checked_out for pool in pools) <= SETTINGS.capacity

    async def test_one_works_on_a_thread_that_runs_a_loop(self, make: Callable[..., Retrieval]) -> None:
        retriever = PooledRetriever(retrieval=make())
        assert retriever.invoke(DEEP) == await retriever.ainvoke(DEEP)
        assert await asyncio.to_thread(retriever.invoke, DEEP) == await retriever.ainvoke(DEEP)

    async def test_one_that_waits_for_the_loop_it_blocks_is_told_so(
        self, make: Callable[..., Retrieval], guard: Guard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(side_loop, "PATIENCE_ON_A_LOOP_S", 0.2)
        retriever = PooledRetriever(retrieval=make())
        async with guard.slot(), guard.slot(), guard.slot():  # all there are, and nobody waits for ever to get one
            with pytest.raises(WouldBlockLoop, match="runs an event loop") as blocked:
                retriever.invoke(DEEP)
        assert "ainvoke" in blocked.value.hint
        assert await retriever.ainvoke(DEEP)
        assert (guard.statistics().in_flight, sum(guard.statistics().waiting.values())) == (0, 0)

    def test_one_within_another_is_told_so(self, make: Callable[..., Retrieval], words: Words) -> None:
        retriever = PooledRetriever(retrieval=make())
        words.before = lambda: retriever.invoke(DEEP)
        with pytest.raises(WouldBlockLoop, match="from within another search"):
            retriever.invoke(DEEP)

    def test_a_search_sees_the_context_of_its_caller(self, make: Callable[..., Retrieval], words: Words) -> None:
        variable = contextvars.ContextVar("user", default="nobody")
        seen: list[str] = []
        words.before = lambda: seen.append(variable.get())
        token = variable.set("ada")
        try:
            PooledRetriever(retrieval=make()).invoke(DEEP)
        finally:
            variable.reset(token)
        assert seen == ["ada"]

    def test_an_error_of_the_search_is_the_callers(self, make: Callable[..., Retrieval], words: Words) -> None:
        def fail() -> None:
            raise TimeoutError(DEEP)

        words.before = fail
        with pytest.raises(TimeoutError, match="Oxbarrow"):
            PooledRetriever(retrieval=make()).invoke(DEEP)

    def test_an_interrupted_caller_takes_its_search_along(self, make: Callable[..., Retrieval], guard: Guard) -> None:
        monkeypatch = pytest.MonkeyPatch()  # one of its own, since it is undone in between
        retriever = PooledRetriever(retrieval=make())

        def interrupted(self: Any, timeout: float | None = None) -> None:  # noqa: ARG001 - the signature of a future
            while not sum(guard.statistics().waiting.values()):
                threading.Event().wait(0.001)
            raise KeyboardInterrupt

        with guard.slot(), guard.slot(), guard.slot():
            monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                retriever.invoke(DEEP)
            monkeypatch.undo()
            side_loop.side_loop.run(turns())
            assert (guard.statistics().gone, sum(guard.statistics().waiting.values())) == (1, 0)
        assert retriever.invoke(DEEP)

    def test_a_loop_that_was_stopped_is_replaced(self, make: Callable[..., Retrieval]) -> None:
        retriever = PooledRetriever(retrieval=make())
        assert retriever.invoke(DEEP)
        first = side_loop.side_loop._thread
        side_loop.side_loop.stop()
        assert first is not None
        assert not first.is_alive()
        assert retriever.invoke(DEEP)


async def turns() -> None:
    """Lets what was asked of a loop before happen."""
    for _ in range(10):
        await asyncio.sleep(0)


class TestTheNode:
    @pytest.fixture
    def node(self, filled: str, words: Words) -> Callable[..., Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Langflow imports what the source names, and more
            kind = eval_custom_component_code(NODE.read_text("utf-8"))

        def make(**inputs: Any) -> Any:
            common = {"database_url": filled, "collection_name": "notes", "embedding": words, "search_query": DEEP}
            return kind(_id="retriever", **{**common, **inputs})

        return make

    async def test_it_gives_data_a_table_and_a_retriever(self, node: Callable[..., Any]) -> None:
        made = node(number_of_results=2)
        [first, _] = await made.search_documents()
        assert (
            first.data["text"] == DEEP.replace("How deep is the", "The").replace("?", "") + " is forty-one metres deep."
        )
        assert (first.data["place"], first.data["year"]) == ("well", 1887)
        assert first.data["score"] > 0
        assert made.repr_value.startswith("2 results.")
        table = await made.as_dataframe()
        assert next(iter(table["place"])) == "well"
        [document, _] = await made.build_retriever().ainvoke(DEEP)
        assert document.metadata["score"] == first.data["score"]

    @pytest.mark.parametrize("search_type", SEARCH_TYPES)
    async def test_it_searches_in_every_way(self, node: Callable[..., Any], search_type: str) -> None:
        [hit] = await node(search_type=search_type, number_of_results=1, fetch_k=3, mmr_lambda=0.3).search_documents()
        assert hit.data["place"] == "well"

    @pytest.mark.parametrize(
        "filter_",
        [
            {"place": "pump", "year": "2020"},
            {"year": '{"$gt": 2000}'},
            {"year": {"$gt": 2000}},
            '{"$and": [{"place": "pump"}, {"year": {"$gt": 2000}}]}',
            {"$or": [{"year": 2020}, {"place": "nowhere"}]},
        ],
    )
    async def test_a_filter_may_come_in_any_form(self, node: Callable[..., Any], filter_: Any) -> None:
        [hit] = await node(filter=filter_).search_documents()
        assert hit.data["year"] == 2020

    async def test_emptied_fields_mean_their_defaults(self, node: Callable[..., Any]) -> None:
        blank = {"number_of_results": None, "fetch_k": None, "mmr_lambda": None, "score_threshold": None}
        texts = {
            "schema_name": "",
            "content_column": "",
            "embedding_column": "",
            "metadata_columns": "",
            "language": "",
        }
        assert len(await node(filter={}, **blank, **texts).search_documents()) == 4
        assert await node(search_query="  ").search_documents() == []

    async def test_any_table_is_named_by_its_columns(self, node: Callable[..., Any]) -> None:
        named = {"content_column": "content", "embedding_column": "embedding", "schema_name": "public"}
        for metadata in ("metadata, content_hash", ["metadata", "content_hash"]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Langflow takes a list, and warns
                made = node(metadata_columns=metadata, **named, number_of_results=1)
            [hit] = await made.search_documents()
            assert hit.data["place"] == "well"
            assert hit.data["content_hash"].startswith("\\x")

    async def test_a_wrong_input_is_told_by_name(self, node: Callable[..., Any]) -> None:
        for name, value in (("filter", {"a": {"$no": 1}}), ("number_of_results", 0), ("score_threshold", 7.0)):
            with pytest.raises(InvalidInput, match=name):
                await node(**{name: value}).search_documents()
        with pytest.raises(InvalidInput, match="embedding"):
            await node(embedding=None).search_documents()
        assert await node(embedding=None, search_type="keyword").search_documents()

    async def test_an_agent_uses_it_as_a_tool(self, node: Callable[..., Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tools = await node(number_of_results=1)._get_tools()
            by_name = {tool.name: tool for tool in tools}
            assert set(by_name) == {"search_documents", "as_dataframe"}
            found = await asyncio.gather(
                *(by_name["search_documents"].ainvoke({"search_query": text}) for text in TEXTS for _ in range(3))
            )
        for text, answers in zip([text for text in TEXTS for _ in range(3)], found, strict=True):
            assert text in str(answers)


def test_equal_collections_and_settings_are_equal_keys() -> None:
    first, same = ((Collection("a"), SearchSettings(filter=read_filter({"a": 1}))) for _ in range(2))
    assert (first, hash(first)) == (same, hash(same))
