"""Values of a node's fields, set as the canvas would set them, and never a secret among them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from lfx.base.prompts.api_utils import process_prompt_template
from lfx.custom.custom_component.component import Component
from lfx.custom.utils import build_custom_component_template, update_component_build_config

from langflow_sluice.canvas.waiting import wait_for
from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECT_OTHER_MODELS = "connect_other_models"
"""The value that makes a model field take its model from an edge."""

_HIDDEN = "(not shown)"
_VARIABLE_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
# Keys as the big providers print them, and URLs with a password.
_SECRET = re.compile(r"\b(?:sk|pk|rk|ghp|gho|glpat|xox[abp]|AKIA|AIza)[-_A-Za-z0-9]{12,}|://[^/\s:@]*:[^/\s@]+@")
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "slider": (int, float),
    "bool": (bool,),
    "str": (str,),
    "prompt": (str,),
    "tab": (str,),
}


def set_values(label: str, node: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Sets fields of ``node`` in place, and follows up as the canvas does.

    Variables in a prompt become inputs, and fields that the node watches (``real_time_refresh``) run the node's own
    ``update_build_config`` and ``update_outputs``.

    Args:
        label: Name of the node in errors.
        node: A template from the catalogue.
        values: Values by name of field.

    Raises:
        InvalidInput: There is no such field, the value does not fit it, or it is a secret.
    """
    for name, value in values.items():
        field = find_field(label, node, name)
        _check(f"{label}.{name}", field, value)
        before, field["value"] = field.get("value"), value
        if field["type"] == "prompt":
            _add_prompt_variables(node, name, value)
        elif field.get("real_time_refresh") and value != before and field["type"] != "model":
            # A model field is left out: its refresh asks the database for the user's providers.
            _refresh(node, name, value)


def set_variables(label: str, node: dict[str, Any], variables: Mapping[str, str]) -> None:
    """Makes fields take their values from the user's global variables, by name.

    Raises:
        InvalidInput: There is no such field, it cannot load a variable, or the name is none (it may be a key).
    """
    for name, variable in variables.items():
        field = find_field(label, node, name)
        where = f"{label}.{name}"
        if not _VARIABLE_NAME.fullmatch(variable):
            fix = "Give the variable's name in capitals, such as OPENAI_API_KEY, and never its value."
            raise InvalidInput.of(where, _HIDDEN, "this is not the name of a global variable", fix=fix)
        if "load_from_db" not in field:
            problem = "this field cannot load a global variable"
            raise InvalidInput.of(where, variable, problem, fix="Give it a value.")
        field["value"] = variable
        field["load_from_db"] = True


def show(label: str, node: dict[str, Any], *, shown: tuple[str, ...], advanced: tuple[str, ...]) -> None:
    """Moves fields between the face of the node and its advanced settings.

    Raises:
        InvalidInput: There is no such field.
    """
    for name in shown:
        find_field(label, node, name)["advanced"] = False
    for name in advanced:
        find_field(label, node, name)["advanced"] = True


def make_tool(label: str, node: dict[str, Any], actions: Mapping[str, str]) -> None:
    """Turns a node into tools for an agent, as Tool Mode on the canvas does: it then has the one output Toolset.

    Args:
        label: Name of the node in errors.
        node: A template from the catalogue, with its values set.
        actions: What the agent is told of each action that it may use, by the name of the action; the node's other
            actions are switched off.

    Raises:
        InvalidInput: The node has no such action.
    """
    instance = _instance_of(node)
    wait_for(instance.run_and_validate_update_outputs(node, "tool_mode", field_value=True))
    rows = node["template"]["tools_metadata"]["value"]
    unknown = sorted(actions.keys() - {row["name"] for row in rows})
    if unknown:
        where, fix = f"action of {label}", f"Use one of {', '.join(row['name'] for row in rows) or 'none'}."
        raise InvalidInput.of(where, ", ".join(unknown), "the node has no such action", fix=fix)
    for row in rows:
        row["status"] = row["name"] in actions
        row["description"] = actions.get(row["name"], row["description"])


def call_flow(node: dict[str, Any], name: str, called: Mapping[str, Any]) -> None:
    """Sets up a Run Flow node for a flow, as choosing the flow on the canvas does.

    The flow is known by its name alone: Langflow looks it up among its user's flows at each run, whatever its id there.

    Args:
        node: A template of Run Flow from the catalogue.
        name: The flow's name.
        called: The flow as Langflow imports it; its input nodes become inputs, its output nodes outputs.
    """
    from lfx.graph.graph.base import Graph

    graph = Graph.from_payload(dict(called["data"]))
    instance, template = _instance_of(node), node["template"]
    instance.update_build_config_from_graph(template, graph)
    node["outputs"] = instance._format_flow_outputs(graph)  # noqa: SLF001 - what its update_outputs does with the server's flow
    instance._validate_frontend_node(node)  # noqa: SLF001 - as above
    # The canvas offers what stands here until somebody refreshes the list.
    template["flow_name_selected"].update(value=name, options=[name], options_metadata=[{}])
    node["template"] = json.loads(json.dumps(template))  # Langflow's kind of dict cannot be copied


def find_field(label: str, node: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns an input field of ``node``.

    Raises:
        InvalidInput: There is no such field; the hint lists those there are.
    """
    field = node["template"].get(name)
    if not isinstance(field, dict) or name == "code":
        names = sorted(key for key, value in node["template"].items() if isinstance(value, dict) and key != "code")
        where, fix = f"input of {label}", f"Use one of {', '.join(names)}."
        raise InvalidInput.of(where, name, "there is no such input", fix=fix)
    return field


def _check(label: str, field: Mapping[str, Any], value: Any) -> None:
    if field.get("password") and value:
        problem = "this field holds a secret, which a flow file must not carry"
        raise InvalidInput.of(label, _HIDDEN, problem, fix="Name a global variable instead (variables=...).")
    if isinstance(value, str) and _SECRET.search(value):
        raise InvalidInput.of(label, _HIDDEN, "this looks like a secret", fix="Name a global variable instead.")
    expected = _PYTHON_TYPES.get(field["type"])
    if expected and not field.get("list") and (not isinstance(value, expected) or _is_misplaced_bool(value, expected)):
        raise InvalidInput.of(label, value, f"the field is of type {field['type']}", fix="Give a value of that type.")
    options = field.get("options")
    if options and not field.get("combobox") and isinstance(value, str) and value not in options:
        raise InvalidInput.of(label, value, "this is not among the options", fix=f"Use one of {', '.join(options)}.")


def _is_misplaced_bool(value: Any, expected: tuple[type, ...]) -> bool:
    return isinstance(value, bool) and bool not in expected


def _add_prompt_variables(node: dict[str, Any], name: str, value: str) -> None:
    process_prompt_template(
        template=value, name=name, custom_fields=node["custom_fields"], frontend_node_template=node["template"]
    )


def _refresh(node: dict[str, Any], name: str, value: Any) -> None:
    """Does what the canvas asks of ``POST /api/v1/custom_component/update`` when a watched field changes."""
    instance = _instance_of(node)
    wait_for(update_component_build_config(instance, node["template"], value, name))
    if isinstance(instance, Component):  # older kinds of component have fixed outputs
        wait_for(instance.run_and_validate_update_outputs(node, name, value))


def _instance_of(node: Mapping[str, Any]) -> Any:
    _, instance = build_custom_component_template(Component(_code=node["template"]["code"]["value"]))
    fields = {key: field for key, field in node["template"].items() if isinstance(field, dict) and key != "code"}
    instance.set_attributes({key: field.get("value") for key, field in fields.items()})
    return instance
