"""The charts of a load report, each on axes of its own; flows that are compared have the same scales."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from langflow_sluice.load import page_words as words
from langflow_sluice.load.page_axes import (
    NAN,
    by_stage,
    draw_bars,
    draw_legend,
    draw_lines,
    draw_series,
    knee_position,
    known,
    label_ends,
    label_points,
    label_tops,
    on_paper,
    over_time,
    per_stage,
    sampled,
    scale_logarithmic,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from langflow_sluice.load.page_sheet import Sheet
    from langflow_sluice.load.results import FlowResult, Stage

_PARTS = [(name, field) for field, name in words.SPLIT_PARTS]
_FAR_ABOVE = 6  # times the peak: a limit so far away would press the line to the ground
_WIDE_RANGE = 25  # longest by shortest latency, from which on only a logarithmic scale shows both


@dataclass(frozen=True, slots=True)
class Chart:
    """One kind of chart.

    Attributes:
        key: Short, for names of elements.
        title: What it shows.
        reading: How to read it, in a sentence.
        missing: Says of a flow why it cannot be drawn; empty if it can.
        draw: Draws it for a flow.
        describe: Its text alternative, for a flow and the report's ``max_connections``.
    """

    key: str
    title: str
    reading: str
    missing: Callable[[FlowResult], str]
    draw: Callable[[Axes, FlowResult, Sheet], None]
    describe: Callable[[FlowResult, int | None], str]


# --- by stage


def _throughput(ax: Axes, flow: FlowResult, sheet: Sheet) -> None:
    rates = per_stage(flow, lambda stage: stage.throughput_per_s)
    by_stage(ax, flow, sheet, "results a second", words.tick)
    ax.set_ylim(0, (sheet.most(lambda each: per_stage(each, lambda stage: stage.throughput_per_s)) or 1) * 1.25)
    draw_lines(ax, flow, rates, colour=sheet.colours["main"], width=2.2)
    label_points(ax, rates, words.number, sheet)
    at = knee_position(flow)
    if at is not None:
        left, right = rates[math.floor(at)], rates[math.ceil(at)]
        height = left + (right - left) * (at - math.floor(at))
        ax.vlines(at, 0, height, color=sheet.colours["ink"], linewidth=1.2, linestyle=(0, (3, 2)))
        on_the_left = at > (len(flow.stages) - 1) / 2
        ax.annotate(
            f"knee: {flow.knee}",
            (at, 0.04),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if on_the_left else 4, 0),
            textcoords="offset points",
            ha="right" if on_the_left else "left",
            fontsize=sheet.size,
            color=sheet.colours["ink"],
            bbox=on_paper(sheet),
        )


def _latency(ax: Axes, flow: FlowResult, sheet: Sheet) -> None:
    def of(each: FlowResult) -> dict[str, list[float]]:
        return {
            "p50": per_stage(each, lambda stage: stage.latency.p50_s),
            "p95": per_stage(each, lambda stage: stage.latency.p95_s),
            "p99": per_stage(each, lambda stage: stage.latency.p99_s),
        }

    by_stage(ax, flow, sheet, "time of a call, failed ones included", words.tick_seconds)
    greatest = sheet.most(lambda each: [*chain(*of(each).values())])
    inverse = sheet.most(lambda each: [1 / value for value in chain(*of(each).values()) if value > 0])
    least = 1 / inverse if inverse else 0.0
    if least > 0 and greatest / least >= _WIDE_RANGE:
        scale_logarithmic(ax, least, greatest, words.tick_seconds)
    else:
        ax.set_ylim(0, (greatest or 1) * 1.12)
    ends: list[tuple[str, float, float]] = []
    for name, values in of(flow).items():
        colour = sheet.colours["main" if name == "p50" else name]
        draw_lines(ax, flow, values, colour=colour, width=2.2 if name == "p50" else 1.6, dashed=name == "p99")
        valid = [(index, value) for index, value in enumerate(values) if not math.isnan(value)]
        ends.append((name, *valid[-1]))
    label_ends(ax, ends, sheet)


def _outcomes(ax: Axes, flow: FlowResult, sheet: Sheet) -> None:
    colours = sheet.colours_of_dependencies()
    failed = [words.failed_by_dependency(stage) for stage in flow.stages]
    # Where they are all over the place, the most frequent ones are told apart.
    names = sorted({name for each in failed for name in each}, key=lambda name: -sum(each[name] for each in failed))
    legend = [("succeeded", sheet.colours["ok"])] if any(stage.succeeded for stage in flow.stages) else []
    legend += [(f"failed: {words.short(name, 22)}", colours[name]) for name in names[:5]]
    legend += [(f"failed: {len(names) - 5} others", colours[names[5]])] if len(names) > 5 else []  # noqa: PLR2004
    draw_legend(ax, legend, sheet)
    by_stage(ax, flow, sheet, "share of calls", lambda share: f"{share:g} %")
    ax.set_ylim(0, 116)
    ax.set_yticks([0, 50, 100])
    ground = [0.0] * len(flow.stages)
    pieces = [("", sheet.colours["ok"])] + [(name, colours[name]) for name in names]
    for name, colour in pieces:
        shares = [
            100 * (lost[name] if name else stage.succeeded) / stage.requests if stage.requests else 0.0
            for stage, lost in zip(flow.stages, failed, strict=True)
        ]
        draw_bars(ax, shares, ground, colour, sheet)
        ground = [below + share for below, share in zip(ground, shares, strict=True)]
    told = [words.percent(stage.succeeded, stage.requests) for stage in flow.stages]
    tops = [103.0 if stage.requests else 3.0 for stage in flow.stages]
    label_tops(ax, tops, told, sheet)


def _split(ax: Axes, flow: FlowResult, sheet: Sheet) -> None:
    measured = [(name, part) for name, part in _PARTS if known(_per_stage_split(flow, part))]
    unknown = [name for name, part in _PARTS if not known(_per_stage_split(flow, part))]
    rests = [_not_divided(stage) for stage in flow.stages]
    legend = [(name, sheet.colours[name.lower()]) for name, _ in measured]
    legend += [("not divided", sheet.colours["rest"])] if any(rests) else []
    legend += [(f"{words.NOT_MEASURED}: {', '.join(unknown)}", "")] if unknown else []
    draw_legend(ax, legend, sheet)
    by_stage(ax, flow, sheet, "time of a mean call", words.tick_seconds)
    top = (sheet.most(lambda each: [_whole(stage) for stage in each.stages]) or 1) * 1.18
    ax.set_ylim(0, top)
    pieces = [(name.lower(), _per_stage_split(flow, part)) for name, part in measured]
    ground = [0.0] * len(flow.stages)
    for role, values in [*pieces, *([("rest", rests)] if any(rests) else [])]:
        heights = [0.0 if math.isnan(value) else value for value in values]
        draw_bars(ax, heights, ground, sheet.colours[role], sheet)
        ground = [below + height for below, height in zip(ground, heights, strict=True)]
    told = [words.NOT_MEASURED if math.isnan(_whole(stage)) else words.seconds(_whole(stage)) for stage in flow.stages]
    label_tops(ax, [below + top * 0.02 for below in ground], told, sheet)


def _per_stage_split(flow: FlowResult, part: str) -> list[float]:
    """One part of the time of a mean call; NaN where it was not measured."""
    values = [getattr(stage.split, part) for stage in flow.stages]
    return [NAN if value is None else max(value, 0.0) for value in values]


def _known_parts(stage: Stage) -> list[float]:
    return [max(value, 0.0) for _, part in _PARTS if (value := getattr(stage.split, part)) is not None]


def _not_divided(stage: Stage) -> float:
    """What the measured parts leave of the mean call where it cannot be said to be Langflow's."""
    parts = _known_parts(stage)
    if not parts or stage.split.langflow_s is not None:
        return 0.0
    return max(stage.latency.mean_s - sum(parts), 0.0)


def _whole(stage: Stage) -> float:
    parts = _known_parts(stage)
    return sum(parts) + _not_divided(stage) if parts else NAN


# --- over time


def _connections(ax: Axes, flow: FlowResult, sheet: Sheet) -> None:
    def seen(each: FlowResult) -> list[float]:
        return sampled(each, lambda sample: sample.connections)

    peak = sheet.most(seen)
    limit = sheet.max_connections
    far = limit is not None and bool(peak) and limit > peak * _FAR_ABOVE
    active = sampled(flow, lambda sample: sample.active)
    legend = [("open", sheet.colours["database"])]
    legend += [("running a statement", sheet.colours["muted"])] if known(active) else []
    draw_legend(ax, legend + ([(f"allowed: {limit}, far above", "")] if far else []), sheet)
    over_time(ax, flow, sheet, "connections")
    top = max(peak, 0 if limit is None or far else limit) or 1
    ax.set_ylim(0, top * 1.32)
    draw_series(ax, flow, seen(flow), sheet.colours["database"], filled=True)
    draw_series(ax, flow, active, sheet.colours["muted"], width=1.2)
    if limit is not None and not far:
        ax.axhline(limit, color=sheet.colours["ink"], linewidth=1.2, linestyle=(0, (5, 3)))
        ax.annotate(
            f"{limit} allowed",
            (0.995, limit),
            xycoords=("axes fraction", "data"),
            xytext=(0, 5),
            textcoords="offset points",
            ha="right",
            fontsize=sheet.size,
            color=sheet.colours["ink"],
            bbox=on_paper(sheet),
        )


def _guards(ax: Axes, flow: FlowResult, sheet: Sheet) -> None:
    def held(each: FlowResult) -> list[float]:
        return sampled(each, lambda sample: sample.guard_in_flight)

    def waiting(each: FlowResult) -> list[float]:
        return sampled(each, lambda sample: sample.guard_waiting)

    drawn = [
        ("waiting", waiting(flow), sheet.colours["queue"]),
        ("in flight", held(flow), sheet.colours["main"]),
    ]
    drawn = [each for each in drawn if known(each[1])]
    draw_legend(ax, [(name, colour) for name, _, colour in drawn], sheet)
    over_time(ax, flow, sheet, "calls at guards")
    ax.set_ylim(0, (max(sheet.most(held), sheet.most(waiting)) or 1) * 1.25)
    for name, values, colour in drawn:
        draw_series(ax, flow, values, colour, filled=name == "waiting")


def _no_calls(flow: FlowResult) -> str:
    return "" if any(stage.requests for stage in flow.stages) else "no calls"


def _not_split(flow: FlowResult) -> str:
    return _no_calls(flow) or ("" if known([_whole(stage) for stage in flow.stages]) else words.NOT_MEASURED)


def _not_connected(flow: FlowResult) -> str:
    return "" if known(sampled(flow, lambda sample: sample.connections)) else words.NOT_MEASURED


def _not_guarded(flow: FlowResult) -> str:
    looks = ((sample.guard_in_flight, sample.guard_waiting) for sample in flow.samples)
    return "" if any(figure is not None for look in looks for figure in look) else words.NOT_MEASURED


CHARTS = (
    Chart(
        "throughput",
        "Throughput",
        "Results a second at each load; failed calls do not count.",
        _no_calls,
        _throughput,
        lambda flow, _: words.describe_throughput(flow),
    ),
    Chart(
        "latency",
        "Latency",
        "Time within which 50, 95 and 99 % of the calls ended, failed ones included.",
        _no_calls,
        _latency,
        lambda flow, _: words.describe_latency(flow),
    ),
    Chart(
        "outcomes",
        "Succeeded and failed",
        "Share of the calls at each load; failed ones by the dependency that failed. Above: how many succeeded.",
        _no_calls,
        _outcomes,
        lambda flow, _: words.describe_outcomes(flow),
    ),
    Chart(
        "connections",
        "Database connections",
        "Those of other clients included. The figures at the top say where each load began.",
        _not_connected,
        _connections,
        words.describe_connections,
    ),
    Chart(
        "guards",
        "Guards",
        "Calls that all guards let through at the moment, and calls that wait in queues of guards and pools.",
        _not_guarded,
        _guards,
        lambda flow, _: words.describe_guards(flow),
    ),
    Chart(
        "split",
        "Where the time went",
        "Parts of the mean call; Langflow's is the rest that belongs to none of the others.",
        _not_split,
        _split,
        lambda flow, _: words.describe_split(flow),
    ),
)
