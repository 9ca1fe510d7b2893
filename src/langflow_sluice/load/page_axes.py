"""Parts of charts: axes by stage and over time, lines, bars, labels and legends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from langflow_sluice.load import page_words as words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from langflow_sluice.load.page_sheet import Sheet
    from langflow_sluice.load.results import FlowResult, Sample, Stage

NAN = math.nan
_MINUTES_FROM_S = 600
_LABELS_CHARS = 34  # as many as stand side by side below a chart
_FIGURES_CHARS = 48  # above its bars


def per_stage(flow: FlowResult, of: Callable[[Stage], float]) -> list[float]:
    """Figures of the stages; NaN for a stage without calls."""
    return [of(stage) if stage.requests else NAN for stage in flow.stages]


def sampled(flow: FlowResult, of: Callable[[Sample], int | None]) -> list[float]:
    """Figures over time; NaN where nothing was measured."""
    return [NAN if (value := of(sample)) is None else float(value) for sample in flow.samples]


def known(values: Sequence[float]) -> bool:
    """Whether anything was measured."""
    return any(not math.isnan(value) for value in values)


def clear_frame(ax: Axes, sheet: Sheet, label: str) -> None:
    """Axes without a frame; what the vertical one counts stands above it, where it can be read without turning."""
    from matplotlib.ticker import MaxNLocator

    ax.set_facecolor("none")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(sheet.colours["muted"])
    ax.tick_params(colors=sheet.colours["muted"], labelsize=sheet.size, length=0, pad=4)
    ax.grid(axis="y", color=sheet.colours["grid"], linewidth=0.9)
    ax.set_axisbelow(True)
    ax.annotate(
        label,
        (0, 1),
        xycoords="axes fraction",
        xytext=(-sheet.indent, 8),
        textcoords="offset points",
        fontsize=sheet.size,
        color=sheet.colours["muted"],
    )
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def draw_nothing(ax: Axes, sheet: Sheet, text: str) -> None:
    """Says why there is no chart."""
    ax.set_facecolor("none")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    middle: dict[str, Any] = {"ha": "center", "va": "center", "transform": ax.transAxes}
    ax.text(0.5, 0.5, text, fontsize=sheet.size * 1.1, color=sheet.colours["muted"], **middle)


def by_stage(ax: Axes, flow: FlowResult, sheet: Sheet, label: str, unit: Callable[[float], str]) -> None:
    """Prepares axes with the stages side by side; no stage is wider than a quarter of them."""
    clear_frame(ax, sheet, label)
    ax.yaxis.set_major_formatter(lambda value, _: unit(value))
    shown = shown_stages(flow)
    ax.set_xticks(shown, [words.load_label(flow.stages[index]) for index in shown])
    room = max(4 - len(flow.stages), 0) / 2 + 0.55
    ax.set_xlim(-room, len(flow.stages) - 1 + room)
    ax.set_xlabel(words.load_axis(flow.stages), fontsize=sheet.size, color=sheet.colours["muted"], labelpad=3)


def shown_stages(flow: FlowResult) -> list[int]:
    """The stages that have room for a label, the last one among them."""
    chars = sum(len(words.load_label(stage)) + 3 for stage in flow.stages)
    step = max(1, math.ceil(chars / _LABELS_CHARS))
    return list(range(len(flow.stages) - 1, -1, -step))[::-1]


def draw_lines(
    ax: Axes, flow: FlowResult, values: list[float], *, colour: str, width: float, dashed: bool = False
) -> None:
    """A line through the stages of one kind: calls at once and calls a second are no continuation of one another."""
    for is_open in (False, True):
        of_kind = [
            value if (stage.kind == "open loop") is is_open else NAN
            for stage, value in zip(flow.stages, values, strict=True)
        ]
        style = (0, (3, 2)) if dashed else "-"
        ax.plot(of_kind, color=colour, linewidth=width, linestyle=style, marker="o", markersize=width * 2.2)


def draw_bars(ax: Axes, heights: list[float], ground: list[float], colour: str, sheet: Sheet) -> None:
    """Pieces of bars, side by side, each on what is below it."""
    # Lines of the paper's colour keep neighbours apart for eyes that cannot tell their colours.
    ax.bar(range(len(heights)), heights, 0.62, ground, color=colour, edgecolor=sheet.colours["paper"], linewidth=0.8)


def label_tops(ax: Axes, tops: list[float], told: list[str], sheet: Sheet) -> None:
    """Figures above bars; where not all of them find room, that of the last one, or every few of bars as high."""
    step = max(1, math.ceil(max(map(len, told)) * 1.2 * len(told) / _FIGURES_CHARS))
    is_level = len(set(tops)) == 1
    shown = range(len(told) - 1, -1, -step if is_level or step == 1 else -len(told))
    for index in shown:
        ax.text(index, tops[index], told[index], ha="center", fontsize=sheet.size, color=sheet.colours["ink"])


def label_points(ax: Axes, values: list[float], told: Callable[[float], str], sheet: Sheet) -> None:
    """Figures above the points of a line, on the side where it does not rise; of many, those with room."""
    step = max(1, math.ceil(5 * len(values) / _FIGURES_CHARS))
    for index in range(len(values) - 1, -1, -step):
        value = values[index]
        before, after = ([value, *values[:index]][-1], [*values[index + 1 :], value][0])
        side = -1 if after > value and not before > value else 1 if before > value and not after > value else 0
        if not math.isnan(value):
            ax.annotate(
                told(value),
                (index, value),
                xytext=(side * sheet.size * 0.5, sheet.size * 0.6),
                textcoords="offset points",
                ha=("right", "center", "left")[side + 1],
                fontsize=sheet.size,
                color=sheet.colours["ink"],
                # In a valley lines rise on both sides.
                bbox=on_paper(sheet) if before > value < after else None,
            )


def on_paper(sheet: Sheet) -> dict[str, Any]:
    """What keeps lines from running through letters."""
    return {"boxstyle": "square,pad=0.12", "facecolor": sheet.colours["paper"], "edgecolor": "none"}


def knee_position(flow: FlowResult) -> float | None:
    """Where the knee lies among the stages; between two if none had just so many calls."""
    if flow.knee is None:
        return None
    steps = [(index, stage.concurrency) for index, stage in enumerate(flow.stages)]
    for (index, calls), (_, more) in zip(steps, [*steps[1:], (0, 0)], strict=True):
        if calls == flow.knee:
            return index
        if calls < flow.knee < more:
            return index + (flow.knee - calls) / (more - calls)
    return None


def scale_logarithmic(ax: Axes, least: float, greatest: float, unit: Callable[[float], str]) -> None:
    """A scale of powers of ten, and of thrice these where it spans few."""
    from matplotlib.ticker import FixedLocator, NullLocator

    ax.set_yscale("log")
    ax.set_ylim(least / 1.5, greatest * 1.5)
    ticks = [10.0**power for power in range(-4, 6) if least / 1.5 <= 10.0**power <= greatest * 1.5]
    if len(ticks) < 3:  # noqa: PLR2004 - a scale needs some
        ticks = sorted({*ticks, *(3 * 10.0**power for power in range(-4, 6))})
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_major_formatter(lambda value, _: unit(value))
    ax.yaxis.set_minor_locator(NullLocator())


def label_ends(ax: Axes, ends: list[tuple[str, float, float]], sheet: Sheet) -> None:
    """Names at the right ends of lines, pushed apart where the lines meet."""
    gap = sheet.size * 1.15
    points = ax.figure.dpi / 72
    last = -math.inf
    for name, x, y in sorted(ends, key=lambda end: end[2]):
        at = ax.transData.transform((x, y))[1] / points
        place = max(at, last + gap)
        last = place
        ax.annotate(
            name,
            (x, y),
            xytext=(7, place - at),
            textcoords="offset points",
            va="center",
            fontsize=sheet.size,
            color=sheet.colours["ink"],
            annotation_clip=False,
        )


def over_time(ax: Axes, flow: FlowResult, sheet: Sheet, label: str) -> None:
    """Prepares axes over the time of a flow, with the beginning of each stage."""
    from matplotlib.ticker import MaxNLocator

    clear_frame(ax, sheet, label)
    ends = [sample.at_s for sample in flow.samples] + [stage.begins_s + stage.seconds for stage in flow.stages]
    end = max(ends, default=0.0) or 1.0
    minutes = end >= _MINUTES_FROM_S
    ax.set_xlim(0, end)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 3, 5, 6, 10]))
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=True))
    if minutes:
        ax.xaxis.set_major_formatter(lambda value, _: f"{value / 60:.3g}")
    unit = "minutes" if minutes else "seconds"
    ax.set_xlabel(f"{unit} since the first call", fontsize=sheet.size, color=sheet.colours["muted"], labelpad=3)
    taken = -math.inf
    for stage in flow.stages:
        if not 0 <= stage.begins_s <= end:
            continue
        ax.axvline(stage.begins_s, color=sheet.colours["grid"], linewidth=1.2, zorder=0.5)
        text = words.load_label(stage)
        at = stage.begins_s / end
        # A letter is about six tenths as wide as high; the axes are as wide as they are.
        width = (len(text) * 0.62 * sheet.size + 6) / (ax.get_window_extent().width / ax.figure.dpi * 72)
        if at >= taken and at + width <= 1.02:  # noqa: PLR2004 - it may stand a little over the edge
            place: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "va": "top", "fontsize": sheet.size}
            ax.text(stage.begins_s + 0.008 * end, 0.995, text, color=sheet.colours["muted"], **place)
            taken = at + width


def draw_series(
    ax: Axes, flow: FlowResult, values: list[float], colour: str, *, width: float = 1.8, filled: bool = False
) -> None:
    """A line over time that holds each figure until the next one; it breaks where nothing was measured."""
    times = [sample.at_s for sample in flow.samples]
    if filled:
        ax.fill_between(times, values, step="post", color=colour, alpha=0.18, linewidth=0)
    marker = "o" if sum(not math.isnan(value) for value in values) == 1 else ""
    ax.plot(times, values, color=colour, linewidth=width, drawstyle="steps-post", marker=marker)


def draw_legend(ax: Axes, entries: list[tuple[str, str]], sheet: Sheet) -> None:
    """Names with their colours above the axes, in as many lines as they take; the axes give way downwards."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import Rectangle
    from matplotlib.textpath import text_to_path

    figure = cast("Figure", ax.figure)
    font = FontProperties(size=sheet.size)
    box = ax.get_position()
    points = figure.get_figwidth() * 72
    start = box.x0 - sheet.indent / points
    whole = box.width * points + sheet.indent
    swatch, high = sheet.size * 1.3, sheet.size * 1.45
    x, line = 0.0, 0
    placed: list[tuple[float, int, str, str]] = []
    for text, colour in entries:
        wide = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] + (swatch if colour else 0)
        if x and x + wide > whole:
            x, line = 0.0, line + 1
        placed.append((x, line, text, colour))
        x += wide + sheet.size
    lines = line + 1 if entries else 0
    tall = figure.get_figheight() * 72
    ax.set_position((box.x0, box.y0, box.width, box.height - lines * high / tall))
    for left, row, text, colour in placed:
        at_x = start + left / points
        base = box.y1 + (sheet.size * 0.75 - row * high) / tall
        if colour:
            side = sheet.size * 0.8
            wide_side = side / points
            patch = Rectangle((at_x, base), wide_side, side / tall, transform=figure.transFigure, facecolor=colour)
            figure.add_artist(patch)
            at_x += swatch / points
        figure.text(at_x, base, text, fontsize=sheet.size, color=sheet.colours["ink"])
