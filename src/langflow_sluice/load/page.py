"""A load report as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from langflow_sluice.load import page_words as words
from langflow_sluice.load.charts import CHARTS
from langflow_sluice.load.page_sheet import DARK, LIGHT
from langflow_sluice.load.page_template import STYLE, TEMPLATE
from langflow_sluice.load.results import FORMAT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from langflow_sluice.load.charts import Chart
    from langflow_sluice.load.results import Cause, FlowResult, LoadReport, Stage

    Row = tuple[str, list[str]]

# A verdict's colour never stands alone: a sign and the word go with it.
_TONES = {
    "holds": ("good", "✓"),
    "scaling problem": ("bad", "▲"),
    "bug": ("bad", "✕"),
    "no answer": ("bad", "○"),
    "not finished": ("bad", "◷"),
    "stopped": ("", "■"),
}
_NAME_CHARS = 80  # of a flow, but for the place where its name stands in full
_LIGHT = LIGHT | {"ground": "#f4f6f8", "good": "#00735a", "bad": "#b34700"}
_DARK = DARK | {"ground": "#0e1216", "good": "#4ecba4", "bad": "#ff9a5c"}


def write_page(report: LoadReport, path: Path) -> None:
    """Writes the report as a page that asks no network for anything.

    May be called from any thread. Whatever came from the server is escaped, and the page's policy forbids scripts.

    Args:
        report: What to show.
        path: The file; it is replaced.

    Raises:
        OSError: If the file cannot be written.
    """
    path.write_text(_rendered(report), encoding="utf-8")


def _rendered(report: LoadReport) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE).render(
        report=report,
        headline=words.headline(report),
        origin=words.origin(report),
        flows=[_flow(flow) for flow in report.flows],
        figures=_figures(report),
        charts=_charts(report),
        settings=_settings(report),
        data=_data(report),
        light=_LIGHT,
        dark=_DARK,
        style=STYLE,
    )


def _data(report: LoadReport) -> str:
    told = json.dumps(report.to_dict(), indent=1, ensure_ascii=False).encode("utf-8", "replace")
    return f"data:application/json;base64,{base64.b64encode(told).decode('ascii')}"


def _charts(report: LoadReport) -> list[dict[str, Any]]:
    return [
        {
            "key": chart.key,
            "title": chart.title,
            "reading": chart.reading,
            "pictures": [_picture(chart, report, index) for index in range(len(report.flows))],
        }
        for chart in CHARTS
    ]


def _picture(chart: Chart, report: LoadReport, index: int) -> dict[str, str]:
    from markupsafe import Markup

    from langflow_sluice.load.pictures import svg

    flow = report.flows[index]
    missing = chart.missing(flow)
    drawn = "" if missing else svg(chart, report, index, f"{chart.key}{index}")
    # What matplotlib wrote: it escapes the names that stand in it.
    return {"name": words.short(words.flow_name(flow), _NAME_CHARS), "missing": missing, "svg": Markup(drawn)}  # noqa: S704


def _flow(flow: FlowResult) -> dict[str, Any]:
    tone, sign = _TONES.get(flow.verdict, ("", "•"))
    failed = sum(stage.failed for stage in flow.stages)
    none_failed = "No call failed." if any(stage.requests for stage in flow.stages) else "No call was sent."
    return {
        "full_name": words.flow_name(flow),
        "name": words.short(words.flow_name(flow), _NAME_CHARS),
        "tone": tone,
        "sign": sign,
        "verdict": _verdict(flow),
        "explanation": flow.explanation,
        "axis": words.load_axis(flow.stages),
        "loads": [(words.load_label(stage), words.load_words(stage)) for stage in flow.stages],
        "groups": _groups(flow),
        "causes": _causes(flow),
        "no_causes": f"{words.count(failed)} calls failed of which no cause is told." if failed else none_failed,
    }


def _verdict(flow: FlowResult) -> str:
    return "bug: fails one at a time, too" if flow.verdict == "bug" else flow.verdict


# --- key figures


def _figures(report: LoadReport) -> list[Row]:
    rows: tuple[tuple[str, Callable[[FlowResult], str]], ...] = (
        ("Gives way first", _gives_way),
        ("Calls that succeeded", _succeeded),
        ("Most results a second", _best),
        ("Throughput stops growing", _knee),
        ("p95 one at a time", lambda flow: _p95(flow.stages[:1])),
        ("p95 at the highest load", lambda flow: _p95(flow.stages[-1:])),
        ("Most database connections", lambda flow: _connections(flow, report.max_connections)),
        ("Most calls waiting", lambda flow: _most(flow, "guard_waiting")),
        ("Longest event loop lag", lambda flow: words.seconds(_longest_lag(flow))),
    )
    return [(label, [told(flow) for flow in report.flows]) for label, told in rows]


def _gives_way(flow: FlowResult) -> str:
    return flow.dependency.strip() or ("nothing" if flow.verdict == "holds" else "not known")


def _succeeded(flow: FlowResult) -> str:
    succeeded, sent = (sum(getattr(stage, name) for stage in flow.stages) for name in ("succeeded", "requests"))
    if not sent:
        return "no calls"
    return f"{words.count(succeeded)} of {words.count(sent)} ({words.percent(succeeded, sent)})"


def _best(flow: FlowResult) -> str:
    best = max(flow.stages, key=lambda stage: stage.throughput_per_s, default=None)
    if best is None or not best.requests:
        return "no calls"
    return f"{words.number(best.throughput_per_s)}, with {words.load_words(best)}"


def _knee(flow: FlowResult) -> str:
    return "not reached" if flow.knee is None else f"above {flow.knee} calls at once"


def _p95(stages: tuple[Stage, ...]) -> str:
    sent = [stage for stage in stages if stage.requests]
    return f"{words.seconds(sent[0].latency.p95_s)}, with {words.load_words(sent[0])}" if sent else "no calls"


def _connections(flow: FlowResult, allowed: int | None) -> str:
    seen = [stage.connections for stage in flow.stages if stage.connections is not None]
    seen += [sample.connections for sample in flow.samples if sample.connections is not None]
    if not seen:
        return words.NOT_MEASURED
    return words.count(max(seen)) + ("" if allowed is None else f" of {words.count(allowed)} allowed")


def _most(flow: FlowResult, field: str) -> str:
    return words.count(
        max((seen for sample in flow.samples if (seen := getattr(sample, field)) is not None), default=None)
    )


def _longest_lag(flow: FlowResult) -> float | None:
    return max((sample.loop_lag_s for sample in flow.samples if sample.loop_lag_s is not None), default=None)


# --- stages


def _groups(flow: FlowResult) -> list[dict[str, Any]]:
    def row(label: str, told: Callable[[Stage], str]) -> Row:
        return label, [told(stage) for stage in flow.stages]

    def latency(label: str, of: str, field: str) -> Row:
        def told(stage: Stage) -> str:
            calls = stage.requests if of == "latency" else stage.succeeded
            return words.seconds(getattr(getattr(stage, of), field)) if calls else words.NO_CALLS

        return row(label, told)

    calls = [
        row("requests", lambda stage: words.count(stage.requests)),
        row("succeeded", lambda stage: words.count(stage.succeeded)),
        row("failed", lambda stage: words.count(stage.failed)),
        row("unsent", lambda stage: words.count(stage.unsent)),
        row("results/s", lambda stage: words.number(stage.throughput_per_s) if stage.requests else words.NO_CALLS),
        row("took", lambda stage: words.seconds(stage.seconds)),
        row("connections", lambda stage: words.count(stage.connections)),
    ]
    if any(stage.kind == "open loop" for stage in flow.stages):
        calls.insert(0, row("most at once", lambda stage: words.count(stage.concurrency)))
    percentiles = [("p50", "p50_s"), ("p90", "p90_s"), ("p95", "p95_s"), ("p99", "p99_s"), ("max", "max_s")]
    split = [
        row(name, lambda stage, field=field: words.seconds(getattr(stage.split, field)))  # type: ignore[misc]
        for field, name in words.SPLIT_PARTS
    ]
    return [
        {"title": "", "rows": calls},
        {
            "title": "Time of a call, failed ones included",
            "rows": [latency(name, "latency", field) for name, field in [("mean", "mean_s"), *percentiles]],
        },
        {
            "title": "Time of a call that succeeded",
            "rows": [latency(name, "success_latency", field) for name, field in percentiles],
        },
        {"title": "Where the time of a mean call went", "rows": split},
    ]


# --- errors


def _causes(flow: FlowResult) -> list[dict[str, Any]]:
    """Failed calls of all stages by cause, most frequent first."""
    found: dict[tuple[str, str], list[tuple[Stage, Cause]]] = {}
    for stage in flow.stages:
        for cause in stage.causes:
            found.setdefault((cause.code, cause.dependency), []).append((stage, cause))
    by_count = sorted(found.values(), key=lambda seen: -sum(cause.count for _, cause in seen))
    return [_cause(seen) for seen in by_count]


def _cause(seen: list[tuple[Stage, Cause]]) -> dict[str, Any]:
    first = seen[0][1]
    return {
        "text": first.text.strip() or "Nothing is known of this error.",
        "count": words.count(sum(cause.count for _, cause in seen)),
        "where": ", ".join(f"{words.count(cause.count)} with {words.load_words(stage)}" for stage, cause in seen),
        "dependency": words.dependency_name(first.dependency),
        "fix": first.fix.strip() or "not known",
        "by_load": {True: "yes", False: "no: it fails one at a time, too", None: "not known"}[first.is_load],
        "code": first.code,
        "example": first.example.strip(),
    }


# --- the run


def _settings(report: LoadReport) -> list[tuple[str, str]]:
    settings = [
        ("Server", report.target),
        ("Langflow", report.server or "version not told"),
        ("Started", report.started_at),
        ("Connections allowed", words.count(report.max_connections)),
    ]
    for flow in report.flows:
        plan = "; ".join(
            f"{words.load_words(stage)}: {words.count(stage.requests + stage.unsent)}" for stage in flow.stages
        )
        settings.append((words.short(words.flow_name(flow), _NAME_CHARS), f"calls planned: {plan or 'none'}"))
    return [*settings, ("Format of the report", str(FORMAT))]
