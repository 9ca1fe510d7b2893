"""The charts of a load report as one PNG to paste into a chat, and as SVG for its page."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import threading
from typing import TYPE_CHECKING, Any

from langflow_sluice.load import page_words as words
from langflow_sluice.load.charts import CHARTS
from langflow_sluice.load.page_axes import draw_nothing
from langflow_sluice.load.page_sheet import LIGHT, sheet_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.figure import Figure

    from langflow_sluice.load.charts import Chart
    from langflow_sluice.load.page_sheet import Sheet
    from langflow_sluice.load.results import Cause, FlowResult, LoadReport, Stage

# matplotlib's settings are those of the whole process.
_DRAWING = threading.Lock()

_SVG_WIDTH_PT, _SVG_HEIGHT_PT, _SVG_INDENT_PT = 360.0, 255.0, 50.0
"""As wide as a phone: there, letters come out as large as they are drawn."""
# Colours that stand for those of the page, which change with its scheme: matplotlib knows no variables.
_STAND_INS = {role: f"#fe{index:02x}ed" for index, role in enumerate(LIGHT)}

_PNG_WIDTH_IN, _PNG_DPI, _PNG_SIZE_PT = 13.0, 120, 8.5
_MARGIN_IN, _COLUMNS = 0.45, 3
_CELL_HEIGHT_IN = 2.75
_INCH_PT = 72


def write_png(report: LoadReport, path: Path) -> None:
    """Draws the whole report as one picture.

    May be called from any thread; one picture is drawn at a time.

    Args:
        report: What to draw.
        path: The file; it is replaced.

    Raises:
        OSError: If the file cannot be written.
    """
    with _drawing():
        picture = _summary(_drawable(report))
        drawn = io.BytesIO()
        metadata = {"Title": _printable(words.headline(report)), "Software": "sluice load"}
        picture.savefig(drawn, format="png", dpi=_PNG_DPI, facecolor=LIGHT["paper"], metadata=metadata)
    path.write_bytes(drawn.getvalue())


def svg(chart: Chart, report: LoadReport, index: int, name: str) -> str:
    """Draws one chart for a page.

    May be called from any thread; one picture is drawn at a time.

    Args:
        chart: Which one.
        report: What to draw; the scales fit all its flows.
        index: Of the flow; nothing is ``missing`` of it for this chart.
        name: Begins the ids of all elements; another one for each picture of a page.

    Returns:
        The element ``svg``, without a size of its own; its colours are the page's variables ``--c-ROLE``.
    """
    from matplotlib.figure import Figure

    with _drawing({"svg.fonttype": "none", "svg.hashsalt": name}):
        drawable = _drawable(report)
        figure = Figure((_SVG_WIDTH_PT / _INCH_PT, _SVG_HEIGHT_PT / _INCH_PT), dpi=_INCH_PT)
        ax = figure.add_axes(((_SVG_INDENT_PT + 2) / _SVG_WIDTH_PT, 0.165, 0.775, 0.735))
        chart.draw(ax, drawable.flows[index], sheet_for(drawable, _STAND_INS, 12.5, _SVG_INDENT_PT))
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(drawn.getvalue(), name, chart.describe(report.flows[index], report.max_connections))


def _for_page(drawn: str, name: str, text: str) -> str:
    """Keeps of a file of matplotlib's what may stand in a page beside others of its kind."""
    from html import escape

    inner = drawn[drawn.index("<svg") :].split(">", 1)[1]
    inner = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", inner, flags=re.DOTALL)
    inner = re.sub(r'\b(id=")([^"]+")', rf"\1{name}-\2", inner)
    inner = re.sub(r'(url\(#|xlink:href="#)', rf"\1{name}-", inner)
    inner = re.sub(r"(?:-moz-|\b)font(?:-family)?: [^;\"]*'DejaVu Sans'[^;\"]*", _font, inner)
    for role, stand_in in _STAND_INS.items():
        inner = inner.replace(stand_in, f"var(--c-{role})")
    box = f'viewBox="0 0 {_SVG_WIDTH_PT:g} {_SVG_HEIGHT_PT:g}"'
    return (
        f'<svg {box} role="img" aria-label="{escape(text)}" xmlns="http://www.w3.org/2000/svg"'
        f' xmlns:xlink="http://www.w3.org/1999/xlink">{inner}'
    )


def _font(found: re.Match[str]) -> str:
    """The page's own letters: they are narrower than those that the room was measured for."""
    size = re.search(r"[\d.]+px", found[0])
    return f"font-size: {size[0]}" if size else "font-family: inherit"


@contextlib.contextmanager
def _drawing(more: dict[str, Any] | None = None) -> Iterator[None]:
    """Draws in the same way whatever the user's matplotlibrc says; a ``$`` in a name is no formula."""
    import matplotlib as mpl

    settings: dict[Any, Any] = {
        name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")
    }
    settings |= {"font.family": ["DejaVu Sans"], "text.parse_math": False}
    with _DRAWING, mpl.rc_context(settings | (more or {})):
        yield


@functools.cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties(family=["DejaVu Sans"]))).get_charmap())


def _printable(text: str) -> str:
    """One line, with a square for each letter that matplotlib's own font lacks."""
    return "".join(letter if ord(letter) in _letters() else "□" for letter in " ".join(text.split()))


def _drawable(report: LoadReport) -> LoadReport:
    """The report with names of dependencies that can be drawn."""
    from dataclasses import replace

    def causes(stage: Stage) -> tuple[Cause, ...]:
        return tuple(replace(cause, dependency=_printable(cause.dependency)) for cause in stage.causes)

    def stages(flow: FlowResult) -> tuple[Stage, ...]:
        return tuple(replace(stage, causes=causes(stage)) for stage in flow.stages)

    return replace(report, flows=tuple(replace(flow, stages=stages(flow)) for flow in report.flows))


# --- the summary


def _summary(report: LoadReport) -> Figure:
    from matplotlib.figure import Figure

    width_pt = (_PNG_WIDTH_IN - 2 * _MARGIN_IN) * _INCH_PT
    title = _wrapped(_printable(words.headline(report)), width_pt / (16 * 0.65), 2)
    compared = _wrapped(_printable(report.comparison), width_pt / (10 * 0.57), 4) if report.comparison else []
    told = [_wrapped(_printable(flow.explanation), width_pt / (9.5 * 0.57), 6) for flow in report.flows]
    rows = -(-len(CHARTS) // _COLUMNS)
    head_in = 0.45 + 0.32 * len(title) + 0.2 * len(compared) + 0.3
    bands_in = [0.48 + 0.19 * len(lines) + 0.15 + rows * _CELL_HEIGHT_IN for lines in told]
    height_in = head_in + sum(bands_in) + 0.1
    figure = Figure((_PNG_WIDTH_IN, height_in), dpi=_PNG_DPI)
    page = _Page(figure, height_in)
    page.down(0.2)
    page.lines(title, 16, 0.32, LIGHT["ink"], weight="bold")
    page.lines(compared, 10, 0.2, LIGHT["ink"])
    page.lines([words.short(_printable(words.origin(report)), 150)], 8.5, 0.3, LIGHT["muted"])
    sheet = sheet_for(report, LIGHT, _PNG_SIZE_PT, 0.42 * _INCH_PT)
    for flow, lines in zip(report.flows, told, strict=True):
        page.down(0.2)
        page.rule()
        name = words.short(_printable(words.flow_name(flow)), 70)
        if len(report.flows) > 1:
            page.lines([f"{name}: {_printable(flow.verdict)}"], 12.5, 0.28, LIGHT["ink"], weight="bold")
        page.lines(lines, 9.5, 0.19, LIGHT["ink"])
        page.down(0.15)
        for first in range(0, len(CHARTS), _COLUMNS):
            for column, chart in enumerate(CHARTS[first : first + _COLUMNS]):
                page.chart(chart, column, flow, sheet)
            page.down(_CELL_HEIGHT_IN)
    return figure


class _Page:
    """Places things from the top of a figure downwards, in inches."""

    def __init__(self, figure: Figure, height_in: float) -> None:
        self._figure = figure
        self._height_in = height_in
        self._at_in = 0.0

    def down(self, by_in: float) -> None:
        self._at_in += by_in

    def lines(self, lines: list[str], size: float, step_in: float, colour: str, weight: str = "normal") -> None:
        for line in lines:
            x, y = _MARGIN_IN / _PNG_WIDTH_IN, self._up(0)
            self._figure.text(x, y, line, fontsize=size, color=colour, weight=weight, va="top")
            self.down(step_in)

    def rule(self) -> None:
        from matplotlib.lines import Line2D

        edge = _MARGIN_IN / _PNG_WIDTH_IN
        self._figure.add_artist(Line2D((edge, 1 - edge), [self._up(-0.1)] * 2, color=LIGHT["grid"], linewidth=1.2))

    def chart(self, chart: Chart, column: int, flow: FlowResult, sheet: Sheet) -> None:
        wide = (_PNG_WIDTH_IN - 2 * _MARGIN_IN) / _COLUMNS
        left = _MARGIN_IN + column * wide
        colour = LIGHT["ink"]
        self._figure.text(
            left / _PNG_WIDTH_IN, self._up(0), chart.title, fontsize=10, color=colour, weight="bold", va="top"
        )
        across, tall = (wide - 0.42 - 0.42) / _PNG_WIDTH_IN, (_CELL_HEIGHT_IN - 1.12) / self._height_in
        ax = self._figure.add_axes(((left + 0.42) / _PNG_WIDTH_IN, self._up(_CELL_HEIGHT_IN - 0.62), across, tall))
        missing = chart.missing(flow)
        if missing:
            draw_nothing(ax, sheet, missing)
        else:
            chart.draw(ax, flow, sheet)

    def _up(self, further_in: float) -> float:
        return 1 - (self._at_in + further_in) / self._height_in


def _wrapped(text: str, chars: float, most: int) -> list[str]:
    """Lines of so many characters; what is too much for so many lines ends in an ellipsis."""
    import textwrap

    return textwrap.wrap(text, int(chars), max_lines=most, placeholder=" …") or [""]
