"""Prints a load run: what is under way, and in the end what was found."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from langflow_sluice.load.diagnosis import HOLDS, NOT_FINISHED
from langflow_sluice.load.printable import printable
from langflow_sluice.load.run import STOPPED

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import RenderableType
    from typing_extensions import Self

    from langflow_sluice.load.drive import Drive
    from langflow_sluice.load.results import FlowResult, LoadReport, Stage

# The driver runs beside the server it measures, so the screen is drawn seldom.
_REFRESHES_PER_S = 4
_TONES = {HOLDS: "green", NOT_FINISHED: "yellow", STOPPED: "yellow"}
_WIDTH = 140  # of what is not read on a terminal


class Screen(Console):
    """The terminal or what stands in its place. What cannot be shown there is not, and no run ends because of it."""

    def __init__(self) -> None:
        # In an encoding that lacks a letter, and of half a surrogate pair in any, its number is shown.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        super().__init__(highlight=False)
        if not self.is_terminal:
            self.width = _WIDTH

    def on_broken_pipe(self) -> None:
        """Called by rich, which ends the process by default, where nobody reads any more."""
        self.leave()

    def say(self, what: RenderableType = "") -> None:
        """Prints it, as long as somebody reads."""
        try:
            self.print(what)
        except OSError:
            self.leave()

    def leave(self) -> None:
        """Prints nothing any more, nor what is left when the interpreter ends."""
        self.quiet = True
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, sys.stdout.fileno())
            finally:
                os.close(nowhere)


class LiveProgress:
    """Shows on a terminal how far the run is, and a line for each stage that is done. A context manager.

    Args:
        console: Where; what is no terminal gets the lines alone.
    """

    def __init__(self, console: Screen) -> None:
        self._console = console
        self._flow, self._what = "", ""
        self._drive: Drive | None = None
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                console=console, get_renderable=self._now, refresh_per_second=_REFRESHES_PER_S, transient=True
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.stop()

    def begins(self, flow: str, what: str, drive: Drive) -> None:
        """As in ``Progress``."""
        self._flow, self._what, self._drive = flow, what, drive

    def ends(self, flow: str, what: str, stage: Stage) -> None:
        """As in ``Progress``."""
        failed = f", {stage.failed} failed" if stage.failed else ""
        p95 = f", p95 {_seconds(stage.success_latency.p95_s)}" if stage.succeeded else ""
        line = _text(f"{flow}, {what}: {stage.requests} calls{failed}, {stage.throughput_per_s:.2g}/s{p95}")
        if stage.failed:
            line.stylize("yellow")
        self._console.say(line)

    def _now(self) -> Text:
        drive = self._drive
        if drive is None:
            return Text("Asking the server")
        return _text(
            f"{self._flow}, {self._what}: {drive.done} done, {drive.in_flight} in flight, {drive.failed} failed"
            "  (Ctrl-C ends it with what there is)"
        )


def show(console: Screen, report: LoadReport, *, stopped: bool = False) -> None:
    """Prints what was found."""
    if stopped:
        console.say("Stopped; this is what was measured until then.")
    if not report.flows:
        console.say("Nothing was measured.")
    for flow in report.flows:
        console.say()
        console.say(_head(flow))
        console.say(_stages(flow))
        if any(stage.causes for stage in flow.stages):
            console.say(_causes(flow))
        console.say(_text(flow.explanation))
    if report.comparison:
        console.say()
        console.say(_text(report.comparison, style="bold"))
    for note in _notes(report):
        console.say(Text(note, style="dim"))


def _text(words: str, style: str = "") -> Text:
    """For all that holds words of the server, which must not steer the terminal."""
    return Text(printable(words), style=style)


def _head(flow: FlowResult) -> Text:
    text = _text(flow.flow, style="bold")
    text.append(": ")
    text.append(flow.verdict, style=_TONES.get(flow.verdict, "red"))
    if flow.dependency:
        text.append(f" ({flow.dependency})")
    return text


def _stages(flow: FlowResult) -> Table:
    failed = any(stage.failed for stage in flow.stages)
    table = Table(caption="p50 to max: of the calls that were answered" if failed else None, caption_justify="left")
    table.add_column("level", no_wrap=True)
    columns = ["calls", "failed", "unsent", "per s", "p50", "p95", "p99", "max"]
    has_connections = any(stage.connections is not None for stage in flow.stages)
    parts = ("queue", "provider", "database", "langflow")
    told = [part for part in parts if any(_part(stage, part) is not None for stage in flow.stages)]
    for name in [*columns, *(["open to db"] if has_connections else []), *(f"in {part}" for part in told)]:
        table.add_column(name, justify="right")
    for stage in flow.stages:
        latency = stage.success_latency
        row = [str(stage.requests), str(stage.failed), str(stage.unsent), f"{stage.throughput_per_s:.2f}"]
        times = (latency.p50_s, latency.p95_s, latency.p99_s, latency.max_s)
        row += [_seconds(value if stage.succeeded else None) for value in times]
        if has_connections:
            row.append("-" if stage.connections is None else str(stage.connections))
        row += [_seconds(_part(stage, part)) for part in told]
        table.add_row(_level(stage), *row, style="yellow" if stage.failed or stage.unsent else None)
    return table


def _causes(flow: FlowResult) -> Table:
    table = Table(title="why calls failed", title_justify="left")
    table.add_column("level")
    table.add_column("calls", justify="right")
    table.add_column("cause")
    table.add_column("dependency")
    table.add_column("the first such error", overflow="fold", ratio=1)
    for stage in flow.stages:
        for cause in stage.causes:
            table.add_row(_level(stage), str(cause.count), cause.code, cause.dependency, _text(cause.example))
    return table


def _level(stage: Stage) -> str:
    if stage.kind == "open loop":
        return f"{stage.rate_per_s:g}/s ({stage.concurrency} at once at most)"
    return stage.kind if stage.kind == "one at a time" else f"{stage.concurrency} at once"


def _part(stage: Stage, name: str) -> float | None:
    value: float | None = getattr(stage.split, f"{name}_s")
    return value


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def _notes(report: LoadReport) -> list[str]:
    if not report.flows:
        return []
    notes = []
    if report.max_connections is None:
        notes.append("The database's connections were not counted: give --database-url.")
    if not any(sample.guard_in_flight is not None for flow in report.flows for sample in flow.samples):
        notes.append(
            "No guards were seen: a server tells of them on its own machine once a guarded node has run, in"
            " SLUICE_STATE_DIR (--state-dir)."
        )
    return notes
