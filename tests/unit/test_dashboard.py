"""The Grafana dashboard as it is shipped: well-formed, complete in itself, and written where somebody wants it."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from langflow_sluice.metrics.dashboard import dashboard, dashboard_json

if TYPE_CHECKING:
    from pathlib import Path

BOARD: dict[str, Any] = json.loads(dashboard_json())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
PAIRS = {")": "(", "]": "[", "}": "{"}

app = typer.Typer()
app.command()(dashboard)


def inside(text: str, call: str) -> list[str]:
    """What stands between the brackets of each call of a function."""
    found = []
    for match in re.finditer(rf"\b{call} ?\(", text):
        depth, start = 1, match.end()
        for place in range(start, len(text)):
            depth += {"(": 1, ")": -1}.get(text[place], 0)
            if not depth:
                found.append(text[start:place])
                break
    return found


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_a_query_is_well_formed(title: str, query: str) -> None:  # noqa: ARG001 - names the case
    bare = re.sub(r'"[^"]*"', '""', query)
    assert '"' not in bare.replace('""', "")
    stack: list[str] = []
    for character in bare:
        if character in PAIRS.values():
            stack.append(character)
        elif character in PAIRS:
            assert stack
            assert stack.pop() == PAIRS[character]
    assert stack == []
    assert not re.search(r"\bby [^(]|\(\)|,,|, ?[)}]", bare)


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_rates_are_of_what_only_grows_and_nothing_else_is(title: str, query: str) -> None:  # noqa: ARG001
    growing = r"sluice_\w+_(?:total|bucket|sum|count)"
    rates = inside(query, "rate") + inside(query, "increase")
    for inner in rates:
        assert re.fullmatch(growing + r"\{[^}]*\}\[\$__rate_interval\]", inner)
    assert len(re.findall(rf"\b{growing}\b", query)) == len(rates)


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_a_quantile_has_the_bounds_to_go_by(title: str, query: str) -> None:  # noqa: ARG001
    for inner in inside(query, "histogram_quantile"):
        quantile, _, vector = inner.partition(", ")
        assert 0 < float(quantile) < 1
        assert all("le" in re.split(r", ?", labels) for labels in inside(vector, "by"))
        assert "_bucket{" in vector


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_workers_are_told_apart_before_they_are_summed(title: str, query: str) -> None:  # noqa: ARG001
    # Every endpoint tells of all processes: scraped at two, a plain sum would count each of them twice.
    for summed in re.findall(r"\bsum(?: by \([^)]*\))? \((.*?)(?: |$)|\bsum\((\w+ by) ", query):
        assert "".join(summed).startswith("max")
    assert all("worker=~" in selector for selector in re.findall(r"sluice_\w+\{([^}]*)\}", query))


def test_what_a_query_refers_to_is_a_variable_of_the_dashboard() -> None:
    names = {variable["name"] for variable in BOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", dashboard_json())) - {"__rate_interval", "__all"}
    assert used == names == {"datasource", "guard", "worker"}
    [source] = [variable for variable in BOARD["templating"]["list"] if variable["name"] == "datasource"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")


def test_a_legend_names_labels_that_its_query_keeps() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            kept = set(re.findall(r"\w+", "".join(inside(target["expr"], "by")[:1])))
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, panel["title"]


def test_panels_lie_beside_each_other() -> None:
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, two in combinations(places, 2):
        beside = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]
    assert set(Counter(panel["id"] for panel in BOARD["panels"]).values()) == {1}
    assert all(panel["description"] for panel in PANELS)


def test_every_query_asks_the_data_source_that_was_chosen() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_command_prints_it_or_writes_it(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, []).output == dashboard_json()
    file = tmp_path / "sluice.json"
    assert CliRunner().invoke(app, [str(file)]).exit_code == 0
    assert file.read_text("utf-8") == dashboard_json()


def test_a_file_that_is_there_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "sluice.json"
    file.write_text("mine")
    refused = CliRunner().invoke(app, [str(file)])
    assert (refused.exit_code, file.read_text()) == (2, "mine")
    assert "--force" in refused.output
    assert CliRunner().invoke(app, [str(file), "--force"]).exit_code == 0
    assert json.loads(file.read_text("utf-8")) == BOARD
    missing = CliRunner().invoke(app, [str(tmp_path / "none" / "sluice.json")])
    assert missing.exit_code == 2
    assert "Traceback" not in missing.output
