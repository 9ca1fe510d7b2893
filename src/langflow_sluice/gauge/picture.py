"""The bars as a picture, for the Playground."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any

from langflow_sluice.gauge.bars import MOST_BARS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langflow_sluice.gauge.bars import Bar

_USED, _FULL, _WAITING, _LIMIT, _GREY = "#2563eb", "#dc2626", "#f59e0b", "#111827", "#6b7280"
_STATES = {
    "active": "#16a34a",
    "idle": "#94a3b8",
    "idle in transaction": "#dc2626",
    "idle in transaction (aborted)": "#991b1b",
    "hidden": "#a855f7",
}
_OTHER_STATE = "#0ea5e9"
_COLOURS = 64
_DPI = 110
_WIDTH_IN = 8.0
_LONGEST_LABEL = 38
_MORE_WAITING_THAN_SHOWN = 2.0


def draw(bars: Sequence[Bar], states: dict[str, int], available: int) -> bytes:
    """A PNG of some 10 kB: what is in use and who waits, against the limits, and the database's connections by state.

    Takes a tenth of a second, and the first time a second: call it from a thread. Several threads may draw at once.

    Args:
        bars: The fullest first; the picture shows the first ones.
        states: Connections by state; empty for no such part.
        available: Connections that the server has for ordinary roles.
    """
    # Not pyplot, which keeps all figures in one global place.
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    shown = list(bars[:MOST_BARS])
    heights = [0.34 * max(1, len(shown)) + 0.55, *([0.95] if states else [])]
    figure = Figure(figsize=(_WIDTH_IN, sum(heights) + 0.35), dpi=_DPI, facecolor="white", layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_bars(axes[0], shown)
    if states:
        _draw_states(axes[1], states, available)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    file = io.BytesIO()
    # A chat's history keeps it, so it is as small as it can be.
    picture.quantize(_COLOURS).save(file, "png", optimize=True)
    return file.getvalue()


def _draw_bars(axes: Any, bars: Sequence[Bar]) -> None:
    """Each bar on a scale of its own: the limit stands at 1 in all of them."""
    places = range(len(bars))
    used = [_share(bar, bar.used) for bar in bars]
    waiting = [min(_MORE_WAITING_THAN_SHOWN, _share(bar, bar.waiting)) for bar in bars]
    colours = [_FULL if bar.limit and bar.used >= bar.limit else _USED for bar in bars]
    axes.barh(places, used, height=0.55, color=colours)
    axes.barh(places, waiting, left=used, height=0.55, color=_WAITING)
    axes.axvline(1.0, color=_LIMIT, linewidth=1)
    right = max([1.0, *(one + other for one, other in zip(used, waiting, strict=True))])
    for place, bar in enumerate(bars):
        limit = f" of {bar.limit}" if bar.limit else ""
        queue = f", {bar.waiting} waiting" if bar.waiting else ""
        end = max(1.0 if bar.limit else 0.0, used[place] + waiting[place])
        axes.text(end + 0.02 * right, place, f"{bar.used}{limit}{queue}", va="center", fontsize=8, color=_LIMIT)
    axes.set_xlim(0, right * 1.3)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xticks([0, 1], ["0", "limit"], fontsize=8)
    axes.set_yticks(list(places), [_label(f"{bar.kind} {bar.label}") for bar in bars], fontsize=8)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a name may hold dollar signs
    axes.set_title("In use (blue, red where full) and waiting (orange)", fontsize=9, loc="left", color=_GREY)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_states(axes: Any, states: dict[str, int], available: int) -> None:
    left = 0
    for state, count in states.items():
        colour = _STATES.get(state, _OTHER_STATE)
        axes.barh([0], [count], left=[left], height=0.6, color=colour, label=_label(f"{count} {state}"))
        left += count
    axes.axvline(available, color=_LIMIT, linewidth=1)
    axes.set_xlim(0, max(left, available) * 1.05)
    axes.set_yticks([])
    axes.tick_params(labelsize=8)
    axes.set_title(f"PostgreSQL: {left} of {available} connections", fontsize=9, loc="left", color=_GREY)
    axes.legend(ncols=4, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.35), frameon=False)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _share(bar: Bar, count: int) -> float:
    return count / (bar.limit or max(8, bar.used))


def _label(text: str) -> str:
    """A label in the letters that the font has: for others matplotlib warns, and warnings may be errors."""
    has = _letters()
    shown = "".join(letter if ord(letter) in has else "?" for letter in " ".join(text.split()))
    return shown if len(shown) <= _LONGEST_LABEL else f"{shown[: _LONGEST_LABEL - 1]}…"


@functools.cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())
