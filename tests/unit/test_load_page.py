"""The page of a load report, as a parser reads it."""

from __future__ import annotations

import base64
import functools
import json
from dataclasses import replace

import pytest
from bs4 import BeautifulSoup

from langflow_sluice.load.page import write_page

from .. import load_reports as made  # noqa: TID252 - tests are not on the path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Writes a report and reads the page; each but once, for no test changes it."""
    path = tmp_path_factory.mktemp("page") / "load.html"

    @functools.cache
    def read(report) -> BeautifulSoup:
        write_page(report, path)
        return BeautifulSoup(path.read_text("utf-8"), "html.parser")

    return read


def said(element) -> str:
    return " ".join(element.get_text(" ").split())


def rows(table) -> dict[str, list[str]]:
    """Cells by the heading of their row; of several rows of one name the first one."""
    found: dict[str, list[str]] = {}
    for row in table.select("tbody tr"):
        head = row.find("th")
        found.setdefault(said(head), [said(cell) for cell in row.find_all("td")])
    return found


def groups(table) -> dict[str, dict[str, list[str]]]:
    """Rows of each body of a table, by its heading."""
    return {
        said(body.select_one(".group")) if body.select_one(".group") else "": {
            said(row.find("th")): [said(cell) for cell in row.find_all("td")] for row in body.find_all("tr")
        }
        for body in table.find_all("tbody")
    }


def causes(soup, number: int = 1) -> list[dict[str, str]]:
    return [
        {"text": said(each.h4), "example": each.pre.get_text() if each.pre else ""}
        | {said(term): said(term.find_next_sibling("dd")) for term in each.find_all("dt")}
        for each in soup.select(f"#errors-{number} .cause")
    ]


def test_the_verdict_on_each_flow_comes_first_and_in_words(page) -> None:
    soup = page(made.report())
    assert said(soup.h1) == (
        "RAG with stock nodes (unsafe twin) has a scaling problem (database); RAG with pooled Postgres holds"
    )
    assert soup.title.string.endswith(said(soup.h1))
    first, second = soup.select(".verdict")
    assert said(first.select_one(".badge")) == "▲ scaling problem"
    assert said(second.select_one(".badge")) == "✓ holds"
    assert "Replace the PGVector node by Pooled PG Retriever" in said(first)
    assert said(soup.select_one("#comparison")).startswith("With 50 calls at once the first flow loses 82 of 120")
    assert soup.main.find("h2").string == "Verdict"


def test_two_flows_stand_side_by_side(page) -> None:
    soup = page(made.report())
    table = rows(soup.select_one("#figures"))
    assert table["Calls that succeeded"] == ["152 of 260 (58 %)", "260 of 260 (100 %)"]
    assert table["Gives way first"] == ["database", "nothing"]
    assert table["Throughput stops growing"] == ["above 5 calls at once", "above 20 calls at once"]
    assert table["Most database connections"] == ["97 of 97 allowed", "18 of 97 allowed"]
    assert table["Most calls waiting"] == ["not measured", "42"]
    assert [len(card.select("figure")) for card in soup.select(".chart")] == [2] * 6


def test_one_flow_stands_alone(page) -> None:
    soup = page(made.report(made.safe()))
    assert soup.select_one("#comparison") is None
    assert all(len(values) == 1 for values in rows(soup.select_one("#figures")).values())
    assert [len(card.select("figure")) for card in soup.select(".chart")] == [1] * 6
    assert not soup.select("figcaption")


def test_the_table_of_stages_has_every_figure(page) -> None:
    table = page(made.report()).select_one("#stages-1")
    assert [said(head) for head in table.select("thead th")] == ["calls at once", "1", "5", "20", "50"]
    counts, whole, good, split = groups(table).values()
    assert counts["requests"] == ["20", "40", "80", "120"]
    assert counts["succeeded"] == ["20", "40", "54", "38"]
    assert counts["failed"] == ["0", "0", "26", "82"]
    assert counts["unsent"] == ["0", "0", "0", "30"]
    assert counts["results/s"] == ["1.3", "5.1", "3.9", "2.4"]
    assert counts["connections"] == ["12", "41", "97", "97"]
    assert list(whole)[1:] == ["mean", "p50", "p90", "p95", "p99", "max"]
    assert whole["p50"] == ["620 ms", "810 ms", "2.90 s", "5.40 s"]
    assert whole["max"][3] == "31.6 s"
    assert good["p95"][0] == "790 ms"
    assert list(split)[1:] == ["queue", "provider", "database", "Langflow"]
    assert split["database"] == ["74 ms", "97 ms", "348 ms", "648 ms"]


def test_what_was_not_measured_is_said_and_never_a_zero(page) -> None:
    soup = page(made.report(made.unmeasured(), max_connections=None))
    counts, _, _, split = groups(soup.select_one("#stages-1")).values()
    nothing = ["not measured"] * 4
    assert counts["connections"] == nothing
    assert [split[name] for name in ("queue", "provider", "database", "Langflow")] == [nothing] * 4
    figures = rows(soup.select_one("#figures"))
    for name in ("Most database connections", "Most calls waiting", "Longest event loop lag"):
        assert figures[name] == ["not measured"]
    assert [said(each) for each in soup.select("figure .missing")] == ["not measured"] * 3
    assert "Connections allowed not measured" in said(soup.select_one("#settings"))


def test_a_measured_zero_stays_a_zero(page) -> None:
    soup = page(made.report())
    assert groups(soup.select_one("#stages-1"))["Where the time of a mean call went"]["queue"] == ["0 s"] * 4


def test_errors_are_grouped_by_cause_with_dependency_fix_count_and_example(page) -> None:
    soup = page(made.report())
    found = causes(soup)
    assert [each["Failed calls"].split(" ")[0] for each in found] == ["103", "4", "1"]
    worst = found[0]
    assert worst["Failed calls"] == "103 (22 with 20 calls at once, 81 with 50 calls at once)"
    assert worst["Dependency"] == "database"
    assert worst["What to change"] == made.NO_CONNECTION.fix
    assert worst["Brought about by load"] == "yes"
    assert worst["example"] == made.NO_CONNECTION.example
    assert found[2]["Dependency"] == "unknown"
    assert found[2]["What to change"] == "not known"
    assert said(soup.select_one("#errors-2")).endswith("No call failed.")


def test_failed_calls_without_a_cause_are_not_forgotten(page) -> None:
    lost = replace(made.stage(5, 20, 1.0), succeeded=17)
    soup = page(made.report(replace(made.one_stage(), stages=(lost,))))
    assert said(soup.select_one("#errors-1")).endswith("3 calls failed of which no cause is told.")


def test_a_flow_that_always_fails_has_no_latency_of_success(page) -> None:
    soup = page(made.report(made.all_failed(), max_connections=None))
    assert said(soup.select_one(".badge")) == "✕ bug: fails one at a time, too"
    table = groups(soup.select_one("#stages-1"))
    assert table["Time of a call that succeeded"]["p50"] == ["none", "none"]
    assert table["Time of a call, failed ones included"]["p50"] == ["50 ms", "50 ms"]
    assert rows(soup.select_one("#figures"))["Calls that succeeded"] == ["0 of 10 (0 %)"]


def test_a_run_without_calls_has_no_figures(page) -> None:
    soup = page(made.report(made.nothing_sent()))
    assert said(soup.h1) == "Nothing sent gave no answer"
    figures = rows(soup.select_one("#figures"))
    assert figures["Calls that succeeded"] == ["no calls"]
    assert figures["p95 one at a time"] == ["no calls"]
    assert figures["Gives way first"] == ["not known"]
    assert groups(soup.select_one("#stages-1"))[""]["unsent"] == ["20"]
    assert said(soup.select_one("#errors-1")).endswith("No call was sent.")


def test_open_loop_stages_are_headed_by_their_rates(page) -> None:
    table = page(made.report(made.open_loop())).select_one("#stages-1")
    assert [said(head) for head in table.select("thead th")][2:] == ["0.5/s", "2/s", "7.5/s"]
    assert groups(table)[""]["most at once"] == ["1", "2", "3", "51"]


def test_texts_of_the_server_stay_texts(page) -> None:
    flow = made.hostile()
    soup = page(replace(made.report(flow), target="<img src=x>", server="<b>", comparison="<script>1</script>"))
    assert soup.find("script") is None
    assert soup.find("img") is None
    assert soup.find("b") is None
    assert not any(name.startswith("on") for element in soup.find_all() for name in element.attrs)
    assert said(soup.select_one(".verdict h3")) == flow.flow
    first = causes(soup)[0]
    assert first["text"] == flow.stages[1].causes[0].text
    assert first["example"] == flow.stages[1].causes[0].example
    assert "{{ 7 * 7 }}" in first["text"], "nor are they templates"


def test_the_page_may_not_ask_any_network_and_asks_none(page) -> None:
    soup = page(made.report())
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    for element in soup.find_all():
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            assert element.get(name, "#").startswith(("#", "data:")), element
    assert "@import" not in soup.style.string
    assert "url(" not in soup.style.string


def test_every_chart_has_its_words(page) -> None:
    pictures = page(made.report()).select("figure svg")
    assert len(pictures) == 11
    told = [picture["aria-label"] for picture in pictures]
    assert told[0] == (
        "Results a second. With one call at a time: 1.3 a second. With 5 calls at once: 5.1 a second. With 20 calls at"
        " once: 3.9 a second. With 50 calls at once: 2.4 a second. Throughput no longer grows above 5 calls at once."
    )
    assert any("54 of 80 succeeded, 22 failed (database), 4 failed (provider)" in each for each in told)
    assert "Connections to the database over time: from 14 to 97, of 97 allowed." in told
    assert len(set(told)) == 11


def test_ids_are_given_once(page) -> None:
    ids = [element["id"] for element in page(made.report()).find_all(id=True)]
    assert len(ids) == len(set(ids))


def test_all_figures_can_be_taken_along(page) -> None:
    report = made.report(made.hostile(), made.unmeasured())
    link = page(report).select_one("#data")
    kind, data = link["href"].split(",", 1)
    assert kind == "data:application/json;base64"
    assert link["download"].endswith(".json")
    assert json.loads(base64.b64decode(data)) == json.loads(json.dumps(report.to_dict()))
