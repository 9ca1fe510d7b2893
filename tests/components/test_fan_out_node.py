"""Fan-Out on real Langflow graphs: rows of every kind, timeouts, retries, errors, all outputs through the API."""

import asyncio
import contextlib
import gc
import json
import weakref
from collections import Counter

import pytest
from fastapi.encoders import jsonable_encoder
from langflow.api.v1.schemas import RunResponse
from lfx.graph import Graph
from lfx.graph.schema import RunOutputs
from lfx.schema.data import Data
from lfx.schema.dataframe import DataFrame
from lfx.schema.message import Message

from langflow_sluice.errors import UpstreamThrottled
from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.sections.fan_out import FanOutPolicy, fan_out
from langflow_sluice.testing import ManualClock, isolated_guards

from .conftest import HERE, load


@pytest.fixture
def clock():
    manual = ManualClock()
    with isolated_guards(manual):
        yield manual


@pytest.fixture
def work_nodes(probe):
    probe.tried = Counter()
    return load(HERE / "work_nodes.py", "work_nodes_under_test")


class Flow:
    """Give -> Fan-Out -> Work -> back, and its outputs to Keep."""

    def __init__(self, probe, nodes, sluice_nodes, given, work, *, keeps_failed=True, **inputs):
        probe.given, probe.work = given, work
        self.probe = probe
        give, self.keep = nodes.GiveComponent(_id="give"), nodes.KeepComponent(_id="keep")
        self.fan, inside = sluice_nodes.fan_out(_id="fan", **inputs), nodes.WorkComponent(_id="work")
        self.fan.set(data=give.give)
        inside.set(item=self.fan.item_output)
        self.fan.set(item=inside.work)
        self.keep.set(value=self.fan.done_output, **({"other": self.fan.failed_output} if keeps_failed else {}))
        self.graph = Graph(give, self.keep)
        self.graph.prepare()

    async def run(self, **options):
        await self.graph.initialize_run()
        await self.graph.process(fallback_to_env_vars=False, **options)
        return self.probe.results["keep"]


@pytest.fixture
def flow(clock, probe, work_nodes, sluice_nodes):  # noqa: ARG001 - guards of the test's own
    def make(given, work, **inputs):
        return Flow(probe, work_nodes, sluice_nodes, given, work, **inputs)

    return make


async def passing(clock, running):
    """Lets time pass until the run is over."""
    running = asyncio.ensure_future(running)
    while not running.done():
        await clock.advance(1)
    return await running


def records(table):
    return table.to_dict(orient="records")


async def same(item):
    return item


async def test_of_a_hundred_rows_seven_fail_and_the_others_are_kept(flow):
    wrong = {3, 14, 15, 65, 58, 97, 93}

    async def work(item):
        if item.data["n"] in wrong:
            msg = f"no {item.data['n']}"
            raise ValueError(msg)
        return Message(text=f"answer {item.data['n']}")

    done, failed = await flow(DataFrame([{"n": n} for n in range(100)]), work, max_concurrency=10).run()
    assert records(done) == [{"n": n, "result": f"answer {n}"} for n in range(100) if n not in wrong]
    assert records(failed) == [{"n": n, "_row": n, "_error": f"no {n}", "_attempts": 1} for n in sorted(wrong)]

    ran = Counter()

    async def work_again(item):
        assert set(item.data) == {"n"}
        ran[item.data["n"]] += 1
        return Message(text=f"answer {item.data['n']}")

    done, failed = await flow(failed, work_again, max_concurrency=10).run()
    assert ran == Counter(wrong)
    assert records(done) == [{"n": n, "result": f"answer {n}"} for n in sorted(wrong)]
    assert records(failed) == []
    assert list(failed.columns) == ["n", "_row", "_error", "_attempts"]


@pytest.mark.parametrize(("rows", "words"), [(3, "All 3 rows failed. Row 0: no 0"), (1, "The only row failed: no 0")])
async def test_where_all_rows_fail_and_failed_leads_nowhere_the_run_says_so(flow, rows, words):
    async def work(item):
        msg = f"no {item.data['n']}"
        raise ValueError(msg)

    made = flow([Data(data={"n": n}) for n in range(rows)], work, keeps_failed=False)
    with pytest.raises(Exception, match=words):
        await made.run()


async def test_where_some_rows_fail_and_failed_leads_nowhere_the_others_go_on(flow):
    async def work(item):
        if not item.data["n"]:
            msg = "no"
            raise ValueError(msg)
        return item

    done, _ = await flow([Data(data={"n": n}) for n in range(3)], work, keeps_failed=False).run()
    assert [row["n"] for row in records(done)] == [1, 2]


async def test_stop_names_the_row_and_ends_those_that_are_running(flow):
    started, ended = Counter(), Counter()

    async def work(item):
        n = item.data["n"]
        started[n] += 1
        if n == 3:
            msg = "no luck"
            raise ValueError(msg)
        try:
            await asyncio.Event().wait()
        finally:
            ended[n] += 1

    rows = DataFrame([{"n": n} for n in range(50)])
    with pytest.raises(Exception, match="Row 3 failed: no luck"):
        await flow(rows, work, max_concurrency=4, on_error="stop").run()
    assert started == Counter(range(4))
    assert ended == Counter(range(3))


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (DataFrame([{"a": 1}]), [Data]),
        (Data(data={"a": 1}), [Data]),
        (Message(text="a"), [Message]),
        ([Data(data={"a": 1}), Message(text="b"), DataFrame([{"c": 1}, {"c": 2}])], [Data, Message, Data, Data]),
        ([], []),
        (DataFrame(), []),
    ],
)
async def test_every_kind_of_row_runs_as_what_it_is(given, seen, flow):
    kinds = []

    async def work(item):
        kinds.append(type(item))
        return item

    done, failed = await flow(given, work, max_concurrency=1).run()
    assert kinds == seen
    assert (len(done), len(failed)) == (len(seen), 0)


async def test_what_holds_no_rows_is_refused_by_field_value_and_fix(flow):
    with pytest.raises(Exception, match=r"data is 'int': these are no rows. Connect a Table, JSON or messages."):
        await flow([1, 2], same).run()


@pytest.mark.parametrize(
    ("field", "value"),
    [("item_retries", -1), ("item_timeout", -1), ("item_timeout", float("nan"))],
)
async def test_a_wrong_number_is_refused_before_any_row_runs(field, value, flow):
    ran = Counter()

    async def work(_):
        ran["work"] += 1

    made = flow(DataFrame([{"n": 1}]), work)
    made.graph.get_vertex("fan").update_raw_params({field: value}, overwrite=True)
    with pytest.raises(Exception, match=f"{field} is {value}"):
        await made.run()
    assert not ran


async def test_an_item_that_takes_too_long_is_tried_again_and_told_of(flow, clock, probe):
    async def work(item):
        probe.tried[item.data["n"]] += 1
        if item.data["n"] == 0 or probe.tried[1] == 1:
            await asyncio.Event().wait()
        return Data(data={"ok": 1})

    made = flow(DataFrame([{"n": 0}, {"n": 1}]), work, item_timeout=0.01, item_retries=2)
    done, failed = await passing(clock, made.run())
    assert probe.tried == {0: 3, 1: 2}
    assert records(done) == [{"n": 1, "ok": 1}]
    (row,) = records(failed)
    assert (row["_row"], row["_attempts"]) == (0, 3)
    assert row["_error"].startswith("The item did not finish within 0.01 s (item_timeout).")


async def test_a_timeout_of_an_items_own_is_not_taken_for_that_of_the_item(clock):
    @contextlib.asynccontextmanager
    async def open_worker():
        async def run(_):
            msg = "its own"
            raise asyncio.TimeoutError(msg)

        yield run

    guard = Guard("g", GuardSettings(max_concurrency=1), clock)
    (outcome,) = await fan_out([0], 1, guard, FanOutPolicy(item_timeout_s=300), open_worker, lambda _: None)
    assert outcome.error == "its own"


async def test_a_row_that_fails_is_tried_again_as_often_as_it_may_be(flow, clock, probe):
    async def work(item):
        n = item.data["n"]
        probe.tried[n] += 1
        if probe.tried[n] <= n:
            msg = "not yet"
            raise ValueError(msg)
        return Data(data={})

    made = flow(DataFrame([{"n": n} for n in range(5)]), work, item_retries=3, max_concurrency=5)
    done, failed = await passing(clock, made.run())
    assert probe.tried == {0: 1, 1: 2, 2: 3, 3: 4, 4: 4}
    assert done["n"].tolist() == [0, 1, 2, 3]
    assert records(failed) == [{"n": 4, "_row": 4, "_error": "not yet", "_attempts": 4}]


async def test_what_a_guard_has_retried_or_refused_is_not_tried_again(flow, clock, probe):
    async def work(item):
        probe.tried[item.data["n"]] += 1
        refusal = UpstreamThrottled("It answers 429.", hint="Lower the load.")
        if item.data["n"] == 0:
            raise refusal
        try:
            raise refusal
        except UpstreamThrottled as error:
            msg = "the model failed"
            raise RuntimeError(msg) from error

    made = flow(DataFrame([{"n": 0}, {"n": 1}]), work, item_retries=5)
    _, failed = await passing(clock, made.run())
    assert probe.tried == {0: 1, 1: 1}
    assert failed["_error"].tolist() == ["It answers 429. Lower the load.", "the model failed"]
    assert failed["_attempts"].tolist() == [1, 1]


async def test_a_row_is_left_out_of_the_wait_for_another_ones_retry(flow, clock, probe):
    async def work(item):
        probe.tried[item.data["n"]] += 1
        if item.data["n"] == 0:
            msg = "no"
            raise ValueError(msg)
        return Data(data={})

    running = asyncio.ensure_future(
        flow(DataFrame([{"n": n} for n in range(9)]), work, item_retries=1, max_concurrency=2).run()
    )
    while len(probe.tried) < 9:  # noqa: ASYNC110 - what Langflow does meanwhile tells nobody when it is done
        await asyncio.sleep(0)
    assert probe.tried[0] == 1
    await passing(clock, running)
    assert probe.tried[0] == 2


class Big:
    """A weakly referenced something that a failure must not keep alive."""


async def test_a_failed_row_keeps_nothing_alive_but_its_words(flow):
    alive = weakref.WeakSet()

    async def work(_):
        big = Big()
        alive.add(big)
        msg = "no"
        raise ValueError(msg)

    _, failed = await flow(DataFrame([{"n": n} for n in range(20)]), work).run()
    gc.collect()
    assert len(failed) == 20
    # What ran last may still stand in the copies of the body.
    assert len(alive) <= 8


async def test_results_with_numpy_and_nan_reach_the_api_as_json(flow):
    import numpy as np

    async def work(item):
        return Data(data={"score": np.float64(item.data["n"]), "none": float("nan"), "nested": {"a": [1]}})

    made = flow(DataFrame([{"n": 1}, {"n": 2}]), work)
    done, _ = await made.run()
    assert records(done) == [
        {"n": 1, "score": 1.0, "none": None, "nested": {"a": [1]}},
        {"n": 2, "score": 2.0, "none": None, "nested": {"a": [1]}},
    ]


async def test_all_outputs_at_once_can_be_sent_to_a_caller(flow):
    # As /api/v1/run does with output_type "debug", which asks every node for its result.
    async def work(item):
        if item.data["n"]:
            return Message(text="fine")
        msg = "no"
        raise ValueError(msg)

    made = flow(DataFrame([{"n": 0}, {"n": 1}]), work)
    await made.run()
    results = [vertex.result for vertex in made.graph.vertices if vertex.result]
    answer = jsonable_encoder(RunResponse(outputs=[RunOutputs(inputs={}, outputs=results)], session_id="s"))
    (fan,) = [each for each in answer["outputs"][0]["outputs"] if each["component_id"] == "fan"]
    assert fan["outputs"]["done"]["message"] == [{"n": 1, "result": "fine"}]
    assert fan["outputs"]["failed"]["message"] == [{"n": 0, "_row": 0, "_error": "no", "_attempts": 1}]
    assert fan["artifacts"]["done"]["repr"].startswith("2 of 2 rows, 1 failed")
    assert json.dumps(answer, allow_nan=False)


async def test_a_run_that_is_cancelled_in_the_middle_leaves_nothing_running(flow, probe):
    async def work(_):
        with probe.inside("work"):
            await asyncio.Event().wait()

    running = asyncio.ensure_future(flow(DataFrame([{"n": n} for n in range(50)]), work, max_concurrency=4).run())
    while probe.now["work"] < 4:  # noqa: ASYNC110 - what Langflow does meanwhile tells nobody when it is done
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert probe.now["work"] == 0
    assert probe.most["work"] == 4
