"""Colours of the charts of a load report, and what else all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langflow_sluice.load import page_words as words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langflow_sluice.load.results import FlowResult, LoadReport

# A dependency has one colour in all charts. The hues are those of M. Okabe and K. Ito ("Color Universal Design", 2002),
# shifted in lightness until each can be told from the paper (3:1 at least).
LIGHT = {
    "ink": "#1f2933",
    "muted": "#5b6774",
    "grid": "#e3e7ec",
    "paper": "#ffffff",
    "main": "#0b6aa8",
    "p95": "#3f8fca",
    "p99": "#6b7785",
    "ok": "#6f9fc4",
    "database": "#cc5500",
    "provider": "#b07d00",
    "langflow": "#7d5ba6",
    "queue": "#1b96a8",
    "unknown": "#7c8794",
    "rest": "#c3cad2",
    "other1": "#008a64",
    "other2": "#b8568c",
    "other3": "#8a5a2b",
}
DARK = {
    "ink": "#e6eaee",
    "muted": "#a3afbb",
    "grid": "#333d48",
    "paper": "#171c22",
    "main": "#6cb8ee",
    "p95": "#4a90c4",
    "p99": "#8b98a6",
    "ok": "#4f83ab",
    "database": "#f08542",
    "provider": "#e0ac2b",
    "langflow": "#b497dc",
    "queue": "#4cc3d3",
    "unknown": "#8f9ba8",
    "rest": "#4b5764",
    "other1": "#3fc39a",
    "other2": "#e08fbb",
    "other3": "#c9965f",
}
_FAMILIES = (
    ("database", ("database", "postgres", "pgbouncer")),
    ("provider", ("provider",)),
    ("langflow", ("langflow",)),
    ("queue", ("sluice", "guard", "queue")),
)
_OTHERS = ("other1", "other2", "other3")


@dataclass(frozen=True, slots=True)
class Sheet:
    """What all charts of a report share.

    Attributes:
        colours: By role.
        size: Of the letters, in points.
        indent: How far left of its axes a chart begins, in points.
        max_connections: That the database allows.
        flows: All flows of the report: scales fit each of them.
    """

    colours: Mapping[str, str]
    size: float
    indent: float
    max_connections: int | None
    flows: tuple[FlowResult, ...]

    def most(self, of_flow: Callable[[FlowResult], Sequence[float]]) -> float:
        """The greatest figure of all flows; 0 without any."""
        return max((value for flow in self.flows for value in of_flow(flow) if value == value), default=0.0)  # noqa: PLR0124 - NaN

    def colours_of_dependencies(self) -> dict[str, str]:
        """Every dependency that calls failed by, to its colour: the same in all charts."""
        names = {name for flow in self.flows for stage in flow.stages for name in words.failed_by_dependency(stage)}
        given: dict[str, str] = {}
        free = [role for role, _ in _FAMILIES] + list(_OTHERS)
        # Plain names first: "database" is more of a database than "a pool of database connections" is.
        for name in sorted(names, key=lambda name: (len(name), name)):
            role = next((role for role, of_it in _FAMILIES if any(word in name.lower() for word in of_it)), "")
            if role not in free:
                role = "unknown" if name == "unknown" else next((each for each in free if each in _OTHERS), "unknown")
            if role in free:
                free.remove(role)
            given[name] = self.colours[role]
        return given


def sheet_for(report: LoadReport, colours: Mapping[str, str], size: float, indent: float) -> Sheet:
    """What the charts of a report share."""
    return Sheet(colours, size, indent, report.max_connections, report.flows)
