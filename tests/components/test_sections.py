"""Sections on real Langflow graphs, run by Langflow's own scheduler around them."""

import asyncio

import pytest
from lfx.components.flow_controls.conditional_router import ConditionalRouterComponent
from lfx.graph import Graph
from lfx.schema.message import Message

from langflow_sluice.guard import guard_registry
from langflow_sluice.testing import isolated_guards

pytestmark = pytest.mark.usefixtures("fresh_guards")


@pytest.fixture
def fresh_guards():
    with isolated_guards():
        yield


async def run(first, last):
    graph = Graph(first, last)
    graph.prepare()
    await graph.initialize_run()
    await graph.process(fallback_to_env_vars=False)
    return graph


@pytest.fixture
def steps(nodes):
    def make(*names):
        return [nodes.StepComponent(_id=name) for name in names]

    return make


async def fan_out_through(nodes, fan, body, *, extra=None, connect=None):
    """Runs source -> fan -> body -> back, and its outputs into a sink."""
    source, sink = nodes.SourceComponent(_id="source"), nodes.SinkComponent(_id="sink")
    fan.set(data=source.rows)
    if connect is None:
        body[0].set(item=fan.item_output)
        for before, after in zip(body, body[1:], strict=False):
            after.set(item=before.out)
        fan.set(item=body[-1].out)
    else:
        connect(fan)
    if extra is not None:
        body[0].set(extra=extra.message)
    sink.set(value=fan.done_output, other=fan.failed_output)
    return await run(source, sink)


def column(table, name="n"):
    return table[name].tolist() if len(table) else []


async def test_each_row_runs_through_the_body_and_the_results_keep_their_order(probe, nodes, sluice_nodes, steps):
    probe.rows = 6
    probe.turns = lambda n: 30 - 5 * n  # the first rows take the longest
    await fan_out_through(nodes, sluice_nodes.fan_out(_id="fan", max_concurrency=3), steps("a", "b"))
    done, failed = probe.results["sink"]
    assert column(done) == [2, 3, 4, 5, 6, 7]
    assert len(failed) == 0
    assert (probe.runs["a"], probe.runs["b"]) == (6, 6)
    assert probe.most["a"] == 3


async def test_failed_rows_are_listed_with_their_error_and_the_others_are_kept(probe, nodes, sluice_nodes, steps):
    probe.rows, probe.failing = 10, {2, 5}
    await fan_out_through(nodes, sluice_nodes.fan_out(_id="fan", max_concurrency=4, item_retries=0), steps("a"))
    done, failed = probe.results["sink"]
    assert column(done) == [1, 2, 4, 5, 7, 8, 9, 10]
    assert failed.to_dict(orient="records") == [
        {"n": 2, "_row": 2, "_error": "n is 2", "_attempts": 1},
        {"n": 5, "_row": 5, "_error": "n is 5", "_attempts": 1},
    ]


async def test_stop_ends_with_the_first_error_and_names_its_row(probe, nodes, sluice_nodes, steps):
    probe.rows, probe.failing = 300, {3}
    with pytest.raises(Exception, match="Row 3 failed: n is 3"):
        await fan_out_through(nodes, sluice_nodes.fan_out(_id="fan", max_concurrency=2, on_error="stop"), steps("a"))
    assert probe.runs["a"] < 150
    assert probe.now["a"] == 0


async def test_a_node_outside_the_body_runs_once_whatever_the_number_of_rows(probe, nodes, sluice_nodes, steps):
    outside = nodes.SourceComponent(_id="outside", text="from outside")
    await fan_out_through(nodes, sluice_nodes.fan_out(_id="fan"), steps("a"), extra=outside)
    done, _ = probe.results["sink"]
    assert column(done, "extra") == ["from outside"] * 5
    assert probe.runs["outside"] == 1


async def test_a_run_that_is_cancelled_ends_the_node_outside_that_it_has_started(probe, nodes, sluice_nodes, steps):
    # The second of them comes a layer later than the fan-out, which therefore builds it by itself.
    first, second = nodes.HoldComponent(_id="first"), nodes.HoldComponent(_id="second")
    (a,) = steps("a")
    source, sink = nodes.SourceComponent(_id="source"), nodes.SinkComponent(_id="sink")
    fan = sluice_nodes.fan_out(_id="fan")
    probe.hold = asyncio.Event()
    fan.set(data=source.rows)
    first.set(value=source.message)
    second.set(value=first.value_output)
    a.set(item=fan.item_output, extra=second.value_output)
    fan.set(item=a.out)
    sink.set(value=fan.done_output)
    running = asyncio.ensure_future(run(source, sink))
    await until(lambda: probe.now["first"])
    probe.hold.set()
    probe.hold = asyncio.Event()
    await until(lambda: probe.now["second"])
    running.cancel()
    await asyncio.wait([running])
    await until(lambda: not probe.now["second"])
    assert (probe.runs["second"], probe.runs["a"]) == (1, 0)


async def test_a_row_whose_branch_leads_nowhere_is_reported_and_not_an_empty_success(probe, nodes, sluice_nodes, steps):
    parity, (a,) = nodes.ParityComponent(_id="parity"), steps("a")

    def connect(fan):
        parity.set(item=fan.item_output)
        a.set(item=parity.odd)
        fan.set(item=a.out)

    await fan_out_through(nodes, sluice_nodes.fan_out(_id="fan"), [], connect=connect)
    done, failed = probe.results["sink"]
    assert column(done) == [2, 4]
    assert column(failed, "_row") == [0, 2, 4]
    assert "ended without a result" in failed["_error"][0]


async def test_branches_that_come_back_separately_each_give_their_rows(probe, nodes, sluice_nodes, steps):
    parity, (a, b, c) = nodes.ParityComponent(_id="parity"), steps("a", "b", "c")

    def connect(fan):
        parity.set(item=fan.item_output)
        a.set(item=parity.odd)
        b.set(item=parity.even)
        c.set(item=b.out)
        fan.set(item=a.out)
        fan.set(item=c.out)

    await fan_out_through(nodes, sluice_nodes.fan_out(_id="fan"), [], connect=connect)
    done, _ = probe.results["sink"]
    assert column(done) == [2, 2, 4, 4, 6]


async def test_stock_if_else_decides_for_each_row_by_itself(probe, nodes, sluice_nodes):
    # It counts its iterations in the graph's context and forces its default route after ten.
    probe.rows = 30
    text, router = nodes.ParityTextComponent(_id="text"), ConditionalRouterComponent(_id="router")

    def connect(fan):
        text.set(item=fan.item_output)
        router.set(input_text=text.out, match_text="1", operator="equals")
        fan.set(item=router.true_response)
        fan._edges[-1]["data"]["targetHandle"]["output_types"] = ["Data", "Message", "DataFrame"]

    await fan_out_through(nodes, sluice_nodes.fan_out(_id="fan", max_concurrency=3), [], connect=connect)
    done, failed = probe.results["sink"]
    assert column(done) == list(range(1, 30, 2))
    assert column(failed) == list(range(0, 30, 2))


async def test_a_fan_out_in_a_fan_out_runs_every_pair(probe, nodes, sluice_nodes, steps):
    probe.rows = 3
    inner = sluice_nodes.fan_out(_id="inner", max_concurrency=2)
    (a,) = steps("a")

    def connect(fan):
        inner.set(data=fan.item_output)
        a.set(item=inner.item_output)
        inner.set(item=a.out)
        fan.set(item=inner.done_output)
        # The canvas writes the loop types of an output into the edge that comes back; Langflow's Python way does not.
        fan._edges[-1]["data"]["targetHandle"]["output_types"] = ["Data", "Message", "DataFrame"]

    await fan_out_through(nodes, sluice_nodes.fan_out(_id="outer", max_concurrency=3), [], connect=connect)
    done, failed = probe.results["sink"]
    assert column(done) == [1, 2, 3]
    assert len(failed) == 0
    assert probe.most["a"] <= 2


@pytest.mark.parametrize("place", ["first", "last", "alone", "middle"])
async def test_a_gate_in_a_fan_out_holds_wherever_it_stands(place, probe, nodes, sluice_nodes, steps):
    probe.rows = 8
    gate = sluice_nodes.gate(_id="gate", max_concurrency=1)
    inside, before, after = steps("inside", "before", "after")

    def connect(fan):
        if place in {"last", "middle"}:
            before.set(item=fan.item_output)
            gate.set(value=before.out)
        else:
            gate.set(value=fan.item_output)
        inside.set(item=gate.guarded_output)
        gate.set(guarded=inside.out)
        if place in {"first", "middle"}:
            after.set(item=gate.done_output)
            fan.set(item=after.out)
        else:
            fan.set(item=gate.done_output)

    await fan_out_through(nodes, sluice_nodes.fan_out(_id="fan", max_concurrency=4), [], connect=connect)
    done, failed = probe.results["sink"]
    added = {"first": 2, "last": 2, "alone": 1, "middle": 3}[place]
    assert failed.to_dict(orient="records") == []
    assert column(done) == [n + added for n in range(8)]
    assert probe.most["inside"] == 1
    assert probe.runs["inside"] == 8


async def test_a_gate_inside_itself_is_refused_with_an_explanation(probe, nodes, sluice_nodes, steps):
    gate = sluice_nodes.gate(_id="gate", guard_name="same")
    (inside,) = steps("inside")

    def connect(fan):
        gate.set(value=fan.item_output)
        inside.set(item=gate.guarded_output)
        gate.set(guarded=inside.out)
        fan.set(item=gate.done_output)

    await fan_out_through(nodes, sluice_nodes.fan_out(_id="fan", guard_name="same"), [], connect=connect)
    _, failed = probe.results["sink"]
    assert len(failed) == 5
    assert "asks for guard 'same' inside a section that holds it already" in failed["_error"][0]


async def test_two_runs_of_one_flow_share_the_cap_of_its_fan_out(probe, nodes, sluice_nodes, steps):
    probe.turns = lambda _: 20

    async def one():
        await fan_out_through(nodes, sluice_nodes.fan_out(_id="fan", max_concurrency=2), steps("a"))

    await asyncio.gather(one(), one(), one())
    assert probe.runs["a"] == 15
    assert probe.most["a"] == 2


async def test_a_body_that_comes_back_nowhere_is_refused_before_any_row_runs(probe, nodes, sluice_nodes, steps):
    (a,) = steps("a")
    source, sink = nodes.SourceComponent(_id="source"), nodes.SinkComponent(_id="sink")
    fan = sluice_nodes.fan_out(_id="fan")
    fan.set(data=source.rows)
    a.set(item=fan.item_output)
    sink.set(value=fan.done_output, other=a.out)
    with pytest.raises(Exception, match="No node comes back to 'item' of Fan-Out"):
        await run(source, sink)
    assert probe.runs["a"] == 0


async def test_failed_rows_fed_in_again_run_as_they_were(probe, nodes, sluice_nodes, steps):
    probe.rows, probe.failing = 4, {2}
    again = sluice_nodes.fan_out(_id="again")
    first, second = steps("first", "second")
    fan = sluice_nodes.fan_out(_id="fan")
    source, sink = nodes.SourceComponent(_id="source"), nodes.SinkComponent(_id="sink")
    fan.set(data=source.rows)
    first.set(item=fan.item_output)
    fan.set(item=first.out)
    again.set(data=fan.failed_output)
    second.set(item=again.item_output)
    again.set(item=second.out)
    sink.set(value=again.done_output, other=again.failed_output)
    await run(source, sink)
    _, failed = probe.results["sink"]
    assert failed.to_dict(orient="records") == [{"n": 2, "_row": 0, "_error": "n is 2", "_attempts": 1}]


async def through_gate(nodes, gate, inside):
    """Runs source -> gate -> inside -> back; what is done and what is turned away each go into a sink of their own."""
    source, join = nodes.SourceComponent(_id="source"), nodes.SinkComponent(_id="join")
    done, busy = nodes.SinkComponent(_id="done"), nodes.SinkComponent(_id="busy")
    gate.set(value=source.message)
    inside.set(value=gate.guarded_output)
    gate.set(guarded=inside.value_output)
    done.set(value=gate.done_output)
    busy.set(value=gate.busy_output)
    join.set(value=done.text, other=busy.text)
    await run(source, join)


async def test_a_gate_hands_its_value_through_the_section_unchanged_in_type(probe, nodes, sluice_nodes):
    await through_gate(nodes, sluice_nodes.gate(_id="gate"), nodes.HoldComponent(_id="inside"))
    (value, _) = probe.results["done"]
    assert isinstance(value, Message)
    assert value.text == "source"
    assert (probe.runs["inside"], probe.runs["done"], probe.runs["busy"]) == (1, 1, 0)


async def test_a_full_gate_sends_the_value_to_busy_instead_of_failing(probe, nodes, sluice_nodes):
    def one():
        gate = sluice_nodes.gate(_id="gate", max_concurrency=1, max_queue=1, on_full="busy")
        return asyncio.ensure_future(through_gate(nodes, gate, nodes.HoldComponent(_id="inside")))

    probe.hold.clear()
    first, second = one(), one()
    (guard,) = await until(guard_registry().guards)
    await until(lambda: sum(guard.statistics().waiting.values()))
    await one()
    (value, _) = probe.results.pop("busy")
    assert value.text == "source"
    assert "done" not in probe.results
    probe.hold.set()
    await asyncio.gather(first, second)
    assert (probe.runs["inside"], probe.runs["done"], probe.runs["busy"]) == (2, 2, 1)
    assert probe.most["inside"] == 1


async def test_a_full_gate_raises_where_it_is_told_to(probe, nodes, sluice_nodes):
    def one():
        gate = sluice_nodes.gate(_id="gate", max_concurrency=1, max_queue=1, on_full="raise")
        return asyncio.ensure_future(through_gate(nodes, gate, nodes.HoldComponent(_id="inside")))

    probe.hold.clear()
    first, second = one(), one()
    (guard,) = await until(guard_registry().guards)
    await until(lambda: sum(guard.statistics().waiting.values()))
    with pytest.raises(Exception, match=r"is full: 1 calls in flight .* 1 waiting \(max_queue 1\)"):
        await one()
    probe.hold.set()
    await asyncio.gather(first, second)


async def until(condition):
    while not (value := condition()):  # noqa: ASYNC110 - what Langflow does meanwhile tells nobody when it is done
        await asyncio.sleep(0)
    return value
