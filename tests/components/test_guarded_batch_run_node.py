"""The node that asks a model about each row, with its source executed afresh for every run as Langflow does it."""

import asyncio
import time
import warnings
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from langflow_sluice.batch import prompts
from langflow_sluice.errors import InvalidInput, SectionError
from langflow_sluice.guard import retry
from langflow_sluice.http_clients import client_cache
from langflow_sluice.models.guarded_chat import protection_of
from langflow_sluice.sections import fan_out, progress
from langflow_sluice.simulator import ProviderSettings, fingerprint, serve_in_thread
from langflow_sluice.simulator.answers import default_policy
from langflow_sluice.testing import isolated_guards

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langchain_anthropic import ChatAnthropic
    from langchain_openai import ChatOpenAI
    from lfx.base.models.provider_ssrf import provider_httpx_clients
    from lfx.components.llm_operations.batch_run import BatchRunComponent
    from lfx.custom.eval import eval_custom_component_code
    from lfx.graph import Graph
    from lfx.schema.data import Data
    from lfx.schema.dataframe import DataFrame
    from lfx_openai.components.openai.openai_chat_model import OpenAIModelComponent

COMPONENTS = Path(__file__).parents[2] / "components" / "sluice"
KEY = "sk-canary"
DEADLINE_S = 60.0
NOTES = ["_row", "_error", "_attempts"]


def executed(file):
    """The class that a node's source makes when it is executed once more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Langflow imports what the source names, and more
        return eval_custom_component_code((COMPONENTS / file).read_text("utf-8"))


@pytest.fixture(autouse=True)
def guards():
    with isolated_guards() as registry:
        yield registry


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch):
    for module in (retry, fan_out):
        monkeypatch.setattr(module, "BACKOFF_BASE_S", 0.0)


class Refusals:
    """Answers as the provider does, but fails at texts with one of these words in them."""

    def __init__(self):
        self.words = set()

    def __call__(self, request):
        if self.words & set(request.last_user.split()):
            raise ValueError(request.last_user)
        return default_policy(request)


@pytest.fixture
def refusals():
    return Refusals()


@pytest.fixture
def provider(reachable, refusals):  # noqa: ARG001 - for its effect
    with serve_in_thread(ProviderSettings(slots=8, service_s=0.0), policy=refusals) as control:
        yield control
        client_cache().close()


@pytest.fixture
def openai(provider):
    """A model as a stock node makes it for each run of a flow: another object, with clients of its own."""

    def make(**changes):
        options = {"model": "sim-chat", "api_key": KEY, "base_url": provider.base_url, "max_retries": 5}
        return ChatOpenAI(**{**options, **provider_httpx_clients(provider.base_url), **changes})

    return make


def texts(count, start=0):
    return [f"row {number}" for number in range(start, start + count)]


def table(rows, **columns):
    return DataFrame([{"text": row, **{name: made(row) for name, made in columns.items()}} for row in rows])


def node(model, rows, **inputs):
    df = table(rows) if isinstance(rows, list) else rows
    return executed("guarded_batch_run.py")(_id="batch-1", model=model, df=df, **{"column_name": "text", **inputs})


async def run(model, rows, **inputs):
    component = node(model, rows, **inputs)
    return await component.run_batch(), await component.failed_rows()


async def seen(provider, condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition(stats := await asyncio.to_thread(provider.stats)):
        assert time.monotonic() < deadline, stats
    return stats


def test_each_execution_of_the_source_makes_another_class():
    assert executed("guarded_batch_run.py") is not executed("guarded_batch_run.py")


async def test_a_hundred_rows_meet_no_429_and_come_back_in_their_order(provider, openai):
    provider.configure(service_s=0.05)
    results, failed = await run(openai(), texts(100))
    assert results["model_response"].tolist() == [f"Answer to: {text}" for text in texts(100)]
    assert results["batch_index"].tolist() == list(range(100))
    assert len(failed) == 0
    stats = provider.stats()
    assert (stats.answered, stats.max_in_flight) == ({200: 100}, {"chat": 8})


async def test_rows_that_fail_are_listed_with_their_errors_and_can_be_run_again_alone(provider, openai, refusals):
    bad = [3, 14, 15, 40, 65, 92, 99]
    refusals.words = {f"{number}" for number in bad}
    rows = table(texts(100), n=lambda text: int(text.split()[1]))
    results, failed = await run(openai(), rows, max_retries=1)
    assert results["n"].tolist() == [number for number in range(100) if number not in bad]
    assert results["batch_index"].tolist() == results["n"].tolist()
    assert failed.columns.tolist() == ["text", "n", *NOTES]
    assert failed["n"].tolist() == failed["_row"].tolist() == bad
    assert failed["_attempts"].tolist() == [1] * 7
    assert all("500" in error and "row" not in error for error in failed["_error"])
    assert provider.stats().answered == {200: 93, 500: 14}

    refusals.words = {"99"}
    provider.reset()
    results, failed = await run(openai(), failed, max_retries=0)
    assert results.columns.tolist() == ["text", "n", "model_response", "batch_index"]
    assert results["n"].tolist() == bad[:-1]
    assert (failed["n"].tolist(), failed["_row"].tolist()) == ([99], [6])
    assert provider.stats().requests == {"chat": 7}


async def test_both_outputs_come_from_one_run(provider, openai):
    component = node(openai(), texts(5))
    assert (len(await component.run_batch()), len(await component.failed_rows())) == (5, 0)
    assert provider.stats().requests == {"chat": 5}


VARIED = DataFrame(
    {
        "text": [f"row {number}" for number in range(6)],
        "n": [1, 2, 3, 4, 5, 6],
        "share": [0.1, 1e16, 2.0, -3.5, 1e-9, 7.25],
        "open": [True, False, True, True, False, False],
        "day": pd.to_datetime([f"2024-01-0{day}" for day in range(1, 7)]),
        "moment": pd.to_datetime([f"2024-01-01 10:00:0{second}" for second in range(6)]),
        "tags": [["a", "b"], [], ["c"], ["d", 1], [None], ["e"]],
        "quoted, and dotted.name": ['say "hi"', "a\nb", "back\\slash", "é", "", "[x]"],
        "text_input": ["a", "bb", "ccc", "", "eeeee", "f"],
    }
)


BRIEFLY = "Answer briefly."
COLUMNS = VARIED.columns.drop("quoted, and dotted.name")
SAME = [("text", "", False), ("text", "", True), ("", BRIEFLY, False), *((column, BRIEFLY, True) for column in COLUMNS)]


@pytest.mark.parametrize(("column_name", "system_message", "enable_metadata"), SAME)
async def test_the_table_is_the_one_that_batch_run_makes_and_the_requests_are_the_same(
    provider, openai, column_name, system_message, enable_metadata
):
    inputs = {"column_name": column_name, "system_message": system_message, "enable_metadata": enable_metadata}
    inputs |= {"df": VARIED if column_name != "text_input" else VARIED.drop(index=3)}  # an empty cell, see below
    inputs |= {"output_column_name": "said"}

    async def requests():
        calls = (await seen(provider, lambda stats: len(stats.calls) == len(inputs["df"]))).calls
        provider.reset()
        return sorted(call.body for call in calls)

    async with httpx.AsyncClient() as client:
        stock = BatchRunComponent(_id="stock", model=openai(http_async_client=client), **inputs)
        expected, theirs = await stock.run_batch(), await requests()
    found = await executed("guarded_batch_run.py")(_id="batch-1", model=openai(), **inputs).run_batch()
    pd.testing.assert_frame_equal(pd.DataFrame(found), pd.DataFrame(expected))
    assert isinstance(found, DataFrame)
    assert await requests() == theirs


async def test_rows_without_a_text_are_not_sent(provider, openai):
    rows = DataFrame({"text": ["row 0", None, float("nan"), "  ", "nan"], "n": [0, 1, 2, 3, 4]})
    results, failed = await run(openai(), rows, item_retries=2)
    assert results["n"].tolist() == [0, 4]
    assert failed["n"].tolist() == [1, 2, 3]
    assert failed["_attempts"].tolist() == [1, 1, 1]
    assert all("column_name is 'text'" in error for error in failed["_error"])
    assert provider.stats().subjects() == {fingerprint("row 0"): 1, fingerprint("nan"): 1}


async def test_a_row_as_toml_has_nothing_where_a_cell_is_missing_and_fails_where_all_are(openai):
    rows = DataFrame({"a": ["x", None], "b": [None, float("nan")]})
    results, failed = await run(openai(), rows, column_name="")
    assert results["model_response"].tolist() == ['Answer to: [a]\nvalue = "x"\n\n[b]\nvalue = ""\n']
    assert failed["_row"].tolist() == [1]
    assert "all cells" in failed["_error"][0]


@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize("rows", [DataFrame(pd.DataFrame(columns=["text", "n", *NOTES])), table([])])
async def test_an_empty_table_gives_empty_tables_of_the_right_columns(openai, metadata, rows):
    inputs = {"column_name": "text" if len(rows.columns) else "", "enable_metadata": metadata}
    results, failed = await run(openai(), rows, **inputs)
    own = ["text", "n"] if len(rows.columns) else []
    assert results.columns.tolist() == [*own, "model_response", "batch_index", *(["metadata"] if metadata else [])]
    assert failed.columns.tolist() == [*own, *NOTES]
    assert len(results) == len(failed) == 0


async def test_where_every_row_fails_the_results_still_have_their_columns(openai, refusals):
    refusals.words = {"row"}
    results, failed = await run(openai(), texts(2), max_retries=0)
    assert results.columns.tolist() == ["text", "model_response", "batch_index"]
    assert (len(results), len(failed)) == (0, 2)


async def test_with_stop_the_first_error_ends_the_run_and_names_its_row(provider, openai, refusals):
    refusals.words = {"5"}
    component = node(openai(), texts(50), on_error="stop", max_concurrency=1, max_retries=0)
    with pytest.raises(SectionError, match=r"^Row 5 failed: .*500"):
        await component.run_batch()
    with pytest.raises(SectionError, match=r"^Row 5 failed"):
        await component.failed_rows()
    assert provider.stats().requests == {"chat": 6}
    assert "6 of 50 rows, 1 failed" in component.repr_value


async def test_a_model_that_is_not_guarded_yet_gets_the_guard_of_its_service_with_the_nodes_limits(provider, openai):
    provider.configure(service_s=0.02)
    batches = [run(openai(), texts(10, start), max_concurrency=3) for start in (0, 100)]
    limited = executed("rate_limited_llm.py")(_id="llm", api_key=KEY, base_url=provider.base_url, max_concurrency=3)
    await asyncio.gather(*batches, limited.build_model().abatch(texts(10, 200)))
    stats = provider.stats()
    assert stats.max_in_flight == {"chat": 3}
    assert stats.subjects() == {fingerprint(text): 1 for start in (0, 100, 200) for text in texts(10, start)}
    assert stats.connections_opened <= 3


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("kind", ["Guarded Model", "Rate-Limited LLM"])
async def test_a_guarded_model_keeps_its_guard_and_a_call_takes_one_permit(provider, openai, guards, kind, bound):
    provider.configure(service_s=0.01)
    if kind == "Guarded Model":
        source = executed("guarded_model.py")(_id="guarded-1", model=openai(), max_concurrency=1, max_queue=1)
    else:
        inputs = {"api_key": KEY, "base_url": provider.base_url, "max_concurrency": 1, "max_queue": 1}
        source = executed("rate_limited_llm.py")(_id="llm", **inputs)
    model = source.build_model()
    # More workers than the queue takes: they must not turn each other away.
    results, failed = await run(model.bind(seed=1) if bound else model, texts(6), max_concurrency=5)
    assert (len(results), len(failed)) == (6, 0)
    assert guards.guards() == [protection_of(model).guard]
    assert (protection_of(model).guard.statistics().admitted, provider.stats().max_in_flight) == (6, {"chat": 1})


async def test_the_nodes_own_workers_are_the_cap_where_the_guard_allows_more(provider, openai):
    provider.configure(service_s=0.02)
    model = executed("guarded_model.py")(_id="guarded-1", model=openai()).build_model()
    await run(model, texts(12), max_concurrency=2)
    assert provider.stats().max_in_flight == {"chat": 2}
    provider.reset()
    await run(model, texts(24), max_concurrency=0)
    assert provider.stats().max_in_flight == {"chat": 8}


async def test_the_stock_openai_node_brings_the_model(provider):
    inputs = {"api_key": KEY, "openai_api_base": provider.base_url, "model_name": "gpt-4o-mini", "max_retries": 5}
    model = OpenAIModelComponent(_id="openai", **inputs).build_model()
    results, _ = await run(model, texts(20), max_concurrency=4)
    assert results["model_response"].tolist() == [f"Answer to: {text}" for text in texts(20)]
    assert provider.stats().max_in_flight["chat"] <= 4


async def test_a_model_of_another_integration_serves_as_well(provider, refusals):
    refusals.words = {"2"}
    model = ChatAnthropic(model="sim-chat", api_key=KEY, base_url=provider.root_url, max_retries=5)
    component = node(model, texts(4), system_message="Be brief.", max_retries=0)
    results, failed = await component.run_batch(), await component.failed_rows()
    assert results["model_response"].tolist() == [f"Answer to: row {number}" for number in (0, 1, 3)]
    assert failed["_row"].tolist() == [2]
    assert provider.stats().requests == {"chat": 4}
    assert results.attrs["usage"]["output_tokens"] == provider.stats().completion_tokens


async def test_an_answer_in_blocks_is_kept_as_its_text():
    blocks = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]

    class Blocks(FakeListChatModel):
        def _generate(self, *arguments, **options):
            result = super()._generate(*arguments, **options)
            result.generations[0].message.content = blocks
            return result

    results, _ = await run(Blocks(responses=["x"]), texts(1))
    assert results["model_response"].tolist() == ["one two"]


def test_the_node_works_on_one_event_loop_after_the_other_and_beside_it(provider, openai):
    provider.configure(service_s=0.01)

    def fresh(start):
        return asyncio.run(run(openai(), texts(5, start), max_concurrency=2))

    async def side_by_side():
        here = run(openai(), texts(5, 20), max_concurrency=2)
        return await asyncio.gather(asyncio.to_thread(fresh, 10), here)

    outcomes = [fresh(0), *asyncio.run(side_by_side())]
    said = [answer for results, _ in outcomes for answer in results["model_response"]]
    assert said == [f"Answer to: {text}" for start in (0, 10, 20) for text in texts(5, start)]
    assert provider.stats().max_in_flight == {"chat": 2}


async def test_who_leaves_cancels_the_calls_in_flight_and_the_other_rows_never_start(provider, openai, guards):
    provider.configure(fault="hang")
    component = node(openai(), texts(20), max_concurrency=3)
    running = asyncio.create_task(component.run_batch())
    await seen(provider, lambda stats: stats.in_flight.get("chat") == 3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    stats = await seen(provider, lambda stats: stats.disconnects == 3)
    assert (stats.requests, stats.in_flight) == ({"chat": 3}, {})
    [guard] = guards.guards()
    assert (guard.statistics().in_flight, sum(guard.statistics().waiting.values())) == (0, 0)
    assert component.repr_value.startswith("0 of 20 rows")


async def test_tokens_are_summed_over_the_rows_and_told_to_langflow(provider, openai):
    component = node(openai(), texts(30), system_message="Answer briefly.")
    results = await component.run_batch()
    stats = provider.stats()
    total = stats.prompt_tokens + stats.completion_tokens
    told = {"input_tokens": stats.prompt_tokens, "output_tokens": stats.completion_tokens, "total_tokens": total}
    assert results.attrs["usage"] == component._token_usage.model_dump() == told
    assert f"{stats.prompt_tokens} input + {stats.completion_tokens} output = {total} tokens" in component.repr_value
    assert "30 of 30 rows" in component.repr_value
    assert "30 calls" in component.repr_value


async def test_a_model_that_reports_no_usage_has_none(guards):  # noqa: ARG001 - for its effect
    component = node(FakeListChatModel(responses=["x"]), texts(3))
    assert (await component.run_batch())["model_response"].tolist() == ["x"] * 3
    assert component._token_usage is None
    assert "No usage reported" in component.repr_value


class Follower:
    """Who follows a run on the canvas: its event manager."""

    def __init__(self):
        self.messages = []

    def on_message(self, *, data):
        self.messages.append(data)

    def __getattr__(self, name):
        return lambda **_: None


async def test_progress_is_told_in_the_logs_and_the_playground_without_rows_or_keys(
    monkeypatch, provider, openai, refusals
):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN", 0.005)
    provider.configure(service_s=0.01)
    refusals.words = {"4"}
    component = node(openai(), texts(12), system_message="instructions", max_retries=0, max_concurrency=2)
    follower = Follower()
    component.set_event_manager(follower)
    await component.run_batch()
    told = [str(log.message) for log in component._logs if log.name == "Progress"]
    assert len(told) > 2
    assert told[-1] == component.repr_value
    assert told[-1].startswith("12 of 12 rows, 1 failed")
    assert len({message["id"] for message in follower.messages}) == 1
    assert follower.messages[-1]["progress"]["done"] == 12
    error = (await component.failed_rows())["_error"][0]
    for secret in (KEY, "row 4", "instructions"):
        assert secret not in f"{told} {component.repr_value} {error} {follower.messages}"


class Tally:
    """What happened to a model, over all of its copies."""

    calls = 0
    most_tasks = 0


class Unsteady(FakeListChatModel):
    """Fails as often as it is told, in a way that no guard knows of."""

    responses: list[str] = ["x"]
    failures: int = 0
    tally: Any

    async def _agenerate(self, *arguments, **options):
        self.tally.calls += 1
        self.tally.most_tasks = max(self.tally.most_tasks, len(asyncio.all_tasks()))
        await asyncio.sleep(0)
        if self.tally.calls <= self.failures:
            msg = "no table of contents"
            raise RuntimeError(msg)
        return await super()._agenerate(*arguments, **options)


async def test_a_row_is_tried_again_where_no_guard_has_done_so(provider, openai, refusals):
    results, failed = await run(Unsteady(failures=2, tally=Tally()), texts(1), item_retries=2)
    assert (results["model_response"].tolist(), len(failed)) == (["x"], 0)
    results, failed = await run(Unsteady(failures=2, tally=Tally()), texts(1), item_retries=1)
    assert (len(results), failed["_error"].tolist()) == (0, ["no table of contents"])
    assert failed["_attempts"].tolist() == [2]
    refusals.words = {"0"}
    await run(openai(), texts(1), item_retries=5, max_retries=1)
    assert provider.stats().requests == {"chat": 2}


async def test_rows_are_taken_by_a_few_workers_and_are_neither_tasks_nor_messages_before(monkeypatch):
    made = []
    ask = prompts.Prompts.__iter__

    def counted(self):
        for text in ask(self):
            made.append(text)
            yield text

    monkeypatch.setattr(prompts.Prompts, "__iter__", counted)
    tally, ahead = Tally(), []
    component = node(Unsteady(tally=tally), texts(1000), column_name="", max_concurrency=4)
    running = asyncio.create_task(component.run_batch())
    while not running.done():
        ahead.append(len(made) - tally.calls)
        await asyncio.sleep(0)
    assert (len(running.result()), len(made)) == (1000, 1000)
    assert max(ahead) <= 4
    # The run, the test, and for each worker its own task and the one that LangChain makes of a call; and whatever else
    # has not ended yet on the loop, which a thousand rows are more than.
    assert tally.most_tasks <= 2 + 2 * 4 + 10


TWINS = DataFrame(pd.DataFrame([["a", "b"]], columns=["text", "text"]))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"rows": None}, "^df is 'NoneType': it is no table"),
        ({"rows": Data(data={"text": "x"})}, "^df is 'JSON': it is no table"),
        ({"column_name": "body"}, "^column_name is 'body': the table has no such column.*'text', 'n'"),
        (
            {"rows": DataFrame(pd.DataFrame([[1, 2]], columns=["text", "text"]))},
            "^df is 'text': the table has two columns of that name",
        ),
        ({"model": None}, "^model is 'NoneType': it is no chat model"),
        ({"model": ""}, "^model is 'str': it is no chat model"),
        ({"output_column_name": " "}, "^output_column_name is ''"),
        ({"output_column_name": "batch_index"}, "^output_column_name is 'batch_index'"),
        ({"on_error": "ignore"}, "^on_error is 'ignore'"),
        ({"item_retries": -1}, "^item_retries is -1"),
        ({"max_concurrency": -1}, "^max_concurrency is -1"),
        ({"max_retries": -1}, "^max_retries is -1"),
    ],
)
async def test_a_wrong_input_is_refused_by_name_before_anything_is_sent(provider, openai, inputs, said):
    given = {"model": openai(), "rows": DataFrame([{"text": "x", "n": 1}]), **inputs}
    with pytest.raises(InvalidInput, match=said):
        await node(given.pop("model"), given.pop("rows"), **given).run_batch()
    assert provider.stats().requests == {}


async def test_the_cap_is_checked_also_where_the_model_brings_its_guard(openai):
    model = executed("guarded_model.py")(_id="guarded-1", model=openai()).build_model()
    with pytest.raises(InvalidInput, match=r"^max_concurrency is -1"):
        await run(model, texts(1), max_concurrency=-1)


async def test_empty_number_fields_mean_zero(openai):
    results, _ = await run(openai(), texts(3), max_concurrency="", item_retries=None)
    assert len(results) == 3


async def test_in_a_graph_table_and_model_come_from_nodes_and_both_results_reach_another(
    probe, nodes, provider, refusals
):
    probe.rows = 10
    refusals.words = {"4"}
    source, sink = nodes.SourceComponent(_id="source"), nodes.SinkComponent(_id="sink")
    batch = executed("guarded_batch_run.py")(_id="batch", column_name="n", max_retries=0)
    openai = OpenAIModelComponent(_id="openai", openai_api_base=provider.base_url, model_name="gpt-4o-mini")
    openai._inputs["api_key"].load_from_db = False  # the key itself, and not the name of a variable
    openai.set(api_key=KEY)
    batch.set(df=source.rows, model=openai.build_model)
    sink.set(value=batch.run_batch, other=batch.failed_rows)
    graph = Graph(source, sink)
    graph.prepare()
    await graph.initialize_run()
    await graph.process(fallback_to_env_vars=False)
    results, failed = probe.results["sink"]
    assert results["n"].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert failed["n"].tolist() == [4]
    assert graph.get_vertex("batch").result.token_usage.total_tokens == results.attrs["usage"]["total_tokens"] > 0
