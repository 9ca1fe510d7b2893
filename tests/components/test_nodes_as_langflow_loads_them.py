"""Nodes whose source is executed afresh for every run, as Langflow does it, over a provider that counts."""

import asyncio
import contextlib
import copy
import functools
import operator
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from langchain_core.tools import tool
from pydantic import BaseModel

from langflow_sluice.guard import GuardRegistry, registry
from langflow_sluice.models.vector_cache import vector_cache
from langflow_sluice.simulator import ProviderSettings, fingerprint, serve_in_thread
from langflow_sluice.testing.clock import ManualClock, settle

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langchain_openai import ChatOpenAI
    from lfx.custom.eval import eval_custom_component_code
    from lfx.services.deps import get_settings_service
    from lfx.utils.async_helpers import run_until_complete

COMPONENTS = Path(__file__).parents[2] / "components" / "sluice"
DEADLINE_S = 60.0
DOCUMENTS = [f"Keeper number {number} of the lighthouse is called keeper{number}." for number in range(5)]


def executed(file):
    """The class that a node's source makes when it is executed once more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Langflow imports what the source names, and more
        return eval_custom_component_code((COMPONENTS / file).read_text("utf-8"))


@pytest.fixture
def provider(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lfx warns of its own code when its settings load
        get_settings_service()  # first: the settings live as long as the process, the variable only for this test
    monkeypatch.setenv("LANGFLOW_SSRF_ALLOWED_HOSTS", "127.0.0.1")
    with serve_in_thread(ProviderSettings(slots=4, service_s=0.0)) as control:
        yield control
    vector_cache().clear()


@pytest.fixture
def inputs(provider):
    return {"api_key": "sk-canary", "base_url": provider.base_url, "max_concurrency": 4}


@pytest.fixture
def make_model(inputs):
    def make(**changes):
        return executed("rate_limited_llm.py")(_id="llm", **inputs, **changes).build_model()

    return make


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture(scope="module")
def postgres():
    from langflow_sluice.embedded.postgres import EmbeddedPostgres

    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
def database_url(postgres):
    from langflow_sluice.postgres.engines import dispose_all

    yield postgres.create_database()
    dispose_all()


def guard_of(model):
    return model._protection.guard


def once(*texts):
    return {fingerprint(text): 1 for text in texts}


async def until(condition):
    """Gives the loop turns until something that comes over the network has come."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await settle()


async def texts_of(model, questions):
    return [answer.content for answer in await model.abatch(questions)]


def test_each_execution_of_a_source_makes_another_class():
    # Without this the tests below would share their state by sharing the class.
    one, other = executed("rate_limited_llm.py"), executed("rate_limited_llm.py")
    assert one is not other
    assert one.build_model.__globals__ is not other.build_model.__globals__


async def test_two_executions_of_a_model_node_share_guard_clients_and_connection(provider, make_model):
    one, other = make_model(), make_model()
    assert type(one) is type(other)
    assert guard_of(one) is guard_of(other)
    assert one.http_client is other.http_client
    assert one.http_async_client is other.http_async_client
    for model, text in ((one, "first"), (other, "second"), (one, "third")):
        await model.ainvoke(text)
    assert guard_of(one).statistics().admitted == 3
    assert provider.stats().connections_opened == 1


async def test_two_executions_share_one_cap(provider, make_model):
    provider.configure(service_s=0.05)
    answers = await asyncio.gather(*(texts_of(make_model(), [f"{node} {row}" for row in range(8)]) for node in "ab"))
    assert answers == [[f"Answer to: {node} {row}" for row in range(8)] for node in "ab"]
    stats = provider.stats()
    assert stats.max_in_flight == {"chat": 4}
    assert stats.answered == {200: 16}


async def test_another_key_is_another_guard_with_connections_of_its_own(provider, make_model, inputs):
    one = make_model()
    inputs["api_key"] = "sk-other"
    other = make_model()
    assert guard_of(one) is not guard_of(other)
    assert one.http_async_client is not other.http_async_client
    await one.ainvoke("mine")
    await other.ainvoke("theirs")
    assert provider.stats().connections_opened == 2


def test_the_next_event_loop_finds_a_working_client_and_nothing_is_sent_twice(provider, make_model):
    model = make_model()
    texts = [f"loop {number}" for number in range(4)]
    for text in texts[:3]:
        assert asyncio.run(model.ainvoke(text)).content == f"Answer to: {text}"
    assert asyncio.run(make_model().ainvoke(texts[3])).content == f"Answer to: {texts[3]}"
    stats = provider.stats()
    assert stats.subjects() == once(*texts)
    assert stats.requests == {"chat": 4}


async def test_loop_worker_thread_and_short_lived_loop_use_one_model_and_each_request_is_seen_once(provider, model):
    provider.configure(service_s=0.02)
    awaited = [asyncio.create_task(model.ainvoke(f"loop {number}")) for number in range(6)]
    blocking = [asyncio.create_task(asyncio.to_thread(model.invoke, f"thread {number}")) for number in range(3)]
    on_a_loop_of_a_thread = asyncio.create_task(asyncio.to_thread(run_until_complete, model.ainvoke("thread's loop")))
    answers = await asyncio.gather(*awaited, *blocking, on_a_loop_of_a_thread)
    # This one blocks the running loop meanwhile, as Langflow's synchronous nodes do.
    answers.append(run_until_complete(model.ainvoke("loop beside the running one")))
    answers.append(await model.ainvoke("the first loop again"))
    texts = [answer.content.removeprefix("Answer to: ") for answer in answers]
    assert len(set(texts)) == 12
    stats = provider.stats()
    assert stats.subjects() == once(*texts)
    assert stats.answered == {200: 12}
    assert stats.max_in_flight["chat"] <= 4
    assert guard_of(model).statistics().in_flight == 0


async def test_the_model_is_still_its_own_class_and_itself_in_a_deep_copy(model):
    assert isinstance(model, ChatOpenAI)
    assert copy.deepcopy(model) is model
    assert copy.deepcopy({"tools": [model.bind(stop=["x"])]})["tools"][0].bound is model
    assert guard_of(model.model_copy()) is guard_of(model)


async def test_tools_and_structured_output_work_and_pass_the_guard(provider, model):
    class City(BaseModel):
        name: str

    @tool
    def search(query: str) -> str:
        """Searches."""
        return query

    called = await model.bind_tools([search]).ainvoke("the tallest mast")
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("search", {"query": "the tallest mast"})]
    city = await model.with_structured_output(City).ainvoke("Wychbourne")
    assert "Wychbourne" in city.name
    assert guard_of(model).statistics().admitted == provider.stats().requests["chat"] == 2


async def test_thirty_rows_at_once_never_pass_the_cap_and_meet_no_429(provider, model):
    provider.configure(service_s=0.05)
    questions = [f"row {number}" for number in range(30)]
    assert await texts_of(model, questions) == [f"Answer to: {question}" for question in questions]
    stats = provider.stats()
    assert stats.max_in_flight == {"chat": 4}
    assert stats.answered == {200: 30}
    assert stats.subjects() == once(*questions)


async def test_a_batch_in_threads_never_passes_the_cap(provider, model):
    provider.configure(service_s=0.02)
    questions = [f"row {number}" for number in range(12)]
    answers = await asyncio.to_thread(model.batch, questions)
    assert [answer.content for answer in answers] == [f"Answer to: {question}" for question in questions]
    stats = provider.stats()
    assert stats.max_in_flight["chat"] <= 4
    assert stats.answered == {200: 12}


async def test_a_stream_holds_its_slot_until_the_last_chunk(provider, make_model, inputs):
    provider.configure(slots=1)
    inputs["max_concurrency"] = 1
    model = make_model()
    guard = guard_of(model)

    async def rest(stream):
        return "".join([chunk.content async for chunk in stream])

    first = model.astream("one two three four")
    begun = (await anext(first)).content + (await anext(first)).content
    second = asyncio.create_task(rest(model.astream("five six seven eight")))
    await until(lambda: sum(guard.statistics().waiting.values()))
    assert provider.stats().requests == {"chat": 1}
    assert begun + await rest(first) == "Answer to: one two three four"
    assert await second == "Answer to: five six seven eight"
    stats = provider.stats()
    assert stats.answered == {200: 2}
    assert stats.max_in_flight == {"chat": 1}
    assert guard.statistics().in_flight == 0


async def test_streams_side_by_side_wait_for_each_other_in_threads_too(provider, make_model, inputs):
    provider.configure(slots=1, service_s=0.02)
    inputs["max_concurrency"] = 1
    model = make_model()

    def read(text):
        return "".join(chunk.content for chunk in model.stream(text))

    texts = [f"stream {number} of some words" for number in range(3)]
    answers = await asyncio.gather(*(asyncio.to_thread(read, text) for text in texts))
    assert answers == [f"Answer to: {text}" for text in texts]
    assert provider.stats().answered == {200: 3}


async def test_a_stream_that_is_left_gives_its_slot_back(provider, make_model, inputs):
    provider.configure(slots=1)
    inputs["max_concurrency"] = 1
    model = make_model()
    async with contextlib.aclosing(model.astream("one two three four")) as stream:
        await anext(stream)
        assert guard_of(model).statistics().in_flight == 1
    assert guard_of(model).statistics().in_flight == 0
    provider.configure(slots=4)  # the provider may still be writing to whoever has left
    assert (await model.ainvoke("next")).content == "Answer to: next"


@pytest.fixture
def clock(monkeypatch):
    clock = ManualClock()
    monkeypatch.setattr(registry, "_registry", GuardRegistry(clock))
    return clock


@pytest.mark.parametrize("way", ["ainvoke", "astream", "invoke", "stream"])
async def test_after_a_429_nobody_is_sent_until_the_provider_wants_to_be_asked_again(
    way, provider, make_model, inputs, clock
):
    provider.configure(slots=2, fault="hang", retry_after_s=5.0)
    inputs["max_concurrency"] = 5
    model = make_model(max_retries=1)
    guard = guard_of(model)
    texts = [f"row {number}" for number in range(8)]
    with ThreadPoolExecutor(len(texts)) as threads:
        ask = {
            "ainvoke": model.ainvoke,
            "astream": lambda text: _whole(model.astream(text)),
            "invoke": lambda text: _in(threads, lambda: model.invoke(text)),
            "stream": lambda text: _in(threads, lambda: functools.reduce(operator.add, model.stream(text))),
        }[way]
        work = asyncio.gather(*(ask(text) for text in texts))
        try:
            # Two hang in the provider's slots, up to three have been refused (the first refusal pauses the guard, and
            # threads come one after the other), the others have not been sent yet.
            await until(lambda: guard.statistics().in_flight == 2 and sum(guard.statistics().waiting.values()) == 6)
            admitted = guard.statistics().admitted
            assert 3 <= admitted <= 5
            provider.configure(slots=8, fault="ok")
            await until(lambda: guard.statistics().in_flight == 0)
            await clock.advance(4.9)
            assert guard.statistics().admitted == provider.stats().requests["chat"] == admitted
            await clock.advance(0.1)
            answers = await work
        finally:
            provider.configure(slots=8, fault="ok")
            await clock.advance(1000)
    assert [answer.content for answer in answers] == [f"Answer to: {text}" for text in texts]
    stats = provider.stats()
    assert stats.answered == {200: 8, 429: admitted - 2}
    assert stats.subjects(status=200) == once(*texts)
    assert guard.statistics().retries == admitted - 2


async def _whole(stream):
    return functools.reduce(operator.add, [chunk async for chunk in stream])


def _in(threads, work):
    return asyncio.get_running_loop().run_in_executor(threads, work)


async def test_a_provider_with_fewer_slots_than_the_cap_costs_retries_and_no_row(provider, make_model, inputs):
    provider.configure(slots=2, service_s=0.01, retry_after_s=0.05)
    inputs["max_concurrency"] = 8
    questions = [f"row {number}" for number in range(20)]
    answers = await texts_of(make_model(max_retries=100), questions)
    assert answers == [f"Answer to: {question}" for question in questions]
    assert provider.stats().subjects(status=200) == once(*questions)


async def test_the_node_answers_and_says_what_its_call_went_through(provider, inputs):
    node = executed("rate_limited_llm.py")(_id="llm", **inputs, input_value="hello", system_message="Be short.")
    message = await node.text_response()
    assert message.text == "Answer to: hello"
    assert "1 calls" in node.status
    assert "sk-canary" not in node.status
    assert provider.stats().subjects() == once("hello")


@pytest.fixture
def make_embedding(inputs):
    def make():
        node = executed("rate_limited_embeddings.py")(_id="embed", **inputs, batch_size=2)
        return node.build_embeddings()

    return make


async def test_two_executions_of_an_embeddings_node_share_guard_and_connections(provider, make_embedding):
    one, other = make_embedding(), make_embedding()
    assert one.protection.guard is other.protection.guard
    assert copy.deepcopy(one) is one
    assert await one.aembed_query("mast") == await other.aembed_query("mast")
    vectors = await one.aembed_documents(DOCUMENTS)
    assert [len(vector) for vector in vectors] == [384] * 5
    assert provider.stats().requests == {"embeddings": 4}  # one question, three batches
    assert provider.stats().connections_opened <= 3


@pytest.fixture
def make_database_nodes(make_embedding, database_url):
    def make(**query):
        common = {"database_url": database_url, "collection_name": "keepers", "pool_size": 2, "max_overflow": 1}
        writer = executed("pooled_pg_writer.py")(
            _id="writer", **common, embedding=make_embedding(), ingest_data=_rows(DOCUMENTS)
        )
        retriever = executed("pooled_pg_retriever.py")(
            _id="retriever", **common, embedding=make_embedding(), number_of_results=1, **query
        )
        return writer, retriever

    return make


def _rows(texts):
    from lfx.schema.data import Data

    return [Data(data={"text": text, "line": number}) for number, text in enumerate(texts)]


async def test_executions_of_the_database_nodes_share_one_engine_and_guard(make_database_nodes, postgres):
    from langflow_sluice.postgres.engines import pool_statistics

    writer, _ = make_database_nodes()
    again, _ = make_database_nodes()
    first, second = (await writer.ingest_documents()).data, (await again.ingest_documents()).data
    assert (first["written"], first["skipped"]) == (5, 0)
    assert (second["written"], second["skipped"]) == (0, 5)
    with postgres.watch() as watch:
        retrievers = [make_database_nodes(search_query=text)[1] for text in DOCUMENTS * 4]
        found = await asyncio.gather(*(retriever.search_documents() for retriever in retrievers))
    assert [hits[0].data["text"] for hits in found] == DOCUMENTS * 4
    [pool] = pool_statistics()
    assert pool.checked_out == pool.waiting == 0
    assert watch.peak("sluice") <= 3


def test_the_database_nodes_work_on_one_loop_after_the_other(make_database_nodes, provider):
    writer, _ = make_database_nodes()
    asyncio.run(writer.ingest_documents())
    provider.reset()
    _, retriever = make_database_nodes(search_query=DOCUMENTS[3])
    for _ in range(2):
        [hit] = asyncio.run(retriever.search_documents())
        assert hit.data["text"] == DOCUMENTS[3]
    [document] = retriever.build_retriever().invoke(DOCUMENTS[2])
    assert document.metadata["line"] == 2
    assert provider.stats().requests == {"embeddings": 2}  # the same question twice is one
