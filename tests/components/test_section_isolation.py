"""What one item of a section leaves behind is not found by the next one, and what a run has set is found by all."""

import json

import pytest
from lfx.graph import Graph
from lfx.processing.process import process_tweaks_on_graph

from langflow_sluice.sections.isolation import SourceState, isolated
from langflow_sluice.sections.records import RECORDED_ITEMS
from langflow_sluice.testing import isolated_guards

SECRET = "sesame-opens-the-door"


@pytest.fixture(autouse=True)
def _fresh_guards():
    with isolated_guards():
        yield


def canvas(first, last):
    """The graph as a server makes it of a flow's JSON."""
    data = json.loads(json.dumps(Graph(first, last).dump(name="test")["data"], default=str))
    for node in data["nodes"]:
        # What the canvas writes and Langflow's Python way does not.
        node["data"]["node"].setdefault("frozen", False)
    return data


async def run(data, *, tweaks=None, **settings):
    graph = Graph.from_payload(data, **settings)
    if tweaks:
        process_tweaks_on_graph(graph, tweaks)
    graph.prepare()
    await graph.initialize_run()
    await graph.process(fallback_to_env_vars=False)
    return graph


def through(nodes, fan, body):
    source, sink = nodes.SourceComponent(_id="source"), nodes.SinkComponent(_id="sink")
    fan.set(data=source.rows)
    body.set(item=fan.item_output)
    fan.set(item=body.out)
    sink.set(value=fan.done_output, other=fan.failed_output)
    return canvas(source, sink)


async def test_no_item_finds_what_the_one_before_has_left(probe, nodes, sluice_nodes):
    probe.rows = 6
    fan, remember = sluice_nodes.fan_out(_id="fan", max_concurrency=1), nodes.RememberComponent(_id="remember")
    await run(through(nodes, fan, remember))
    done, failed = probe.results["sink"]
    assert failed.to_dict(orient="records") == []
    assert done["found"].tolist() == [0] * 6
    assert done["names"].tolist() == [2] * 6
    # An imported module is the process's and not the section's.
    assert probe.shared == [0, 1, 2, 3, 4, 5]


async def test_items_in_different_copies_find_nothing_of_each_other_either(probe, nodes, sluice_nodes):
    probe.rows = 9
    fan, remember = sluice_nodes.fan_out(_id="fan", max_concurrency=3), nodes.RememberComponent(_id="remember")
    await run(through(nodes, fan, remember))
    done, _ = probe.results["sink"]
    assert done["found"].tolist() == [0] * 9


async def test_tweaks_of_a_run_reach_the_nodes_of_a_section_for_every_row(probe, nodes, sluice_nodes):
    # As POST /api/v2/workflows does it: into the built graph, not into the flow's data.
    fan, knob = sluice_nodes.fan_out(_id="fan", max_concurrency=2), nodes.KnobComponent(_id="knob")
    flow = through(nodes, fan, knob)
    await run(flow, tweaks={"knob": {"suffix": "from the run"}})
    done, _ = probe.results["sink"]
    assert done["suffix"].tolist() == ["from the run"] * 5
    await run(flow)
    done, _ = probe.results["sink"]
    assert done["suffix"].tolist() == ["from the flow"] * 5


async def test_tweaks_reach_a_section_inside_a_section(probe, nodes, sluice_nodes):
    fan, knob = sluice_nodes.fan_out(_id="fan", max_concurrency=2), nodes.KnobComponent(_id="knob")
    gate = sluice_nodes.gate(_id="gate")
    source, sink = nodes.SourceComponent(_id="source"), nodes.SinkComponent(_id="sink")
    fan.set(data=source.rows)
    gate.set(value=fan.item_output)
    knob.set(item=gate.guarded_output)
    gate.set(guarded=knob.out)
    fan.set(item=gate.done_output)
    sink.set(value=fan.done_output, other=fan.failed_output)
    await run(canvas(source, sink), tweaks={"knob": {"suffix": "from the run"}})
    done, failed = probe.results["sink"]
    assert failed.to_dict(orient="records") == []
    assert done["suffix"].tolist() == ["from the run"] * 5


@pytest.mark.parametrize("tweaked", [False, True])
async def test_secrets_of_global_variables_are_resolved_for_every_row(tweaked, probe, nodes, sluice_nodes, monkeypatch):
    monkeypatch.setenv("SLUICE_TEST_KEY", SECRET)
    fan, knob = (
        sluice_nodes.fan_out(_id="fan", max_concurrency=1),
        nodes.KnobComponent(_id="knob", key="SLUICE_TEST_KEY"),
    )
    flow = through(nodes, fan, knob)
    await run(flow, tweaks={"knob": {"suffix": "from the run"}} if tweaked else None)
    done, failed = probe.results["sink"]
    assert failed.to_dict(orient="records") == []
    assert done["key"].tolist() == [SECRET] * 5


async def test_a_secret_that_comes_out_of_a_section_is_masked_where_it_is_shown(
    probe, nodes, sluice_nodes, monkeypatch
):
    monkeypatch.setenv("SLUICE_TEST_KEY", SECRET)
    source, sink = nodes.SourceComponent(_id="source"), nodes.SinkComponent(_id="sink")
    gate, knob = sluice_nodes.gate(_id="gate"), nodes.KnobComponent(_id="knob", key="SLUICE_TEST_KEY")
    gate.set(value=source.message)
    knob.set(item=gate.guarded_output)
    gate.set(guarded=knob.text)
    sink.set(value=gate.done_output)
    graph = await run(canvas(source, sink))
    value, _ = probe.results["sink"]
    assert value.text == f"the key is {SECRET}"
    shown = graph.get_vertex("gate").results["done"].text
    assert shown == "the key is **********"


async def test_only_the_first_rows_leave_records_in_the_database(probe, nodes, sluice_nodes, monkeypatch):
    from lfx.graph.vertex import base

    logged = []

    async def log_transaction(_flow_id, source, status, *_):
        logged.append((source.id, status))

    # Where Langflow's own service would write; ours is only to be asked less often.
    monkeypatch.setattr(base, "log_transaction", log_transaction)
    probe.rows, probe.failing = RECORDED_ITEMS + 20, {1, RECORDED_ITEMS + 5}
    fan, step = sluice_nodes.fan_out(_id="fan", max_concurrency=4, item_retries=0), nodes.StepComponent(_id="step")
    await run(through(nodes, fan, step), flow_id="c0ffee00-0000-4000-8000-000000000000")
    of_step = [status for node, status in logged if node == "step"]
    assert (of_step.count("success"), of_step.count("error")) == (RECORDED_ITEMS - 1, 1)
    assert {node for node, _ in logged} == {"source", "fan", "step", "sink"}


async def test_a_row_that_fails_is_not_rendered_into_the_log(probe, nodes, sluice_nodes, monkeypatch):
    from lfx.graph.vertex import base

    rendered = []

    async def aexception(text, **_):
        rendered.append(text)

    monkeypatch.setattr(base.logger, "aexception", aexception)
    probe.failing = {1, 3}
    fan, step = sluice_nodes.fan_out(_id="fan", item_retries=0), nodes.StepComponent(_id="step")
    await run(through(nodes, fan, step))
    _, failed = probe.results["sink"]
    assert failed["_error"].tolist() == ["n is 1", "n is 3"]
    assert rendered == []


def test_plain_containers_are_copied_and_other_objects_handed_on():
    other = object()
    value = {"a": [1, {"b": other}], "c": {1, 2}}
    copied = isolated(value)
    assert copied == value
    assert copied["a"] is not value["a"]
    assert copied["a"][1] is not value["a"][1]
    assert copied["c"] is not value["c"]
    assert copied["a"][1]["b"] is other


def executed(source):
    namespace = {"__name__": "a source that was executed", "foreign": FOREIGN}
    exec(source, namespace)  # noqa: S102 - as Langflow does
    return namespace


FOREIGN = ["shared"]
SOURCE = """
mine = [1]
theirs = foreign
total = 0

class Node:
    mine = {"a": []}
    theirs = foreign
    total = 0
    def run(self):
        global total, added
        total += 1
        added = 1
        mine.append(2)
        theirs.append(3)
        Node.mine["a"].append(1)
        Node.total += 1
        Node.added = 1
"""


def test_a_source_is_put_back_as_it_began_but_for_what_belongs_to_others():
    namespace = executed(SOURCE)
    node = namespace["Node"]
    state = SourceState(node, SOURCE)
    for _ in range(2):
        node().run()
        state.restore()
        assert (namespace["mine"], namespace["total"], "added" in namespace) == ([1], 0, False)
        assert (node.mine, node.total, hasattr(node, "added")) == ({"a": []}, 0, False)
    assert namespace["theirs"] is node.theirs is FOREIGN
    assert FOREIGN == ["shared", 3, 3]


def test_a_class_of_an_installed_module_is_left_alone():
    state = SourceState(SourceState, "class SourceState:\n    anything = []")
    SourceState.anything = 1
    try:
        state.restore()
        assert SourceState.anything == 1
    finally:
        del SourceState.anything
