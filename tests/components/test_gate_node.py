"""Concurrency Gate on real Langflow graphs: what it takes and gives, whom it turns away and what it tells them."""

import asyncio
import contextlib
import copy
import pickle
import traceback

import pytest
from fastapi.encoders import jsonable_encoder
from langflow.api.v1.schemas import RunResponse
from lfx.graph import Graph
from lfx.graph.schema import RunOutputs
from lfx.schema.data import Data
from lfx.schema.dataframe import DataFrame
from lfx.schema.message import Message

from langflow_sluice.errors import BulkheadFull, CircuitOpen, QueueTimeout
from langflow_sluice.guard import Guard, GuardSettings, guard_registry
from langflow_sluice.guard.waiter import Outcome
from langflow_sluice.sections.busy import noted, without_note
from langflow_sluice.testing import ManualClock, isolated_guards, settle

from .conftest import HERE, load

VALUES = {
    "message": Message(text="a question", sender="User", session_id="s"),
    "json": Data(data={"a": 1, "text": "t"}, text_key="text"),
    "table": DataFrame([{"a": 1, "text": "x"}, {"a": 2, "text": "y"}]),
}


@pytest.fixture
def clock():
    manual = ManualClock()
    with isolated_guards(manual):
        yield manual


@pytest.fixture
def work_nodes(probe):
    probe.holding = asyncio.Event()
    probe.held = asyncio.Event()
    return load(HERE / "work_nodes.py", "work_nodes_under_test")


class Flow:
    """Give -> Gate -> Work -> back; done, busy and reason each to a Keep of their own."""

    def __init__(self, probe, nodes, sluice_nodes, value, work, connected=("done", "busy", "reason"), **inputs):
        probe.given, probe.work = value, work
        self.probe = probe
        give = nodes.GiveComponent(_id="give")
        gate, inside = sluice_nodes.gate(_id="gate", **inputs), nodes.WorkComponent(_id="work")
        gate.set(value=give.give)
        inside.set(item=gate.guarded_output)
        gate.set(guarded=inside.work)
        join = None
        for name in connected:
            end = nodes.KeepComponent(_id=name)
            end.set(value=getattr(gate, f"{name}_output"))
            before, join = join, nodes.KeepComponent(_id=f"join {name}")
            join.set(value=end.keep, **({"other": before.keep} if before else {}))
        self.graph = Graph(give, join)
        self.graph.prepare()

    async def run(self):
        """What each output that gave anything gave."""
        self.probe.results.clear()
        await self.graph.initialize_run()
        await self.graph.process(fallback_to_env_vars=False)
        return {name: value for name, (value, _) in self.probe.results.items() if "join" not in name}


@pytest.fixture
def flow(clock, probe, work_nodes, sluice_nodes):  # noqa: ARG001 - guards of the test's own
    def make(value, work=None, **inputs):
        return Flow(probe, work_nodes, sluice_nodes, value, work or same, **inputs)

    return make


async def same(value):
    return value


@pytest.fixture
async def full(flow, probe):
    """A gate of one, taken, with one who waits."""

    async def hold(value):
        probe.holding.set()
        await probe.held.wait()
        return value

    first = asyncio.ensure_future(flow(VALUES["message"], hold, **FULL).run())
    await probe.holding.wait()
    second = asyncio.ensure_future(flow(VALUES["message"], hold, **FULL).run())
    (guard,) = guard_registry().guards()
    await until_waiting(guard, 1)
    yield guard
    probe.held.set()
    # The second may have waited for too long, as a test wants it.
    await asyncio.gather(first, second, return_exceptions=True)


async def until_waiting(guard, count):
    while sum(guard.statistics().waiting.values()) < count:  # noqa: ASYNC110 - the guard tells nobody
        await asyncio.sleep(0)


FULL = {"max_concurrency": 1, "max_queue": 1, "queue_timeout": 60, "guard_name": "shared"}


@pytest.mark.parametrize("kind", VALUES)
async def test_a_value_passes_the_gate_as_what_it_is(kind, flow):
    seen = []

    async def work(value):
        seen.append(value)
        return value

    given = VALUES[kind]
    results = await flow(given, work, on_full="busy").run()
    assert list(results) == ["done"]
    assert results["done"] is seen[0]
    assert type(seen[0]) is type(given)


@pytest.mark.parametrize("kind", VALUES)
async def test_a_value_that_is_turned_away_stays_what_it_is_and_says_why(kind, flow, full):
    given = VALUES[kind]
    before = copy.deepcopy(given)
    made = flow(given, on_full="busy", **FULL)
    results = await made.run()
    assert set(results) == {"busy", "reason"}
    busy, reason = results["busy"], results["reason"]
    assert type(busy) is type(given)
    note = busy.attrs["_busy"] if kind == "table" else busy.data["_busy"]
    assert (note["code"], note["retry_in_s"]) == ("bulkhead_full", 1.0)
    assert "is full: 1 calls in flight (max_concurrency 1) and 1 waiting (max_queue 1)" in note["reason"]
    assert reason.text == note["reason"]
    assert reason.data["_busy"] == note
    if kind == "table":
        assert busy.equals(before)
        assert busy.text_key == before.text_key
    else:
        added = dict.fromkeys(("_busy", "session_metadata"))
        assert {**busy.data, **added} == {**before.data, **added}
        assert busy.get_text() == before.get_text()
    if kind == "message":
        # What Chat Output leaves of it.
        assert busy.session_metadata == {"_busy": note}
        assert given.session_metadata is None
    assert full.statistics().refused == 1


async def test_what_was_given_is_not_changed_by_the_note(flow, full):  # noqa: ARG001 - the gate is full
    given = Data(data={"a": 1})
    await flow(given, on_full="busy", **FULL).run()
    assert given.data == {"a": 1}


@pytest.mark.parametrize("kind", VALUES)
async def test_the_note_is_taken_off_again_where_the_value_comes_once_more(kind, flow):
    tired = noted(VALUES[kind], BulkheadFull("full", retry_in_s=2.0))
    assert without_note(tired) is not tired
    results = await flow(tired).run()
    value = results["done"]
    assert "_busy" not in (value.attrs if kind == "table" else value.data)
    assert "_busy" not in (getattr(value, "session_metadata", None) or {} if kind == "message" else {})
    assert type(value) is type(VALUES[kind])


@pytest.mark.parametrize("kind", VALUES)
async def test_every_output_reaches_the_api_whatever_the_value_is(kind, flow, full):  # noqa: ARG001 - the gate is full
    made = flow(VALUES[kind], on_full="busy", **FULL)
    await made.run()
    results = [vertex.result for vertex in made.graph.vertices if vertex.result]
    answer = jsonable_encoder(RunResponse(outputs=[RunOutputs(inputs={}, outputs=results)], session_id="s"))
    (gate,) = [each for each in answer["outputs"][0]["outputs"] if each["component_id"] == "gate"]
    assert "is full: 1 calls in flight" in gate["artifacts"]["reason"]["raw"]
    assert gate["artifacts"]["busy"]["repr"].startswith("Turned away: Guard '")
    assert "1 of 1 in flight, 1 waiting" in gate["artifacts"]["busy"]["repr"]


@pytest.mark.parametrize("connected", [("done",), ("done", "busy"), ("done", "reason")])
async def test_busy_that_leads_nowhere_is_refused_at_once(connected, flow):
    made = flow(VALUES["json"], on_full="busy", connected=connected)
    if connected == ("done",):
        with pytest.raises(Exception, match=r"on_full is 'busy'.*nothing is connected.*Connect Busy.*or set on_full"):
            await made.run()
    else:
        assert list(await made.run()) == ["done"]


async def test_a_gate_that_raises_says_when_to_try_again_and_keeps_no_frames(flow, full):
    full.admission.services_s.extend([4.0] * 10)
    with pytest.raises(Exception, match=r"It should be free again in about 6 s\.") as caught:
        await flow(VALUES["json"], connected=("done",), on_full="raise", **FULL).run()
    links = [caught.value]
    while links[-1].__cause__:
        links.append(links[-1].__cause__)
    (refusal,) = [link for link in links if isinstance(link, BulkheadFull)]
    assert refusal.retry_in_s == 6.0
    assert refusal.__context__ is None or refusal.__suppress_context__
    # Langflow's logs would render the source around each of them, again and again.
    assert refusal.__traceback__ is None


async def test_a_wait_that_is_too_long_goes_to_busy_too(flow, full, clock):
    waiting = asyncio.ensure_future(flow(VALUES["json"], on_full="busy", **{**FULL, "max_queue": 5}).run())
    await until_waiting(full, 2)
    await clock.advance(60)
    results = await waiting
    assert results["busy"].data["_busy"]["code"] == "queue_timeout"


async def test_two_flows_share_one_gate_by_its_name(flow, full):
    # Nothing but the name is the same: other nodes, another graph, another place.
    made = flow(VALUES["json"], on_full="busy", **FULL)
    made.graph.flow_id = "another flow"
    assert set(await made.run()) == {"busy", "reason"}
    own = flow(VALUES["json"], on_full="busy", **{**FULL, "guard_name": "of its own"})
    assert set(await own.run()) == {"done"}
    assert full.statistics().admitted == 1


async def test_an_error_inside_is_no_refusal(flow):
    async def work(_):
        msg = "no luck"
        raise ValueError(msg)

    with pytest.raises(Exception, match="no luck"):
        await flow(VALUES["json"], work, on_full="busy").run()


async def test_a_run_that_is_cancelled_while_it_waits_leaves_the_queue(flow, full):
    waiting = asyncio.ensure_future(flow(VALUES["json"], on_full="busy", **{**FULL, "max_queue": 5}).run())
    await until_waiting(full, 2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert sum(full.statistics().waiting.values()) == 1


@pytest.mark.parametrize(
    ("settings", "waiting", "seconds"),
    [
        ({"max_concurrency": 1, "max_queue": 2}, 2, 10.0),
        ({"max_concurrency": 2, "max_queue": 6}, 6, 14.0),
        ({"max_concurrency": 1, "max_queue": 3, "requests_per_minute": 6}, 3, 30.0),
    ],
)
async def test_when_to_try_again_follows_queue_service_and_rate(settings, waiting, seconds):
    clock = ManualClock()
    guard = Guard("g", GuardSettings(**settings), clock)
    guard.admission.services_s.extend([4.0] * 3)
    tasks = [asyncio.ensure_future(guard.slot().__aenter__()) for _ in range(waiting + settings["max_concurrency"])]
    await settle()
    with pytest.raises(BulkheadFull, match="full") as caught:
        await guard.slot().__aenter__()
    assert caught.value.retry_in_s == pytest.approx(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_pause_that_the_service_asked_for_is_waited_out(clock):
    guard = Guard("g", GuardSettings(max_concurrency=1, queue_timeout_s=5), clock)
    async with guard.slot() as slot:
        slot.report(Outcome.OVERLOADED, pause_s=30)
    waiting = asyncio.ensure_future(guard.slot().__aenter__())
    await clock.advance(6)
    with pytest.raises(QueueTimeout) as caught:
        await waiting
    assert caught.value.retry_in_s == pytest.approx(25.0)


@pytest.mark.parametrize("kind", [BulkheadFull, QueueTimeout, CircuitOpen])
def test_a_refusal_survives_pickle_with_its_estimate(kind):
    refusal = pickle.loads(pickle.dumps(kind("Full.", hint="Wait.", retry_in_s=3.5)))  # noqa: S301 - our own
    assert (str(refusal), refusal.retry_in_s, refusal.code) == ("Full. Wait.", 3.5, kind.code)


async def test_a_refusal_can_be_raised_through_anything_and_traced_by_who_catches_it(clock):
    guard = Guard("g", GuardSettings(max_concurrency=1, max_queue=1, queue_timeout_s=1), clock)

    @contextlib.contextmanager
    def around():
        yield

    async def turned_away():
        with around():
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(guard.slot())

    async with guard.slot():
        refused = asyncio.ensure_future(turned_away())
        await clock.advance(2)
        with pytest.raises(QueueTimeout) as caught:
            await refused
    assert caught.traceback[-1].name == "_entered"
    assert "QueueTimeout: Guard 'g' had no free slot" in "".join(traceback.format_exception(caught.value))
