"""Rows in and rows out."""

import warnings

import pytest

from langflow_sluice.errors import InvalidInput, NoResult
from langflow_sluice.nodes.texts import texts_of
from langflow_sluice.sections.fan_out import Outcome, error_text
from langflow_sluice.sections.rows import (
    ATTEMPTS,
    BUSY_NOTE,
    ERROR,
    RESULT,
    ROW,
    Rows,
    done_rows,
    failed_rows,
    kept,
    table_of,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing lfx warns of its own dependencies
    import numpy as np
    import pandas as pd
    from lfx.schema.data import Data
    from lfx.schema.dataframe import DataFrame
    from lfx.schema.message import Message


def done(index, value):
    return Outcome(index, kept(value), None, 1)


def failed(index, error, attempts=1):
    return Outcome(index, None, error_text(error), attempts)


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


@pytest.mark.parametrize("wrong", ["text", 42, b"text", [Data(data={}), "text"]])
def test_what_holds_no_rows_is_refused_by_its_type(wrong):
    with pytest.raises(InvalidInput, match=r"data is '(str|int|bytes)'.*Table"):
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


def test_any_iterable_of_rows_is_taken_and_plain_fields_and_plain_tables_too():
    rows = Rows(iter([{"a": 1}, (Data(data={"a": 2}),), pd.DataFrame([{"a": 3}])]))
    assert fields(rows) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert fields(rows) == fields(rows)


def test_a_json_that_holds_a_list_is_one_row():
    assert len(Rows(Data(data={"items": [1, 2, 3]}))) == 1


def test_two_columns_of_one_name_are_refused_before_one_of_them_is_lost():
    table = DataFrame(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(InvalidInput, match=r"data is 'a'.*two columns.*Rename"):
        Rows(table)
    with pytest.raises(InvalidInput, match=r"data is '1'.*two columns"):
        Rows(DataFrame(pd.DataFrame([[1, 2]], columns=[1, "1"])))


def test_columns_that_are_no_text_get_a_name():
    assert fields(Rows(DataFrame(pd.DataFrame([[1, 2]])))) == [{"0": 1, "1": 2}]


def test_numpys_values_become_pythons_and_nan_no_value():
    table = pd.DataFrame(
        {
            "i": [np.int64(1), np.int64(2)],
            "f": [1.5, np.nan],
            "o": pd.Series([np.float32(0.5), np.bool_(1)], dtype=object),
            "t": pd.to_datetime(["2026-01-01", None]),
            "n": pd.Series([1, None], dtype="Int64"),
            "l": [[1, np.nan], {"deep": 1}],
        }
    )
    first, second = fields(Rows(DataFrame(table)))
    assert (first["i"], first["f"], first["o"], first["n"]) == (1, 1.5, 0.5, 1)
    assert [type(first[name]) for name in "ifon"] == [int, float, float, int]
    assert (second["f"], second["t"], second["n"]) == (None, None, None)
    assert second["o"] is True
    assert first["t"] == pd.Timestamp("2026-01-01")
    assert second["l"] == {"deep": 1}


def test_a_table_keeps_its_values_as_they_are():
    records = [{"i": 1, "f": 1.5, "s": "x", "m": 1}, {"i": None, "f": None, "s": None, "m": 2.5}, {"late": [1]}]
    table = table_of(records)
    assert table["i"].tolist() == [1, None, None]
    assert type(table["i"][0]) is int
    assert table["f"].dtype == float
    assert table["m"].tolist() == [1, 2.5, None]
    assert table["late"].tolist() == [None, None, [1]]
    whole = table_of([{"i": 1, "b": True}, {"i": 2, "b": False}])
    assert (whole["i"].dtype, whole["b"].dtype) == (np.dtype("int64"), np.dtype("bool"))


def test_failed_rows_survive_a_table_and_come_back_as_they_were():
    whole = [{"i": 1, "s": None, "l": {"a": [1]}}, {"i": None, "s": "x", "l": None}]
    rows = Rows([Data(data=each) for each in whole])
    table = table_of(failed_rows(rows, [failed(0, ValueError("no")), failed(1, ValueError("no"))]))
    assert fields(Rows(table)) == whole
    assert [type(row["i"]) for row in fields(Rows(table))] == [int, type(None)]


def test_a_table_without_rows_has_its_columns():
    assert list(table_of([], ["a", ERROR]).columns) == ["a", ERROR]
    assert list(table_of([{"b": 1}], ["a"]).columns) == ["a", "b"]


def test_the_text_column_is_handed_on():
    rows = Rows([Data(data={"body": "x"}, text_key="body"), Data(data={"body": "y"}, text_key="body")])
    assert rows.text_key == "body"
    assert table_of([{"body": "x"}], text_key=rows.text_key).text_key == "body"
    assert Rows([Data(data={"body": "x"}, text_key="body"), Message(text="y")]).text_key == "text"


def test_a_text_result_does_not_cover_a_column_of_the_row():
    rows = Rows(DataFrame([{"result": "first", "result_2": "second"}]))
    name = rows.free_name(RESULT)
    assert name == "result_3"
    assert done_rows(rows, [Outcome(0, kept(Message(text="third"), name), None, 1)]) == [
        {"result": "first", "result_2": "second", "result_3": "third"}
    ]


def test_a_list_of_results_is_a_table_of_them_and_an_empty_one_does_not_swallow_its_row():
    rows = Rows([Data(data={"a": number}) for number in range(3)])
    hits = [Data(data={"hit": 1}), Data(data={"hit": 2})]
    assert done_rows(rows, [done(0, hits), done(1, DataFrame()), done(2, [1, 2])]) == [
        {"a": 0, "hit": 1},
        {"a": 0, "hit": 2},
        {"a": 1},
        {"a": 2, RESULT: [1, 2]},
    ]


def test_of_a_result_only_fields_are_kept():
    assert kept(Message(text="hi", session_id="s")) == [{RESULT: "hi"}]
    assert kept(None) == [{RESULT: None}]
    assert kept(Data(data={"n": np.int64(3)})) == [{"n": 3}]
    assert type(kept(np.float64(0.5))[0][RESULT]) is float


def test_the_note_of_a_gate_is_taken_off_a_row_too():
    busy = Data(data={"a": 1, BUSY_NOTE: {"code": "bulkhead_full"}})
    assert fields(Rows(busy)) == [{"a": 1}]
    assert Rows(busy).columns == ["a"]


def test_nested_frames_of_langflow_are_all_taken_off_an_error():
    framed = "Error building Component Gate: \n\nError building Component Model: \n\nthe service said no"
    assert error_text(ValueError(framed)) == "the service said no"
    assert error_text(ValueError("Error building Component Model: \n\n")) == "Error building Component Model:"


def test_texts_come_with_the_other_fields_as_their_metadata():
    table = DataFrame([{"text": "one", "page": 1}])
    json = Data(data={"body": "two", "page": 2}, text_key="body")
    assert texts_of([table, json, Message(text="three")]) == [("one", {"page": 1}), ("two", {"page": 2}), ("three", {})]


@pytest.mark.parametrize("row", [{"page": 1, "title": "x"}, {"text": None, "page": 1}])
def test_a_row_without_a_text_is_refused_by_its_place_and_fields(row):
    with pytest.raises(InvalidInput, match=r"no text in row 1; its fields are page"):
        texts_of([Message(text="fine"), Data(data=row)])
