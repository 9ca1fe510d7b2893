"""The pack in Langflow's palette: found or not, and why; and what restricted mode does to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.doctor.findings import Finding

if TYPE_CHECKING:
    from langflow_sluice.doctor.deployment import Deployment
    from langflow_sluice.doctor.facts import Facts
    from langflow_sluice.doctor.pack import PackFacts
    from langflow_sluice.doctor.server import ServerFacts

_PATH = "LANGFLOW_COMPONENTS_PATH"


def pack_findings(deployment: Deployment, facts: Facts) -> list[Finding]:
    """Whether Langflow offers the pack's nodes."""
    findings = []
    if facts.pack is not None:
        findings += _folders(facts.pack)
        # A running server tells more than what is installed here.
        if facts.server is None or facts.server.problem:
            findings += _installed(facts.pack)
    if facts.server is not None:
        findings += _server(facts.server, facts.pack)
        findings += _flows(facts)
    return findings + _restricted(deployment, facts.pack)


def _folders(pack: PackFacts) -> list[Finding]:
    findings = []
    if pack.missing_paths:
        observed = f"{_PATH} names {', '.join(pack.missing_paths)}, which is not here: Langflow skips it silently."
        advice = "Mend the path; look at it on the machine, or in the container, that runs Langflow."
        findings.append(Finding("components_path_missing", "warning", observed, advice))
    if pack.on_path and pack.entry_point:
        observed = f"The pack is installed and on {_PATH} as well: the installed one wins, the other is skipped."
        findings.append(
            Finding("pack_shadowed", "warning", observed, f"Take {', '.join(pack.on_path)} out of {_PATH}.")
        )
    return findings


def _installed(pack: PackFacts) -> list[Finding]:
    if not pack.entry_point:
        if pack.on_path:
            return [Finding("pack_found", "info", f"The pack is found on {_PATH}: {', '.join(pack.on_path)}.")]
        what = f"is installed ({pack.version}) but declares no extension" if pack.version else "is not installed"
        observed = f"langflow-sluice {what} in this Python environment, and no folder of {_PATH} holds it."
        return [Finding("pack_missing", "error", observed, "pip install langflow-sluice where Langflow is installed.")]
    if not pack.manifest:
        observed = f"langflow-sluice {pack.version} is installed, but {pack.entry_point} has no extension.json."
        return [Finding("pack_broken", "error", observed, "Install it again.")]
    if pack.failed:
        name, reason = next(iter(pack.failed.items()))
        observed = f"{len(pack.failed)} of the pack's nodes cannot be imported and are missing in the palette; "
        observed += f"{name}: {reason}."
        return [Finding("pack_broken", "error", observed, "Install what is missing, or the pack again.")]
    if pack.failed is None:
        observed = f"langflow-sluice {pack.version} is installed; whether its nodes can be imported was not tried"
        observed += f": {pack.problem}." if pack.problem else "."
        return [Finding("pack_not_checked", "info", observed, "Give --langflow-url, or leave --no-import out.")]
    return [Finding("pack_found", "info", f"langflow-sluice {pack.version} is installed, and all its nodes import.")]


def _server(server: ServerFacts, pack: PackFacts | None) -> list[Finding]:
    if server.problem:
        return [Finding("langflow_unreachable", "error", f"{server.problem}.", server.hint)]
    if not server.pack_types:
        observed = f"The palette of Langflow {server.version} at {server.where} has none of the pack's nodes"
        observed += f", though langflow-sluice {pack.version} is installed here." if pack and pack.version else "."
        advice = (
            "Install it in the Python environment that runs Langflow (python -m pip list there), restart, and look "
        )
        return [Finding("pack_missing", "error", observed, f"{advice}for 'sluice' in Langflow's log.")]
    observed = f"Langflow {server.version} at {server.where} offers {len(server.pack_types)} nodes of langflow-sluice "
    findings = [Finding("pack_found", "info", f"{observed}{server.pack_version}.")]
    if pack and pack.version and server.pack_version not in {"", pack.version}:
        observed = f"The server has langflow-sluice {server.pack_version}, here {pack.version} is installed."
        findings.append(Finding("pack_version", "info", observed, "Use the same on both."))
    return findings


def _flows(facts: Facts) -> list[Finding]:
    if facts.server is None or facts.server.problem:
        return []
    if facts.flows is None:
        return [Finding("flows_not_checked", "info", "The server's flows could not be read.", "Give an API key.")]
    if not facts.flows.stock_pgvector:
        return []
    names = ", ".join(facts.flows.stock_pgvector[:3])
    observed = (
        f"{len(facts.flows.stock_pgvector)} flows use Langflow's own PGVector node ({names}): it opens an engine for "
    )
    observed += "each search and closes none, which no sum of connections can count."
    advice = "Use the Pooled PG Retriever and Writer; they read the same collections."
    return [Finding("stock_pgvector", "warning", observed, advice)]


def _restricted(deployment: Deployment, pack: PackFacts | None) -> list[Finding]:
    if deployment.custom_components.value:
        return []
    on_path_only = pack is not None and pack.on_path and not pack.entry_point
    if on_path_only and not deployment.paths_override.value:
        observed = f"{deployment.custom_components}, and {deployment.paths_override}: nodes from {_PATH} do not run."
        return [Finding("restricted_path", "error", observed, "pip install langflow-sluice instead.")]
    if on_path_only:
        observed = (
            f"{deployment.custom_components}: the pack comes from {_PATH}, so its types end in @extra; flows made with "
        )
        observed += "an installed pack (@official), such as the bundled ones, are refused."
        return [Finding("restricted_types", "warning", observed, "pip install langflow-sluice instead.")]
    observed = f"{deployment.custom_components}: the installed pack runs, but edited sources of its nodes do not."
    return [Finding("restricted_mode", "info", observed)]
