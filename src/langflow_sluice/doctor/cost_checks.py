"""Settings that make each call, or each failing call, dear; and settings that cannot be read at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langflow_sluice.doctor.findings import Finding, Fix

if TYPE_CHECKING:
    from langflow_sluice.doctor.deployment import Deployment


def cost_findings(deployment: Deployment) -> list[Finding]:
    """What costs more than it gives under load."""
    findings = []
    pretty, locals_, untracked = deployment.rich_tracebacks, deployment.trace_locals, deployment.untracked_keys
    if pretty.value:
        observed = (
            f"{pretty.variable} is on ({pretty.source}): each call that fails costs about 10 s of CPU for drawing its "
        )
        observed += "traceback (measured on Langflow 1.13), and meanwhile its worker serves nobody."
        why = "Drawing the traceback of a failed call costs about 10 s of CPU; as JSON 0.25 s"
        fix = Fix(pretty.variable, "false", why)
        findings.append(Finding("pretty_logs", "warning", observed, f"Set {pretty.variable}=false.", (fix,)))
    if locals_.value:
        observed = (
            f"{locals_.variable} is on ({locals_.source}): tracebacks show local variables, with prompts and keys."
        )
        fix = Fix(locals_.variable, "false", "Local variables hold prompts and keys, and cost time to print")
        findings.append(Finding("trace_locals", "warning", observed, f"Set {locals_.variable}=false.", (fix,)))
    if not untracked.value:
        observed = (
            f"{untracked.variable} is off ({untracked.source}): every API call updates the row of its key, so calls "
        )
        observed += "with one key wait for each other, and may deadlock in a burst."
        why = "Else every call updates the row of its API key, and calls with one key wait for each other"
        fix = Fix(untracked.variable, "true", why)
        findings.append(Finding("apikey_tracking", "warning", observed, f"Set {untracked.variable}=true.", (fix,)))
    return findings


def unreadable_findings(deployment: Deployment, lines: tuple[int, ...], file: str) -> list[Finding]:
    """Variables and lines that cannot be understood."""
    findings = [
        Finding("setting_invalid", "error", f"{problem}.", f"Mend {variable}; its default was assumed here.")
        for variable, problem in deployment.problems.items()
    ]
    if lines:
        observed = f"{file}: line {', '.join(map(str, lines))} cannot be understood, and Langflow skips it."
        findings.append(Finding("env_line_unreadable", "warning", observed, "Write NAME=value."))
    return findings
