"""How full everything is, as bars: what the picture and the table of the report draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langflow_sluice.gauge.joining import clients_by_label, guards_by_name, pools_by_label
from langflow_sluice.gauge.words import name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langflow_sluice.gauge.reading import Reading

# As many as a chat can show at once; the fullest of them.
MOST_BARS = 12
_WIDTH = 10


@dataclass(frozen=True, slots=True)
class Bar:
    """One resource.

    Attributes:
        kind: guard, pool, client or database.
        label: Its name.
        used: Calls in flight, or connections in use.
        waiting: Callers that wait.
        limit: The most that may be used; 0 for any number.
    """

    kind: str
    label: str
    used: int
    waiting: int
    limit: int

    @property
    def pressure(self) -> float:
        """Used and wanted, as a share of what there is."""
        return (self.used + self.waiting) / (self.limit or max(8, self.used))


def bars_of(reading: Reading) -> list[Bar]:
    """All resources, the fullest first.

    Args:
        reading: Workers and database at one moment.
    """
    processes, database = reading.processes, reading.database
    bars = [
        Bar("guard", guard.name, guard.in_flight, sum(guard.waiting.values()), guard.limit)
        for guard in guards_by_name(processes).values()
    ]
    bars += [
        Bar("pool", pool.label, pool.checked_out, pool.waiting, pool.capacity)
        for pool in pools_by_label(processes).values()
    ]
    bars += [
        Bar("client", client.label, client.in_use, client.waiting, client.limit)
        for client in clients_by_label(processes).values()
    ]
    if database is not None and not database.problem:
        bars.append(Bar("database", database.where, database.used, len(database.blocked), database.available))
    return sorted(bars, key=lambda bar: (-bar.pressure, bar.kind, bar.label))


def as_table(bars: Sequence[Bar]) -> str:
    """The bars as a Markdown table, for readers without pictures; the fullest ones, and how many are left out."""
    lines = ["| | | in use | waiting | |", "|:--|:--|--:|--:|:--|"]
    for bar in bars[:MOST_BARS]:
        limit = f" of {bar.limit}" if bar.limit else ""
        lines.append(f"| {bar.kind} | {name(bar.label)} | {bar.used}{limit} | {bar.waiting} | {_drawn(bar)} |")
    if len(bars) > MOST_BARS:
        lines.append(f"| | and {len(bars) - MOST_BARS} more | | | |")
    return "\n".join(lines)


def _drawn(bar: Bar) -> str:
    if not bar.limit:
        return "no limit"
    filled = min(_WIDTH, -(-bar.used * _WIDTH // bar.limit))  # rounded up: what is in use at all shows
    return f"{'█' * filled}{'░' * (_WIDTH - filled)}"
