"""The report as it is read in a chat: text, table and picture."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

from PIL import Image

from langflow_sluice.gauge.bars import MOST_BARS, as_table, bars_of
from langflow_sluice.gauge.picture import draw
from langflow_sluice.gauge.postgres_rows import COLUMNS, postgres_rows
from langflow_sluice.gauge.reading import NO_DATABASE, Reading
from langflow_sluice.gauge.report import CALM, written

from .gauge_readings import LABEL, NOW, client, database, group, guard, pool, process, reading, session

if TYPE_CHECKING:
    import pytest

# What a user may name a guard: Markdown, mathematics, letters that the font does not have.
ODD = "a|b `c` $x^2$ **d** 雪\n# e"


def test_a_calm_deployment_is_said_to_be_calm() -> None:
    text = written(reading(process(guard(in_flight=2))), now=NOW)
    assert text.startswith(f"**{CALM}**")
    assert "| guard | `crm` | 2 of 8 | 0 | ███░░░░░░░ |" in text
    assert "Seen: 1 worker." in text


def test_a_deployment_that_was_never_used_is_calm_too() -> None:
    assert "No guard, pool or client has been used" in written(reading(process()), now=NOW)


def test_the_worst_is_in_the_headline_and_every_line_ends_with_what_to_change() -> None:
    busy = process(guard(in_flight=8, waiting=3), guard("erp", in_flight=8, waiting=1), pool(turned_away=1))
    text = written(reading(busy), now=NOW)
    assert text.startswith("**Under pressure: Guard `crm`, and 1 more.**")
    assert "1. Guard `crm`: 3 waiting" in text
    assert "**Raise max_concurrency: the provider has not refused anything.**" in text
    assert "For the record:\n\n- Connection pool" in text


def test_what_was_not_seen_is_said() -> None:
    old = process(worker="host:2", told_at=NOW - 7)
    text = written(Reading((process(), old), None, (NO_DATABASE,)), now=NOW)
    assert "Seen: 2 workers, told within the last 7 s." in text
    assert text.endswith(NO_DATABASE)


def test_connections_are_told_by_state() -> None:
    text = written(reading(process(), database=database(group(4, "idle"), group(1))), now=NOW)
    assert "4 idle, 1 active (one of them this gauge's); `anna` could open 92 more" in text


def test_a_name_cannot_break_the_table() -> None:
    [row] = [line for line in as_table(bars_of(reading(process(guard(ODD))))).splitlines() if "guard" in line]
    assert row.count("|") == 6
    assert "`a/b 'c' $x^2$ **d** 雪 # e`" in row


def test_many_resources_are_cut_to_the_fullest() -> None:
    many = [guard(f"guard {number}", in_flight=number % 8, limit=8) for number in range(30)]
    bars = bars_of(reading(process(*many)))
    assert [bar.used for bar in bars] == sorted((bar.used for bar in bars), reverse=True)
    table = as_table(bars)
    assert len(table.splitlines()) == MOST_BARS + 3
    assert "and 18 more" in table


def test_a_thousand_things_under_pressure_fit_into_a_chat() -> None:
    many = [guard(f"guard {number}", in_flight=8, waiting=1) for number in range(1000)]
    text = written(reading(process(*many)), now=NOW)
    assert "990 more of that kind." in text
    assert len(text) < 5000


def test_the_picture_is_one_whatever_the_names(recwarn: pytest.WarningsRecorder) -> None:
    parts = [guard(ODD, in_flight=8, waiting=100), pool(checked_out=10), client()]
    seen = reading(process(*parts), database=database(group(5, "idle"), group(2, ODD)))
    pictures: list[bytes] = []
    bars, states = bars_of(seen), database(group(5, "idle"), group(2, ODD)).by_state()
    threads = [threading.Thread(target=lambda: pictures.append(draw(bars, states, 97))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pictures)) == 1
    assert len(pictures[0]) < 30_000
    with Image.open(io.BytesIO(pictures[0])) as picture:
        assert picture.format == "PNG"
        assert picture.width == 880
    assert not recwarn.list


def test_there_is_a_picture_where_there_is_nothing_to_draw() -> None:
    assert draw([], {}, 0).startswith(b"\x89PNG")


class TestPostgresTable:
    def test_without_a_database_it_says_so(self) -> None:
        [row] = postgres_rows(reading(process()))
        assert (row["what"], row["name"]) == ("note", NO_DATABASE)
        assert tuple(row) == COLUMNS

    def test_a_database_that_does_not_answer_is_a_row(self) -> None:
        [row] = postgres_rows(reading(process(), database=database(problem="It is away.", fix="Start it.")))
        assert (row["what"], row["name"]) == ("problem", "It is away. Start it.")

    def test_each_kind_of_row_is_there(self) -> None:
        seen = database(
            group(3, "idle"),
            group(2, "hidden", user="ben"),
            session(7, "active", 20.0, 8),
            session(8, "idle in transaction", 70.0),
            sees_all=False,
        )
        rows = postgres_rows(reading(process(), database=seen))
        counted = {(row["what"], row["name"]): row["count"] for row in rows}
        assert counted["connections", "in use"] == 5
        assert counted["connections", "free"] == 92
        assert counted["state", "idle"] == 3
        assert [row["what"] for row in rows if row["pid"] == 7] == ["long-running", "blocked"]
        assert [row["blocked_by"] for row in rows if row["what"] == "blocked"] == ["8"]
        assert [row["pid"] for row in rows if row["what"] == "idle in transaction"] == [8]
        assert "GRANT pg_monitor TO anna" in rows[-1]["name"]
        assert {row["database"] for row in rows if row["what"] == "connections"} == {LABEL}
