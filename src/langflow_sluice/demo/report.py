"""The demo's one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from langflow_sluice.demo.measure import Claim, Side

_COLUMNS = ("kept", "sent", "429s", "failed", "s", "ideal", "conns")


def show(console: Console, sides: list[Side], made: list[Claim], *, strict: bool) -> None:
    """Prints what each side kept and took, and which promises were kept."""
    table = Table(
        title="The same work through stock nodes and through Sluice",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("flow", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    job = ""
    for side in sorted(sides, key=lambda side: (side.job, not side.unsafe)):
        if side.job != job:
            job = side.job
            table.add_section()
            table.add_row(f"[bold]{job}[/bold]")
        table.add_row(
            f"[red]stock  {side.flow}[/red]" if side.unsafe else f"[green]sluice {side.flow}[/green]",
            f"{side.kept}/{side.wanted}",
            _number(side.requests),
            _number(side.throttled),
            str(side.failures),
            f"{side.seconds:.1f}",
            f"{side.ideal_seconds:.1f}",
            _number(side.peak_connections),
        )
    console.print(table)
    console.print(
        "[dim]sent: chat requests at the provider; ideal: seconds that the provider alone needs with all its slots "
        "busy; conns: most database connections at once.[/dim]"
    )
    for side in sides:
        for error in side.errors:
            console.print(f"[dim]{side.flow}: {escape(error)}[/dim]", highlight=False)
    for claim in made:
        if claim.kept:
            mark = "[green]kept[/green]  "
        else:
            mark = "[red]BROKEN[/red]" if strict or not claim.timed else "[yellow]missed[/yellow]"
        console.print(f"{mark} {claim.text}: {claim.observed}", highlight=False)


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
