"""Says what a text was about: to people in a table, to programs as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from langflow_sluice.explain.scan import Explanation, Finding

NEXT_STEPS = (
    "Give it more of the log: the whole traceback, and what stands before the first error (sluice explain --file LOG).",
    "Check the deployment: sluice doctor.",
    "Run the flow alone, one call at a time: if it fails then too, it is an error in the flow and not the load.",
)


def as_json(explanation: Explanation) -> dict[str, Any]:
    """The explanation as plain data, without credentials."""
    root = explanation.root
    return {
        "recognised": explanation.recognised,
        "lines": explanation.lines,
        "last_exception": explanation.last_exception,
        "causes": [
            {
                "cause": finding.diagnosis.cause,
                "dependency": finding.diagnosis.dependency,
                "happened": finding.diagnosis.happened,
                "fix": finding.diagnosis.fix,
                "where": list(finding.diagnosis.where),
                "code": finding.diagnosis.code,
                "is_load": finding.diagnosis.is_load,
                "count": finding.count,
                "first_line": finding.first_line,
                "excerpt": finding.excerpt,
                "follows": finding.follows,
                "likely_root": finding is root,
            }
            for finding in explanation.findings
        ],
        "next_steps": [] if explanation.recognised else list(NEXT_STEPS),
    }


def show(console: Console, explanation: Explanation) -> None:
    """Prints the explanation for people."""
    root = explanation.root
    if root is None:
        _show_unknown(console, explanation)
        return
    if len(explanation.findings) > 1:
        console.print(_overview(explanation))
    console.print(_panel(root, is_only=len(explanation.findings) == 1))


def _overview(explanation: Explanation) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("times", justify="right", no_wrap=True)
    table.add_column("from line", justify="right", no_wrap=True)
    table.add_column("what it is")
    table.add_column("do first")
    for finding in explanation.findings:
        what = Text(_name(finding))
        if finding is explanation.root:
            what.append("\nlikely the root", style="bold red")
        elif finding.follows:
            what.append(f"\nfollows from {finding.follows}", style="dim")
        first, _, _ = finding.diagnosis.fix.partition(". ")
        table.add_row(str(finding.count), str(finding.first_line), what, Text(first.rstrip(".") + "."))
    return table


def _name(finding: Finding) -> str:
    return f"{finding.diagnosis.dependency} ({finding.diagnosis.cause})"


def _panel(finding: Finding, *, is_only: bool) -> Panel:
    diagnosis = finding.diagnosis
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column()
    rows.add_row("What it is", Text(_name(finding)))
    rows.add_row("What happened", Text(diagnosis.happened))
    rows.add_row("Do first", Text(diagnosis.fix, style="green"))
    rows.add_row("Where", Text("\n".join(f"- {each}" for each in diagnosis.where)))
    times = "once" if finding.count == 1 else f"{finding.count} times"
    rows.add_row("Seen", Text(f"{times}, first in line {finding.first_line}"))
    rows.add_row("", Text(finding.excerpt, style="dim"))
    return Panel(rows, title=None if is_only else "likely the root", title_align="left", box=ROUNDED)


def _show_unknown(console: Console, explanation: Explanation) -> None:
    lines = f"{explanation.lines} line{'' if explanation.lines == 1 else 's'}"
    console.print(f"Unknown: nothing in the {lines} is an error that Sluice knows.", highlight=False)
    if explanation.last_exception:
        text = Text(f"The last exception in it is {explanation.last_exception}; what it means here, Sluice cannot say.")
        console.print(text)
    for step in NEXT_STEPS:
        console.print(Text(f"- {step}"))
