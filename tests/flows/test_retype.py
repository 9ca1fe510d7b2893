import copy
import json

import pytest

from langflow_sluice.canvas import retype
from langflow_sluice.canvas.bundled import bundled_flows

FLOWS = {flow.slug: flow.load() for flow in bundled_flows()}


@pytest.fixture
def palette():
    """What a server with the pack on LANGFLOW_COMPONENTS_PATH offers of the nodes of the flows."""
    nodes = {}
    for flow in FLOWS.values():
        for data in retype.nodes_of(flow):
            node, name = copy.deepcopy(data["node"]), data["type"]
            if retype.bundle_of(name) == "sluice":
                name = name.replace("@official", "@extra")
                node |= {"namespaced_id": name, "bundle": "sluice"}
                node.pop("extension", None)
            nodes[name] = node
    return nodes


def types_named_in(flow):
    """Every type that the flow's text has, in whatever place."""
    text = json.dumps(flow, ensure_ascii=False)
    return {piece for piece in text.replace("œ", '"').replace('\\"', '"').split('"') if piece.startswith("ext:")}


@pytest.mark.parametrize("slug", FLOWS)
def test_a_flow_takes_the_types_that_the_server_offers_in_nodes_and_edges(slug, palette):
    changed = retype.retyped(FLOWS[slug], palette)

    assert not [name for name in types_named_in(changed) if name.startswith("ext:sluice:") and "@official" in name]
    assert types_named_in(changed) <= palette.keys()
    assert [node["id"] for node in changed["data"]["nodes"]] == [node["id"] for node in FLOWS[slug]["data"]["nodes"]]


@pytest.mark.parametrize("slug", FLOWS)
def test_langflow_builds_the_same_graph_of_a_flow_with_other_types(slug, palette):
    from lfx.graph.graph.base import Graph

    graph, before = (
        Graph.from_payload(copy.deepcopy(flow["data"])) for flow in (retype.retyped(FLOWS[slug], palette), FLOWS[slug])
    )

    assert {vertex.id for vertex in graph.vertices} == {vertex.id for vertex in before.vertices}
    assert [(edge.source_id, edge.target_id) for edge in graph.edges] == [
        (edge.source_id, edge.target_id) for edge in before.edges
    ]


def test_ends_of_an_edge_say_the_same_as_text_and_as_data(palette):
    for edge in retype.retyped(FLOWS["fan_out_rows"], palette)["data"]["edges"]:
        for end in ("sourceHandle", "targetHandle"):
            assert json.loads(edge[end].replace("œ", '"')) == edge["data"][end]
            assert edge[end] in edge["id"]


def test_where_a_node_is_installed_and_on_the_path_the_installed_one_is_taken():
    name = "ext:sluice:FanOutComponent"

    assert retype.offered_type(f"{name}@extra", {f"{name}@extra", f"{name}@official"}) == f"{name}@official"
    assert retype.offered_type(f"{name}@official", {f"{name}@extra"}) == f"{name}@extra"
    assert retype.offered_type(f"{name}@official", {"ext:other:FanOutComponent@extra"}) is None
    assert retype.offered_type("ChatInput", {"ChatInput"}) == "ChatInput"


def test_a_flow_that_fits_already_and_the_one_given_stay_as_they_are(palette):
    before = copy.deepcopy(FLOWS["fan_out_rows"])

    changed = retype.retyped(FLOWS["fan_out_rows"], palette)

    assert before == FLOWS["fan_out_rows"]
    assert retype.retyped(changed, palette) == changed
