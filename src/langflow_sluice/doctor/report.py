"""The doctor's report, for people and for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langflow_sluice.doctor.installed import langflow_version

if TYPE_CHECKING:
    from rich.console import Console

    from langflow_sluice.doctor.examination import Examination
    from langflow_sluice.doctor.findings import Arithmetic, Finding

_COLOURS = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_NOTHING = "Nothing to mend. See what it bears: sluice load."


def next_step(findings: list[Finding]) -> str:
    """The one thing to do first."""
    worst = next((finding for finding in findings if finding.severity != "info"), None)
    return f"{worst.code}: {worst.advice}" if worst else _NOTHING


def print_report(examination: Examination, console: Console) -> None:
    """Prints findings, sums and the next step."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in examination.findings:
        colour = _COLOURS[finding.severity]
        said = Text.assemble((finding.code, "bold"), f": {finding.observed}")
        if finding.advice:
            said.append(f"\n-> {finding.advice}", style="dim")
        grid.add_row(Text(finding.severity, style=colour), said)
    console.print(grid)
    for one in examination.sums:
        console.print()
        console.print(_sum_table(one))
    counts = [
        f"{sum(finding.severity == severity for finding in examination.findings)} {severity}" for severity in _COLOURS
    ]
    console.print()
    console.print(Text(f"{', '.join(counts)}. Next: {next_step(examination.findings)}", style="bold"))


def as_json(examination: Examination) -> dict[str, Any]:
    """The report as JSON values; its names are stable."""
    return {
        "langflow": langflow_version(),
        "findings": [
            {
                "code": finding.code,
                "severity": finding.severity,
                "observed": finding.observed,
                "advice": finding.advice,
                "settings": [
                    {"variable": fix.variable, "key": fix.key, "value": fix.value, "why": fix.why}
                    for fix in finding.fixes
                ],
            }
            for finding in examination.findings
        ],
        "sums": [
            {
                "title": one.title,
                "terms": [
                    {"label": t.label, "processes": t.processes, "each": t.each, "total": t.total, "how": t.how}
                    for t in one.terms
                ],
                "total": one.total,
                "limit": one.limit,
                "limit_how": one.limit_how,
                "fits": one.fits,
            }
            for one in examination.sums
        ],
        "settings": examination.deployment.shown,
        "next": next_step(examination.findings),
    }


def _sum_table(one: Arithmetic) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=one.title, title_justify="left", title_style="bold", show_footer=False)
    for name in ("", "processes", "each", "total", "from"):
        table.add_column(name, justify="right" if name in {"processes", "each", "total"} else "left")
    for term in one.terms:
        each, total = ("no limit" if value is None else str(value) for value in (term.each, term.total))
        table.add_row(Text(term.label), str(term.processes), each, total, Text(term.how))
    table.add_section()
    style = "green" if one.fits else "bold red"
    table.add_row("all", "", "", Text("no limit" if one.total is None else str(one.total), style=style), "")
    table.add_row("allowed", "", "", "not known" if one.limit is None else str(one.limit), Text(one.limit_how))
    return table
