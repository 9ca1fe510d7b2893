"""Puts the bundled flows onto a running Langflow server, through its API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from langflow_sluice.canvas import retype
from langflow_sluice.canvas.bundled import bundled_flows
from langflow_sluice.canvas.server import REFUSED
from langflow_sluice.embedded.langflow_client import LangflowError
from langflow_sluice.errors import InvalidInput, SluiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from langflow_sluice.canvas.bundled import BundledFlow
    from langflow_sluice.canvas.server import FlowsServer

_BUNDLE = "sluice"
_RUN_FLOW = "RunFlow"
_PACK_HINT = (
    "Install langflow-sluice into the server's Python environment and start the server again, or set "
    "LANGFLOW_COMPONENTS_PATH there to the pack's folder components."
)


class NodesMissing(SluiceError):
    """A server does not offer the nodes that a flow is made of."""

    code: ClassVar[str] = "nodes_missing"


@dataclass(frozen=True)
class Installed:
    """What became of one flow.

    Attributes:
        slug: The flow.
        what: ``kept`` where the server had a flow of that endpoint name and it was left alone.
        url: Where the canvas shows it; empty where it failed.
        problem: Why it failed; empty where it did not.
        outdated: Display names of nodes that the server has in another version, which the canvas offers to update.
    """

    slug: str
    what: Literal["installed", "replaced", "kept", "failed"]
    url: str = ""
    problem: str = ""
    outdated: tuple[str, ...] = ()


@dataclass
class InstallReport:
    """What an installation did.

    Attributes:
        flows: One entry for each flow, in the order of work.
        missing_variables: Global variables that the flows name and the server does not have. A run fails for want of
            them, and the canvas blanks the fields that name them.
    """

    flows: list[Installed] = field(default_factory=list)
    missing_variables: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether any flow could not be installed."""
        return any(each.what == "failed" for each in self.flows)


def chosen_flows(slugs: Iterable[str] = (), *, unsafe: bool = False) -> list[BundledFlow]:
    """Returns the bundled flows of those names, with the flows that they call in front of them.

    Args:
        slugs: Names; none means all safe flows.
        unsafe: With the unsafe twins, where no names are given.

    Raises:
        InvalidInput: There is no such flow.
    """
    known = {flow.slug: flow for flow in bundled_flows()}
    names = list(slugs) or [flow.slug for flow in known.values() if unsafe or not flow.unsafe]
    chosen: dict[str, BundledFlow] = {}
    for name in names:
        if name not in known:
            fix = f"Use one of {', '.join(known)}."
            raise InvalidInput.of("flow", name, "there is no such bundled flow", fix=fix)
        for slug in (*_called_by(known[name], known), name):
            chosen[slug] = known[slug]
    return list(chosen.values())


def install_flows(
    server: FlowsServer,
    flows: Iterable[BundledFlow],
    *,
    replace: bool = False,
    report: Callable[[Installed], None] = lambda _: None,
) -> InstallReport:
    """Installs flows on a server, with the types of nodes that it offers. A flow that fails does not stop the others.

    Args:
        server: Where to.
        flows: Which; those that others call first, as ``chosen_flows`` has them.
        replace: Put the bundled version in the place of a flow with the same endpoint name, instead of keeping that.
        report: Called with each flow as it is done.

    Raises:
        NodesMissing: The server has no nodes of this pack at all; nothing has been installed.
        LangflowError: The server does not accept the key, or does not answer.
    """
    palette, present = server.nodes(), server.flows()
    if _BUNDLE not in {retype.bundle_of(name) for name in palette}:
        msg = f"The server at {server.base_url} has no nodes of Sluice."
        raise NodesMissing(msg, hint=_PACK_HINT)
    done = InstallReport()
    wanted: set[str] = set()
    for flow in flows:
        content = flow.load()
        try:
            one = _install(server, flow.slug, content, palette, present, replace=replace)
        except (NodesMissing, LangflowError) as exc:
            if isinstance(exc, LangflowError) and (not exc.status or exc.status in REFUSED):
                raise
            one = Installed(flow.slug, "failed", problem=str(exc))
        else:
            wanted |= _variables_of(content)
        done.flows.append(one)
        report(one)
    done.missing_variables = tuple(sorted(wanted - server.variables()))
    return done


def _install(
    server: FlowsServer,
    slug: str,
    content: dict[str, Any],
    palette: Mapping[str, dict[str, Any]],
    present: dict[str, dict[str, Any]],
    *,
    replace: bool,
) -> Installed:
    there = present.get(slug)
    if there is not None and not replace:
        return Installed(slug, "kept", url=f"{server.base_url}/flow/{there['id']}")
    _require_nodes(content, palette)
    content = retype.retyped(content, palette)
    _point_run_flow(content, present)
    if there is None:
        present[slug] = there = server.create(content)
        what: Literal["installed", "replaced"] = "installed"
    else:
        server.replace(there["id"], content)
        what = "replaced"
    outdated = {data["node"]["display_name"] for data in retype.nodes_of(content) if _differs(data, palette)}
    return Installed(slug, what, url=f"{server.base_url}/flow/{there['id']}", outdated=tuple(sorted(outdated)))


def _require_nodes(flow: Mapping[str, Any], palette: Mapping[str, Any]) -> None:
    types = {data["type"] for data in retype.nodes_of(flow)}
    missing = sorted(name for name in types if retype.offered_type(name, palette) is None)
    if not missing:
        return
    bundles = {retype.bundle_of(name) for name in missing}
    names = ", ".join(retype.class_of(name) for name in missing)
    if _BUNDLE in bundles:
        hint = "Its Sluice is older than this one: update langflow-sluice there."
    elif "" in bundles:
        hint = "Update Langflow there."
    else:
        hint = f"Install the packages that bring the bundles {', '.join(sorted(bundles))} there (lfx-bundles)."
    msg = f"The server has no {names}."
    raise NodesMissing(msg, hint=hint)


def _differs(data: Mapping[str, Any], palette: Mapping[str, dict[str, Any]]) -> bool:
    code: bool = data["node"]["template"]["code"]["value"] != palette[data["type"]]["template"]["code"]["value"]
    return code


def _called_by(flow: BundledFlow, known: Mapping[str, BundledFlow]) -> list[str]:
    by_name = {each.name: slug for slug, each in known.items()}
    names = [field["value"] for field in _run_flow_fields(flow.load())]
    return [by_name[name] for name in names if name in by_name]


def _point_run_flow(flow: Mapping[str, Any], present: Mapping[str, Mapping[str, Any]]) -> None:
    """Names the flows that Run Flow calls as the server does: numbered, where it had one of that name before."""
    slugs = {each.name: each.slug for each in bundled_flows()}
    for name_field in _run_flow_fields(flow):
        called = present.get(slugs.get(name_field["value"], ""))
        if called is not None:
            name_field.update(value=called["name"], options=[called["name"]])


def _run_flow_fields(flow: Mapping[str, Any]) -> list[dict[str, Any]]:
    nodes = (data["node"] for data in retype.nodes_of(flow) if data["type"] == _RUN_FLOW)
    return [node["template"]["flow_name_selected"] for node in nodes]


def _variables_of(flow: Mapping[str, Any]) -> set[str]:
    fields = (each for data in retype.nodes_of(flow) for each in data["node"]["template"].values())
    return {each["value"] for each in fields if isinstance(each, dict) and each.get("load_from_db") and each["value"]}
