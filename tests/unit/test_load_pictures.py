"""The pictures of a load report: one PNG for a chat, charts as SVG for the page."""

from __future__ import annotations

import functools
import subprocess
import sys
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from langflow_sluice.load.charts import CHARTS
from langflow_sluice.load.page_sheet import DARK, LIGHT, sheet_for
from langflow_sluice.load.pictures import svg, write_png

from .. import load_reports as made  # noqa: TID252 - tests are not on the path

KINDS = {chart.key: chart for chart in CHARTS}
REPORTS = {
    "two flows": made.report(),
    "one flow": made.report(made.safe()),
    "no figures of the database, no guards": made.report(made.unmeasured(), max_connections=None),
    "all failed, nothing sent": made.report(made.all_failed(), made.nothing_sent(), max_connections=None),
    "one stage": made.report(made.one_stage()),
    "open loop": made.report(made.open_loop()),
    "many stages": made.report(made.many_stages(), max_connections=5000),
    "hostile": made.report(made.hostile(), made.safe()),
    "no flow": replace(made.report(), flows=()),
}


@functools.cache  # nothing that a test does changes a picture
def drawn(key: str, report, index: int = 0) -> ET.Element:
    return ET.fromstring(svg(KINDS[key], report, index, f"{key}{index}"))  # noqa: S314 - our own


def words(picture: ET.Element) -> list[str]:
    return [
        text for element in picture.iter() if element.tag.endswith("}text") and (text := "".join(element.itertext()))
    ]


def fills(picture: ET.Element) -> str:
    return " ".join(element.get("style", "") for element in picture.iter())


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_becomes_a_picture_as_large_as_a_screen(name, tmp_path) -> None:
    image = pytest.importorskip("PIL.Image")
    report = REPORTS[name]
    write_png(report, tmp_path / "load.png")
    with image.open(tmp_path / "load.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        width, height = picture.size
        assert width == 1560
        assert 100 <= height <= 1000 * max(len(report.flows), 1)
        if report.flows:
            # Ink of all kinds: letters, lines and bars have been drawn on the white.
            colours = picture.convert("RGB").getcolors(1 << 24)
            assert len(colours) > 50
            assert 0.7 < {colour: number for number, colour in colours}[255, 255, 255] / (width * height) < 0.995


def test_two_threads_draw_at_once(tmp_path) -> None:
    report = REPORTS["no flow"]
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(write_png, report, tmp_path / f"{number}.png") for number in range(2)]:
            future.result()
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()


def test_users_own_settings_of_matplotlib_change_nothing(tmp_path) -> None:
    import matplotlib as mpl

    report = REPORTS["one stage"]
    write_png(report, tmp_path / "before.png")
    with mpl.rc_context({"font.family": ["monospace"], "axes.grid": True, "lines.marker": "x", "axes.linewidth": 9}):
        write_png(report, tmp_path / "after.png")
        assert mpl.rcParams["font.family"] == ["monospace"]
    assert (tmp_path / "before.png").read_bytes() == (tmp_path / "after.png").read_bytes()


def test_drawing_uses_no_pyplot_and_importing_no_matplotlib() -> None:
    code = (
        "import sys, langflow_sluice.load.pictures, langflow_sluice.load.page as page;"
        "print(sorted({'matplotlib', 'jinja2'} & set(sys.modules)));"
        "from langflow_sluice.load.results import LoadReport;"
        "page._rendered(LoadReport('', '', '', None, (), ''));"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split("\n")[:2] == ["[]", "False"]


@pytest.mark.parametrize("name", REPORTS)
def test_every_chart_is_drawn_or_said_to_be_missing(name) -> None:
    report = REPORTS[name]
    for index, flow in enumerate(report.flows):
        for chart in CHARTS:
            if missing := chart.missing(flow):
                assert missing in {"not measured", "no calls"}
                continue
            picture = drawn(chart.key, report, index)
            assert picture.get("role") == "img"
            assert picture.get("aria-label") == chart.describe(flow, report.max_connections)
            assert words(picture)


def test_what_was_not_measured_is_no_chart_of_zeros() -> None:
    missing = {key for key, chart in KINDS.items() if chart.missing(made.unmeasured())}
    assert missing == {"connections", "guards", "split"}
    assert not any(chart.missing(made.safe()) for chart in CHARTS)
    assert KINDS["guards"].missing(made.unsafe()) == "not measured"


def test_all_colours_are_the_pages_own_and_follow_its_scheme() -> None:
    for key in KINDS:
        styles = fills(drawn(key, REPORTS["two flows"], 1))
        assert "var(--c-ink)" in styles
        assert "#fe" not in styles
        assert LIGHT["ink"] not in styles
    assert LIGHT.keys() == DARK.keys()


def test_ids_of_charts_on_one_page_do_not_clash() -> None:
    report = REPORTS["two flows"]
    pictures = [
        drawn(chart.key, report, index)
        for chart in CHARTS
        for index in (0, 1)
        if not chart.missing(report.flows[index])
    ]
    ids = [element.get("id") for picture in pictures for element in picture.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for picture in pictures:
        own = {element.get("id") for element in picture.iter()}
        used = [element.get("{http://www.w3.org/1999/xlink}href") for element in picture.iter()]
        assert {link[1:] for link in used if link} <= own


def test_both_flows_have_the_same_scale() -> None:
    report = REPORTS["two flows"]
    both = [[text for text in words(drawn("latency", report, index)) if text.endswith("\u00a0s")] for index in (0, 1)]
    assert both[0] == both[1]
    alone = words(drawn("latency", made.report(made.safe())))
    assert [text for text in alone if text.endswith("\u00a0s")] != both[1]


def test_the_knee_is_marked_where_it_was_reached() -> None:
    assert "knee: 5" in words(drawn("throughput", REPORTS["two flows"], 0))
    assert "knee: 20" in words(drawn("throughput", REPORTS["many stages"])), "between two stages"
    assert not any("knee" in text for text in words(drawn("throughput", REPORTS["one stage"])))


def test_failed_calls_are_told_apart_by_dependency() -> None:
    picture = drawn("outcomes", REPORTS["two flows"])
    assert {"succeeded", "failed: database", "failed: provider", "failed: unknown"} <= set(words(picture))
    assert {"67\u00a0%", "31\u00a0%"} <= set(words(picture))
    for colour in ("ok", "database", "provider", "unknown"):
        assert f"fill: var(--c-{colour})" in fills(picture)


def test_a_dependency_has_a_colour_of_its_own() -> None:
    causes = [
        replace(made.STRANGE, dependency=name) for name in ("PostgreSQL", "SQLAlchemy's pool", "database", "Redis")
    ]
    flow = replace(made.one_stage(), stages=(made.stage(5, 20, 1.0, *causes),))
    given = sheet_for(made.report(flow), LIGHT, 10, 10).colours_of_dependencies()
    assert given["database"] == LIGHT["database"]
    assert len(set(given.values())) == 4


def test_the_limit_of_connections_is_drawn_unless_it_is_far_above() -> None:
    assert "97 allowed" in words(drawn("connections", REPORTS["two flows"]))
    far = words(drawn("connections", REPORTS["many stages"]))
    assert "allowed: 5000, far above" in far
    assert "5000" not in far, "the scale stays with what was seen"


def test_open_loop_stages_have_rates_on_their_axis() -> None:
    texts = words(drawn("throughput", REPORTS["open loop"]))
    assert {"0.5/s", "2/s", "7.5/s", "calls started a second; 1: one at a time"} <= set(texts)


def test_a_rest_that_cannot_be_divided_is_not_called_langflows() -> None:
    flow = replace(made.one_stage(), stages=(made.stage(5, 20, 1.0, split=(0.2, None, 0.1, None)),))
    texts = words(drawn("split", made.report(flow)))
    assert {"queue", "database", "not divided", "not measured: provider, Langflow"} <= set(texts)
    assert "Langflow" not in texts
    assert "1.20\u00a0s" in texts, "the bar is as high as the mean call is long"


def test_a_dollar_is_no_formula_and_a_foreign_letter_no_warning() -> None:
    texts = words(drawn("outcomes", REPORTS["hostile"]))
    assert "failed: □" in texts
    assert any(text.startswith("failed: <script>") for text in texts)
