"""What users' flows have stored about our nodes, frozen.

A flow's file holds each node's source as it was when the node was placed, and runs it against whatever runtime is
installed: so the functions that nodes call are part of what was promised, as much as the names of inputs.

``contract.json`` changes only when somebody means it: ``python tests/components/test_contract.py`` writes it anew.
Adding to it is fine; a name, type or method that was released once must stay.
"""

import ast
import importlib
import inspect
import json
import warnings
from pathlib import Path

import pytest
from pydantic import BaseModel

CONTRACT = Path(__file__).with_name("contract.json")
COMPONENTS = Path(__file__).parents[2] / "components"
COMMAND = "python tests/components/test_contract.py"
STOCK = "ChatInput"

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from lfx.extension.loader import load_extension

    from langflow_sluice.canvas.catalog import Catalog, extension_type

    CATALOG = Catalog([COMPONENTS])
    assert STOCK in CATALOG


def contract():
    return {"nodes": nodes(), "runtime": runtime()}


def nodes():
    """What a flow's file stores of each node, by class name."""
    loaded = load_extension(COMPONENTS)
    assert loaded.errors == []
    names = [component.class_name for component in loaded.components]
    return {name: _stored(CATALOG.node(extension_type("sluice", name))) for name in names}


def _stored(node):
    fields = {name: field for name, field in node["template"].items() if isinstance(field, dict) and name != "code"}
    return {
        "display_name": node["display_name"],
        "inputs": {name: _input(field) for name, field in fields.items()},
        "outputs": {output["name"]: _output(output) for output in node["outputs"]},
    }


def _input(field):
    told = {"type": field["type"], "input": field["_input_type"]}
    told |= {name: field[name] for name in ("input_types", "list", "load_from_db") if field.get(name)}
    if field.get("options") and not field.get("combobox"):
        told["options"] = field["options"]
    return told


def _output(output):
    told = {"method": output["method"], "types": output["types"]}
    return told | {name: output[name] for name in ("allows_loop", "loop_types", "group_outputs") if output.get(name)}


def runtime():
    """What the nodes' sources import from the runtime, with the parameters that they may give."""
    found = {}
    for path in (COMPONENTS / "sluice").glob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module.startswith("langflow_sluice"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    found[f"{node.module}.{alias.name}"] = _parameters(getattr(module, alias.name))
    return found


def _parameters(each):
    if not callable(each):
        return type(each).__name__
    if isinstance(each, type) and issubclass(each, BaseModel):
        return f"({', '.join(inspect.get_annotations(each))})"  # the others are LangChain's
    signature = inspect.signature(each)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def render(found):
    return json.dumps(found, indent=2, sort_keys=True) + "\n"


@pytest.fixture(scope="module")
def found():
    return contract()


def test_the_nodes_are_what_the_contract_says(found):
    assert render(found) == CONTRACT.read_text("utf-8"), f"If you mean to change what flows rely on, run: {COMMAND}"


def test_every_node_has_a_file_of_its_own_and_every_file_a_node(found):
    files = {path.stem for path in (COMPONENTS / "sluice").glob("*.py")} - {"__init__"}
    assert len(files) == len(found["nodes"])


def test_no_node_is_named_like_one_of_langflows_own(found):
    assert [name for name in found["nodes"] if name in CATALOG] == []


if __name__ == "__main__":
    CONTRACT.write_text(render(contract()), "utf-8", newline="\n")
