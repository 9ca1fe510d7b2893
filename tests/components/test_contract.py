"""What users' flows have stored about our nodes, frozen.

``contract.json`` changes only when somebody means it: ``python tests/components/test_contract.py`` writes it anew.
Adding to it is fine; a name, type or method that was released once must stay.
"""

import json
import warnings
from pathlib import Path

import pytest

CONTRACT = Path(__file__).with_name("contract.json")
COMPONENTS = Path(__file__).parents[2] / "components"
COMMAND = "python tests/components/test_contract.py"


def nodes():
    """What a flow's file stores of each node, by class name, read from the nodes as Langflow's loader finds them."""
    with warnings.catch_warnings():
        # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours.
        warnings.simplefilter("ignore")
        from lfx.extension.loader import load_extension

        loaded = load_extension(COMPONENTS)
        assert loaded.errors == []
        return {component.class_name: _stored(component.klass) for component in loaded.components}


def _stored(node):
    return {
        "display_name": node.display_name,
        "inputs": {each.name: _input(each) for each in node.inputs},
        "outputs": {each.name: _output(each) for each in node().outputs},
    }


def _input(each):
    told = {"type": type(each).__name__}
    for name in ("input_types", "is_list", "load_from_db"):
        if getattr(each, name, None):
            told[name] = getattr(each, name)
    if getattr(each, "options", None) and not each.combobox:
        told["options"] = each.options
    return told


def _output(each):
    told = {"method": each.method, "types": each.types}
    for name in ("allows_loop", "loop_types", "group_outputs"):
        if getattr(each, name, None):
            told[name] = getattr(each, name)
    return told


def render(found):
    return json.dumps(found, indent=2, sort_keys=True) + "\n"


@pytest.fixture(scope="module")
def found():
    return nodes()


def test_the_nodes_are_what_the_contract_says(found):
    assert render(found) == CONTRACT.read_text("utf-8"), f"If you mean to change what flows store, run: {COMMAND}"


def test_every_node_has_a_file_of_its_own_and_every_file_a_node(found):
    files = {path.stem for path in (COMPONENTS / "sluice").glob("*.py")} - {"__init__"}
    assert len(files) == len(found)


def test_no_node_is_named_like_one_of_langflows_own(found):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langflow_sluice.canvas.catalog import Catalog

        stock = Catalog()
        assert "ChatInput" in stock
        assert [name for name in found if name in stock] == []


if __name__ == "__main__":
    CONTRACT.write_text(render(nodes()), "utf-8", newline="\n")
