"""Sections of every shape: what they give does not depend on names, places, neighbours or the way a flow is run."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from lfx.components.flow_controls.conditional_router import ConditionalRouterComponent
from lfx.graph import Graph

from langflow_sluice.guard import guard_registry
from langflow_sluice.testing import isolated_guards

NAMES = 3
SEEDS = 20
PLACES = ["first", "last", "alone", "middle"]
# The canvas writes the loop types of an output into the edge that comes back; Langflow's Python way does not.
ANY_TYPE = ["Data", "Message", "DataFrame"]


@pytest.fixture(autouse=True)
def _fresh_guards():
    with isolated_guards():
        yield


async def run(first, last):
    graph = Graph(first, last)
    graph.prepare()
    await graph.initialize_run()
    await graph.process(fallback_to_env_vars=False)
    return graph


def comes_back(owner, **connection):
    owner.set(**connection)
    owner._edges[-1]["data"]["targetHandle"]["output_types"] = ANY_TYPE


def around(nodes, fan, *, salt=""):
    """A source before the fan-out, and a sink that takes what comes out of it."""
    source, sink = nodes.SourceComponent(_id=f"source{salt}"), nodes.SinkComponent(_id="sink")
    fan.set(data=source.rows)
    sink.set(value=fan.done_output, other=fan.failed_output)
    return source, sink


def column(table, name="n"):
    return table[name].tolist() if len(table) else []


def nothing_failed(probe):
    done, failed = probe.results["sink"]
    assert failed.to_dict(orient="records") == []
    return done


def section_with_branch(nodes, sluice_nodes, place, salt):
    """Fan-Out over a branch into two gates that meet again outside of them, with nodes around as ``place`` says.

    ``salt`` makes other names of the nodes, so that sets of them come in another order: a seed of the hashes would do
    the same, at the price of a process for each.
    """
    fan = sluice_nodes.fan_out(_id=f"fan{salt}", max_concurrency=3)
    gate = sluice_nodes.gate(_id=f"gate{salt}", max_concurrency=2)
    parity, join = nodes.ParityComponent(_id=f"parity{salt}"), nodes.JoinComponent(_id=f"join{salt}")
    odd, even, before, after = (nodes.StepComponent(_id=f"{name}{salt}") for name in ("odd", "even", "before", "after"))
    outside = nodes.SourceComponent(_id=f"outside{salt}", text="outside")
    source, sink = around(nodes, fan, salt=salt)
    if place in {"last", "middle"}:
        before.set(item=fan.item_output, extra=outside.message)
        gate.set(value=before.out)
    else:
        gate.set(value=fan.item_output)
    parity.set(item=gate.guarded_output)
    odd.set(item=parity.odd, extra=outside.message)
    even.set(item=parity.even)
    join.set(items=[odd.out, even.out])
    gate.set(guarded=join.out)
    if place in {"first", "middle"}:
        after.set(item=gate.done_output)
        fan.set(item=after.out)
    else:
        comes_back(fan, item=gate.done_output)
    return source, sink


async def check_place(probe, nodes, sluice_nodes, place, salt):
    probe.rows = 6
    await run(*section_with_branch(nodes, sluice_nodes, place, salt))
    added = {"first": 2, "last": 2, "alone": 1, "middle": 3}[place]
    assert column(nothing_failed(probe)) == [n + added for n in range(6)]
    assert (probe.runs[f"odd{salt}"], probe.runs[f"even{salt}"]) == (3, 3)
    assert probe.runs[f"outside{salt}"] == 1


@pytest.mark.parametrize("place", PLACES)
async def test_a_section_in_a_section_gives_the_same_whatever_its_place_and_the_names(
    place, probe, nodes, sluice_nodes
):
    for salt in range(NAMES):
        await check_place(probe, nodes, sluice_nodes, place, f"-{salt * 7919:x}")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_section_in_a_section_gives_the_same_under_every_seed_of_the_hashes(seed):
    here = f"{__file__}::test_a_section_in_a_section_gives_the_same_whatever_its_place_and_the_names"
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", here],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-2000:]


async def test_a_hundred_rows_two_fan_outs_deep_never_exceed_the_gate_inside(probe, nodes, sluice_nodes):
    probe.rows = 10
    outer = sluice_nodes.fan_out(_id="outer", max_concurrency=10)
    inner = sluice_nodes.fan_out(_id="inner", max_concurrency=10)
    gate = sluice_nodes.gate(_id="gate", max_concurrency=4, max_queue=100)
    spread, step = nodes.SpreadComponent(_id="spread"), nodes.StepComponent(_id="step")
    source, sink = around(nodes, outer)
    spread.set(item=outer.item_output)
    inner.set(data=spread.rows)
    gate.set(value=inner.item_output)
    step.set(item=gate.guarded_output)
    gate.set(guarded=step.out)
    comes_back(inner, item=gate.done_output)
    comes_back(outer, item=inner.done_output)
    await run(source, sink)
    assert column(nothing_failed(probe)) == list(range(1, 101))
    assert (probe.most["step"], probe.runs["step"], probe.runs["source"]) == (4, 100, 1)


async def test_a_gate_in_a_gate_of_the_same_name_is_refused_with_an_explanation(probe, nodes, sluice_nodes):
    source, sink, inside = (
        nodes.SourceComponent(_id="source"),
        nodes.SinkComponent(_id="sink"),
        nodes.HoldComponent(_id="inside"),
    )
    outer, inner = (sluice_nodes.gate(_id=each, guard_name="same") for each in ("outer", "inner"))
    outer.set(value=source.message)
    inner.set(value=outer.guarded_output)
    inside.set(value=inner.guarded_output)
    inner.set(guarded=inside.value_output)
    comes_back(outer, guarded=inner.done_output)
    sink.set(value=outer.done_output)
    with pytest.raises(Exception, match="asks for guard 'same' inside a section that holds it already"):
        await run(source, sink)
    assert probe.runs["inside"] == 0


async def test_a_cancelled_run_starts_no_more_rows_ends_those_that_run_and_gives_the_slots_back(
    probe, nodes, sluice_nodes
):
    probe.rows = 20
    probe.hold.clear()
    fan, hold = sluice_nodes.fan_out(_id="fan", max_concurrency=3), nodes.HoldComponent(_id="hold")
    source, sink = around(nodes, fan)
    hold.set(value=fan.item_output)
    comes_back(fan, item=hold.value_output)
    running = asyncio.ensure_future(run(source, sink))
    await until(lambda: running.done() or probe.now["hold"] == 3)
    (guard,) = guard_registry().guards()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert (probe.runs["hold"], probe.now["hold"]) == (3, 0)
    assert (guard.statistics().in_flight, sum(guard.statistics().waiting.values())) == (0, 0)


async def test_a_cancelled_run_also_leaves_the_queue_of_a_gate_inside(probe, nodes, sluice_nodes):
    probe.rows = 20
    probe.hold.clear()
    fan = sluice_nodes.fan_out(_id="fan", max_concurrency=5)
    gate, hold = sluice_nodes.gate(_id="gate", max_concurrency=2), nodes.HoldComponent(_id="hold")
    source, sink = around(nodes, fan)
    gate.set(value=fan.item_output)
    hold.set(value=gate.guarded_output)
    gate.set(guarded=hold.value_output)
    comes_back(fan, item=gate.done_output)
    running = asyncio.ensure_future(run(source, sink))

    def waiting():
        return sum(sum(guard.statistics().waiting.values()) for guard in guard_registry().guards())

    await until(lambda: running.done() or (probe.now["hold"] == 2 and waiting() == 3))
    running.cancel()
    await asyncio.wait([running])
    assert (probe.runs["hold"], probe.now["hold"], waiting()) == (2, 0, 0)
    assert [guard.statistics().in_flight for guard in guard_registry().guards()] == [0, 0]


async def test_a_fan_out_after_another_one_waits_for_its_rows_though_its_body_has_what_it_needs(
    probe, nodes, sluice_nodes
):
    first, second = (sluice_nodes.fan_out(_id=each) for each in ("first", "second"))
    a, b = nodes.StepComponent(_id="a"), nodes.StepComponent(_id="b")
    source, sink = nodes.SourceComponent(_id="source"), nodes.SinkComponent(_id="sink")
    outside = nodes.SourceComponent(_id="outside")
    first.set(data=source.rows)
    a.set(item=first.item_output)
    first.set(item=a.out)
    second.set(data=first.done_output)
    b.set(item=second.item_output, extra=outside.message)
    second.set(item=b.out)
    sink.set(value=second.done_output, other=second.failed_output)
    await run(source, sink)
    assert column(nothing_failed(probe)) == [2, 3, 4, 5, 6]
    assert (probe.runs["a"], probe.runs["b"], probe.runs["outside"]) == (5, 5, 1)


async def test_a_body_may_take_the_result_of_another_section(probe, nodes, sluice_nodes):
    fan, gate = sluice_nodes.fan_out(_id="fan"), sluice_nodes.gate(_id="gate")
    step, inside = nodes.StepComponent(_id="step"), nodes.HoldComponent(_id="inside")
    source, sink = around(nodes, fan)
    text = nodes.SourceComponent(_id="text", text="through the gate")
    gate.set(value=text.message)
    inside.set(value=gate.guarded_output)
    gate.set(guarded=inside.value_output)
    step.set(item=fan.item_output, extra=gate.done_output)
    fan.set(item=step.out)
    await run(source, sink)
    assert column(nothing_failed(probe), "extra") == ["through the gate"] * 5
    assert (probe.runs["inside"], probe.runs["step"]) == (1, 5)


async def test_a_list_input_takes_what_two_nodes_of_the_body_give(probe, nodes, sluice_nodes):
    fan, join = sluice_nodes.fan_out(_id="fan"), nodes.JoinComponent(_id="join")
    a, b = nodes.StepComponent(_id="a"), nodes.StepComponent(_id="b")
    source, sink = around(nodes, fan)
    a.set(item=fan.item_output)
    b.set(item=a.out)
    join.set(items=[a.out, b.out])
    fan.set(item=join.out)
    await run(source, sink)
    done = nothing_failed(probe)
    assert column(done) == [2 * n + 3 for n in range(5)]
    assert column(done, "count") == [2] * 5


async def test_both_ways_of_the_stock_if_else_come_back(probe, nodes, sluice_nodes):
    probe.rows = 24
    fan = sluice_nodes.fan_out(_id="fan", max_concurrency=2)
    text, router = nodes.ParityTextComponent(_id="text"), ConditionalRouterComponent(_id="router")
    odd, even = nodes.HoldComponent(_id="odd"), nodes.HoldComponent(_id="even")
    source, sink = around(nodes, fan)
    text.set(item=fan.item_output)
    router.set(input_text=text.out, match_text="1", operator="equals")
    odd.set(value=router.true_response)
    even.set(value=router.false_response)
    comes_back(fan, item=odd.value_output)
    comes_back(fan, item=even.value_output)
    await run(source, sink)
    assert column(nothing_failed(probe), "result") == ["0", "1"] * 12
    assert (probe.runs["odd"], probe.runs["even"]) == (12, 12)


async def test_of_two_ends_that_both_run_the_first_one_drawn_gives_the_result(probe, nodes, sluice_nodes):
    fan = sluice_nodes.fan_out(_id="fan")
    a, b, c = (nodes.StepComponent(_id=each) for each in "abc")
    source, sink = around(nodes, fan)
    a.set(item=fan.item_output)
    b.set(item=a.out)
    c.set(item=b.out)
    fan.set(item=b.out)
    fan.set(item=c.out)
    graph = await run(source, sink)
    first = next(edge.source_id for edge in graph.edges if edge.target_id == "fan" and edge.target_param == "item")
    assert column(nothing_failed(probe)) == [n + {"b": 2, "c": 3}[first] for n in range(5)]
    assert probe.runs["c"] == 5


async def test_a_tool_in_the_body_is_called_with_the_row_at_hand(probe, nodes, sluice_nodes):
    fan = sluice_nodes.fan_out(_id="fan", max_concurrency=2)
    adder, agent = nodes.AdderComponent(_id="adder"), nodes.AgentComponent(_id="agent")
    adder._append_tool_to_outputs_map()
    source, sink = around(nodes, fan)
    adder.set(item=fan.item_output)
    agent.set(item=fan.item_output, tools=[adder.to_toolkit])
    fan.set(item=agent.out)
    await run(source, sink)
    done = nothing_failed(probe)
    assert column(done, "sums") == [[100 + n, 200 + n] for n in range(5)]


def simple(nodes, sluice_nodes):
    fan, step = sluice_nodes.fan_out(_id="fan", max_concurrency=2), nodes.StepComponent(_id="step")
    source, sink = around(nodes, fan)
    step.set(item=fan.item_output)
    fan.set(item=step.out)
    return Graph(source, sink)


def from_canvas(graph):
    return json.loads(json.dumps(graph.dump(name="test")["data"], default=str))


def node_of(flow, node_id):
    (node,) = [each for each in flow["nodes"] if each["id"] == node_id]
    return node


@pytest.mark.parametrize("session_id", [None, "a session"])
@pytest.mark.parametrize("way", ["async_start", "arun"])
async def test_every_way_to_run_a_graph_gives_the_same(way, session_id, probe, nodes, sluice_nodes):
    graph = Graph.from_payload(from_canvas(simple(nodes, sluice_nodes)))
    graph.session_id = session_id
    if way == "arun":
        await graph.arun([{}], session_id=session_id, fallback_to_env_vars=False)
    else:
        graph.prepare()
        assert [each async for each in graph.async_start() if getattr(each, "valid", True) is not True] == []
    assert column(nothing_failed(probe)) == [1, 2, 3, 4, 5]
    assert (probe.runs["step"], probe.runs["source"]) == (5, 1)


async def test_a_frozen_node_in_a_body_still_runs_for_every_row(probe, nodes, sluice_nodes):
    flow = from_canvas(simple(nodes, sluice_nodes))
    node_of(flow, "step")["data"]["node"]["frozen"] = True
    graph = Graph.from_payload(flow)
    await graph.arun([{}], session_id="a session", fallback_to_env_vars=False)
    assert column(nothing_failed(probe)) == [1, 2, 3, 4, 5]


async def test_nodes_in_a_group_run_as_they_would_without_it(probe, nodes, sluice_nodes):
    flow = grouped(from_canvas(simple(nodes, sluice_nodes)), "step")
    graph = Graph.from_payload(flow)
    await graph.arun([{}], session_id="a session", fallback_to_env_vars=False)
    assert column(nothing_failed(probe)) == [1, 2, 3, 4, 5]


def grouped(flow, node_id):
    """The flow with one node put into a group, as the canvas writes that."""
    node = node_of(flow, node_id)
    node["data"]["id"] = node_id
    template = {
        f"{name}_{node_id}": {**field, "proxy": {"id": node_id, "field": name}}
        for name, field in node["data"]["node"]["template"].items()
        if isinstance(field, dict) and name != "code"
    }
    group_id = "groupComponent-1"
    outputs = [
        {
            **each,
            "name": f"{node_id}_{each['name']}",
            "proxy": {"id": node_id, "name": each["name"], "nodeDisplayName": ""},
        }
        for each in node["data"]["node"]["outputs"]
    ]
    group = {
        "id": group_id,
        "type": "genericNode",
        "position": {"x": 0, "y": 0},
        "data": {
            "id": group_id,
            "type": "GroupNode",
            "node": {
                "display_name": "Group",
                "template": template,
                "outputs": outputs,
                "flow": {"data": {"nodes": [node], "edges": []}},
            },
        },
    }
    for edge in flow["edges"]:
        data = edge["data"]
        if edge["source"] == node_id:
            edge["source"] = data["sourceHandle"]["id"] = group_id
            data["sourceHandle"]["name"] = f"{node_id}_{data['sourceHandle']['name']}"
        if edge["target"] == node_id:
            field = data["targetHandle"]["fieldName"]
            edge["target"] = data["targetHandle"]["id"] = group_id
            data["targetHandle"]["fieldName"] = f"{field}_{node_id}"
            data["targetHandle"]["proxy"] = {"id": node_id, "field": field}
    flow["nodes"] = [each for each in flow["nodes"] if each["id"] != node_id] + [group]
    return flow


async def until(condition):
    while not (value := condition()):  # noqa: ASYNC110 - what Langflow does meanwhile tells nobody when it is done
        await asyncio.sleep(0)
    return value
