"""Pressure Gauge with its source executed afresh, as Langflow does it, beside the nodes whose figures it shows."""

import asyncio
import base64
import contextlib
import json
import time
import warnings
from pathlib import Path

import pytest

from langflow_sluice.errors import InvalidInput
from langflow_sluice.gauge.report import CALM
from langflow_sluice.gauge.rows import ALL
from langflow_sluice.metrics.loop_lag import LoopLags
from langflow_sluice.testing import isolated_guards, settle

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from lfx.components.input_output import ChatOutput
    from lfx.custom.eval import eval_custom_component_code
    from lfx.events.event_manager import EventManager
    from lfx.graph import Graph
    from lfx.schema.legacy_render import render_v1_content_blocks

COMPONENTS = Path(__file__).parents[2] / "components" / "sluice"
DEADLINE_S = 60.0
QUESTION = "canary-question"


def executed(file):
    """The class that a node's source makes when it is executed once more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Langflow imports what the source names, and more
        return eval_custom_component_code((COMPONENTS / file).read_text("utf-8"))


def gauge(**inputs):
    return executed("pressure_gauge.py")(_id="gauge", **inputs)


@pytest.fixture(autouse=True)
def of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("SLUICE_STATE_DIR", str(tmp_path))
    # The loops of other tests are slow to come round, since they are gone.
    monkeypatch.setattr("langflow_sluice.metrics.figures.loop_lags", LoopLags())
    with isolated_guards():
        yield


@pytest.fixture(scope="module")
def postgres():
    from langflow_sluice.embedded.postgres import EmbeddedPostgres

    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
def database_url(postgres, reachable):  # noqa: ARG001 - for its effect
    from langflow_sluice.postgres.engines import dispose_all

    yield postgres.create_database()
    dispose_all()


def the_row(table, worker, kind, name=""):
    rows = [row for row in table.to_dict("records") if (row["worker"], row["kind"]) == (worker, kind)]
    # Other tests of this process may have left connections of theirs.
    [row] = [row for row in rows if name in row["name"]]
    return row


async def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await settle()


async def test_its_figures_are_those_of_the_provider_and_of_pg_stat_activity_at_that_moment(
    provider, postgres, database_url
):
    from langflow_sluice.postgres.engines import connection, engine_for
    from langflow_sluice.postgres.url import parse_database_url

    await asyncio.to_thread(provider.configure, fault="hang")
    inputs = {"api_key": "sk-canary", "base_url": provider.base_url, "max_concurrency": 3, "guard_name": "the model"}
    model = executed("rate_limited_llm.py")(_id="llm", **inputs).build_model()
    calls = [asyncio.ensure_future(model.ainvoke(QUESTION)) for _ in range(8)]
    try:
        async with contextlib.AsyncExitStack() as lent:
            for _ in range(4):
                await lent.enter_async_context(connection(engine_for(parse_database_url(database_url))))
            while (stats := await asyncio.to_thread(provider.stats)).in_flight != {"chat": 3}:
                await settle()
            node = gauge(database_url=database_url)
            node._pre_run_setup()
            snapshot, database, report = [
                await ask() for ask in (node.take_snapshot, node.ask_postgres, node.write_report)
            ]
            guard = the_row(snapshot, ALL, "guard", "the model")
            pool = the_row(snapshot, ALL, "pool", database_url.rpartition("/")[2])
            client = the_row(snapshot, ALL, "client", provider.base_url.removesuffix("/v1"))
            assert guard["in_use"] == client["in_use"] == stats.in_flight["chat"] == 3
            assert (guard["waiting"], guard["limit"]) == (5, 3)
            # Its own pool of one is beside the one of ten.
            assert (pool["in_use"], pool["idle"], pool["limit"]) == (4, 1, 11)
            rows = database.to_dict("records")
            [used] = [row["count"] for row in rows if row["name"] == "in use"]
            assert used == await asyncio.to_thread(postgres.connections)
            ours = sum(row["count"] for row in rows if row["what"] == "application" and row["name"] == "sluice")
            assert ours == pool["in_use"] + pool["idle"] == 5
            assert "5 waiting, limit 3 busy" in report.text
            assert "the provider has not refused anything" in report.text
            told = json.dumps([snapshot.to_dict("records"), rows]) + report.text + repr(node.repr_value)
            assert "canary" not in told
            assert database_url.split(":")[2].split("@")[0] not in told
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.to_thread(provider.configure, fault="ok")


@pytest.mark.parametrize("blank", ["", None, "   ", "SLUICE_DATABASE_URL"])
async def test_without_a_database_it_shows_the_rest_and_says_so(blank):
    node = gauge(database_url=blank)
    [row] = (await node.ask_postgres()).to_dict("records")
    assert row["what"] == "note"
    report = await node.write_report()
    assert CALM in report.text
    assert "No database_url is given" in report.text
    assert the_row(await node.take_snapshot(), ALL, "worker")["name"]


@pytest.mark.parametrize("address", ["mysql://anna:canary@host/db", "canary", "postgresql://anna:canary@10.0.0.1/db"])
@pytest.mark.parametrize("output", ["take_snapshot", "ask_postgres", "write_report"])
async def test_a_wrong_address_is_refused_by_name_and_not_shown(address, output):
    with pytest.raises(InvalidInput, match="database_url") as refused:
        await getattr(gauge(database_url=address), output)()
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("seconds", [-1, "ten"])
async def test_a_wrong_number_of_seconds_is_refused_by_name(seconds):
    with pytest.raises(InvalidInput, match="long_running"):
        await gauge(database_url="", long_running=seconds).write_report()


async def test_a_database_that_is_away_is_in_the_report_and_fails_no_run(reachable):  # noqa: ARG001 - for its effect
    node = gauge(database_url="postgresql://anna:canary@127.0.0.1:9/docs")
    [row] = (await node.ask_postgres()).to_dict("records")
    assert row["what"] == "problem"
    report = await node.write_report()
    assert "Under pressure: PostgreSQL `127.0.0.1:9/docs`" in report.text
    assert "canary" not in report.text + row["name"]


async def test_each_run_looks_anew_and_its_outputs_show_one_moment():
    from langflow_sluice.guard import GuardSettings, guard_registry

    guard = guard_registry().guard("crm", GuardSettings(), asked_by="test")
    node = gauge(database_url="")
    for expected in (0, 1, 2):
        async with contextlib.AsyncExitStack() as held:
            for _ in range(expected):
                await held.enter_async_context(guard.slot())
            results, _ = await node._build_results()
        assert the_row(results["snapshot"], ALL, "guard")["in_use"] == expected
        assert f"| {expected} of 8 |" in results["report"].text
    assert not any(output.cache for output in node.outputs)


async def test_the_picture_goes_to_those_who_follow_the_run_and_into_no_agents_memory():
    node = gauge(database_url="")
    assert (await node.write_report()).content_blocks == []
    node.set_event_manager(EventManager(asyncio.Queue()))
    report = await node.write_report()
    # What the Playground is told, and told again when it is opened the next time.
    [group] = render_v1_content_blocks(report.content_blocks)
    [picture] = group["contents"]
    assert (picture["type"], picture["mime_type"]) == ("image", "image/png")
    assert base64.b64decode(picture["base64"]).startswith(b"\x89PNG")
    assert report.to_lc_message().content == report.text
    assert picture["base64"] not in report.text


async def test_it_is_the_first_node_of_a_flow_and_chat_output_shows_what_it_says():
    first, last = gauge(database_url=""), ChatOutput(_id="out", should_store_message=False)
    last.set(input_value=first.write_report)
    results = [result async for result in Graph(first, last).async_start() if hasattr(result, "vertex")]
    assert [result.vertex.id for result in results] == ["gauge", "out"]
    assert CALM in results[-1].result_dict.results["message"].text


async def test_it_runs_on_the_canvas_with_nothing_connected():
    node = gauge(database_url="")
    results, artifacts = await node._build_results()
    assert list(results) == list(artifacts) == ["snapshot", "postgres", "report"]
    assert node.repr_value == CALM
    # What Langflow stores of a node's outputs is JSON; a number that is none would not be.
    json.dumps([results[name].to_dict("records") for name in ("snapshot", "postgres")], allow_nan=False)


async def test_two_executions_of_the_source_see_the_same_guards():
    executed("rate_limited_llm.py")(_id="llm", api_key="sk-canary", guard_name="shared").build_model()
    names = [
        [row["name"] for row in (await gauge(database_url="").take_snapshot()).to_dict("records")] for _ in range(2)
    ]
    assert names[0] == names[1]
    assert "shared" in names[0]
