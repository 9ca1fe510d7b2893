"""Inputs that bear the name of an attribute of Langflow's base class, which hides them from a plain look-up."""

import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from lfx.custom.custom_component.component import Component
    from lfx.custom.eval import eval_custom_component_code

    from langflow_sluice.guard import PRIORITIES
    from langflow_sluice.nodes.guard_inputs import priority_of

SOURCES = sorted((Path(__file__).parents[2] / "components" / "sluice").glob("[!_]*.py"), key=lambda path: path.name)


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def node_class(request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Langflow imports what the source names, and more
        return eval_custom_component_code(request.param.read_text("utf-8"))


def test_priority_is_the_only_input_that_langflow_hides(node_class):
    assert {each.name for each in node_class.inputs if hasattr(Component, each.name)} <= {"priority"}


def test_the_priority_asked_for_is_the_one_that_counts(node_class):
    defaults = {each.name: each.value for each in node_class.inputs}
    if "priority" not in defaults:  # the gauge stands in no queue
        assert node_class.__name__ == "PressureGaugeComponent"
        return
    assert priority_of(node_class()) == defaults["priority"]
    for priority in PRIORITIES:
        # As a graph makes a node, and as a program does.
        assert priority_of(with_values(node_class(), priority)) == priority
        assert priority_of(node_class().set(priority=priority)) == priority
    assert priority_of(with_values(node_class(), "")) == "normal"


def with_values(node, priority):
    node.set_attributes({"priority": priority})
    return node
