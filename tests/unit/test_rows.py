"""Rows in and rows out."""

import warnings

import pytest

from langflow_sluice.errors import InvalidInput, NoResult
from langflow_sluice.nodes.texts import texts_of
from langflow_sluice.sections.fan_out import Outcome
from langflow_sluice.sections.rows import ATTEMPTS, ERROR, RESULT, ROW, Rows, done_rows, failed_rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing lfx warns of its own dependencies
    from lfx.schema.data import Data
    from lfx.schema.dataframe import DataFrame
    from lfx.schema.message import Message


def done(index, value):
    return Outcome(index, value, None, 1)


def failed(index, error, attempts=1):
    return Outcome(index, None, error, attempts)


def fields(rows):
    return [row.data for row in rows]


def test_each_row_of_a_table_is_one_row_with_plain_values():
    rows = Rows(DataFrame([{"name": "a", "n": 1}, {"name": "b", "n": 2}]))
    assert len(rows) == 2
    assert fields(rows) == [{"name": "a", "n": 1}, {"name": "b", "n": 2}]
    assert all(type(row) is Data and type(row.data["n"]) is int for row in rows)


def test_tables_json_and_messages_may_be_mixed_and_nested():
    message = Message(text="hello")
    json = Data(data={"k": 1})
    rows = Rows([DataFrame([{"a": 1}]), [json, (message,)], None])
    assert len(rows) == 3
    made = list(rows)
    assert made[0].data == {"a": 1}
    assert made[1] is json
    assert made[2] is message


def test_rows_can_be_gone_through_more_than_once():
    rows = Rows(DataFrame([{"a": 1}, {"a": 2}]))
    assert fields(rows) == fields(rows)


@pytest.mark.parametrize("nothing", [None, [], DataFrame()])
def test_nothing_is_no_rows(nothing):
    rows = Rows(nothing)
    assert (len(rows), list(rows)) == (0, [])
    assert done_rows(rows, []) == failed_rows(rows, []) == []


@pytest.mark.parametrize("wrong", ["text", 42, {"a": 1}, [Data(data={}), "text"]])
def test_what_holds_no_rows_is_refused_by_its_type(wrong):
    with pytest.raises(InvalidInput, match=r"data is '(str|int|dict)'.*Table"):
        Rows(wrong)


def test_failed_rows_come_back_in_without_the_notes_of_the_first_try():
    rows = Rows(DataFrame([{"a": 1}, {"a": 2}]))
    table = failed_rows(rows, [failed(1, ValueError("no"), attempts=3)])
    assert table == [{"a": 2, ROW: 1, ERROR: "no", ATTEMPTS: 3}]
    assert fields(Rows(DataFrame(table))) == [{"a": 2}]
    assert fields(Rows(Data(data=table[0]))) == [{"a": 2}]


def test_the_column_that_holds_the_text_is_not_forgotten():
    noted = Data(data={"body": "words", ROW: 1}, text_key="body")
    table = DataFrame([{"body": "words"}])
    table.text_key = "body"
    assert [row.get_text() for row in Rows([noted, table])] == ["words", "words"]


def test_results_stand_beside_the_fields_of_their_row_in_the_order_of_the_input():
    rows = Rows(DataFrame([{"a": 1}, {"a": 2}, {"a": 3}]))
    outcomes = [done(2, Data(data={"b": "z"})), done(0, Data(data={"b": "x"})), failed(1, ValueError())]
    assert done_rows(rows, outcomes) == [{"a": 1, "b": "x"}, {"a": 3, "b": "z"}]


def test_every_kind_of_result_becomes_fields():
    rows = Rows([Data(data={"a": number}) for number in range(4)])
    table = DataFrame([{"b": 1}, {"b": 2}])
    outcomes = [done(0, Message(text="hi")), done(1, table), done(2, 42), done(3, Data(data={"a": "new"}))]
    assert done_rows(rows, outcomes) == [
        {"a": 0, RESULT: "hi"},
        {"a": 1, "b": 1},
        {"a": 1, "b": 2},
        {"a": 2, RESULT: 42},
        {"a": "new"},
    ]


def test_of_a_message_only_the_text_is_kept():
    rows = Rows([Message(text="hello", sender="User", session_id="s")])
    assert done_rows(rows, [done(0, Data(data={"b": 1}))]) == [{"text": "hello", "b": 1}]


def test_rows_that_were_never_run_are_in_neither_table():
    rows = Rows([Data(data={"a": number}) for number in range(3)])
    outcomes = [done(0, 1), failed(2, NoResult("Nothing came."))]
    assert [row["a"] for row in done_rows(rows, outcomes)] == [0]
    assert failed_rows(rows, outcomes) == [{"a": 2, ROW: 2, ERROR: "Nothing came.", ATTEMPTS: 1}]


def test_an_error_is_one_line_without_langflows_frame_and_never_empty():
    rows = Rows([Data(data={}) for _ in range(3)])
    framed = ValueError("Error building Component Model: \n\nthe service\nsaid no")
    table = failed_rows(rows, [failed(0, framed), failed(1, KeyError()), failed(2, ValueError("a\nb"))])
    assert [row[ERROR] for row in table] == ["the service said no", "KeyError", "a b"]


def test_texts_come_with_the_other_fields_as_their_metadata():
    table = DataFrame([{"text": "one", "page": 1}])
    json = Data(data={"body": "two", "page": 2}, text_key="body")
    assert texts_of([table, json, Message(text="three")]) == [("one", {"page": 1}), ("two", {"page": 2}), ("three", {})]


@pytest.mark.parametrize("row", [{"page": 1, "title": "x"}, {"text": None, "page": 1}])
def test_a_row_without_a_text_is_refused_by_its_place_and_fields(row):
    with pytest.raises(InvalidInput, match=r"no text in row 1; its fields are page"):
        texts_of([Message(text="fine"), Data(data=row)])
