from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langflow_sluice.errors import InvalidInput
from langflow_sluice.postgres.conditions import conditions
from langflow_sluice.postgres.filters import (
    MAX_DEPTH,
    MAX_VALUES,
    Comparison,
    Condition,
    Filter,
    Junction,
    Negation,
    read_filter,
)
from langflow_sluice.postgres.layout import Layout, MetadataColumn

OWN = Layout("own", '"public"."docs"', "vector", 3, '"public"')
OPERATORS = ["$eq", "$ne", "$lt", "$lte", "$gt", "$gte", "$in", "$nin", "$between", "$exists", "$like", "$contains"]


def condition(given_: Any) -> Condition:
    found = read_filter(given_)
    assert found is not None
    return found.condition


def table(**columns: str) -> Layout:
    metadata = tuple(MetadataColumn(name, type_) for name, type_ in columns.items())
    return Layout("table", '"public"."t"', "vector", 3, '"public"', metadata=metadata)


def sql(given_: Any, layout: Layout = OWN) -> tuple[str, list[Any]]:
    found = read_filter(given_)
    assert found is not None
    text, values = conditions(found, layout)
    return text, list(values.values())


@pytest.mark.parametrize("nothing", [None, {}, "", "  ", "{}", {"": ""}])
def test_nothing_lets_all_rows_pass(nothing: Any) -> None:
    assert read_filter(nothing) is None


class TestReading:
    def test_a_plain_value_is_equality_and_several_are_all(self) -> None:
        assert condition({"a": 1}) == Comparison(("a",), "in", (1,))
        assert condition({"a": 1, "b": None}) == Junction(
            "and", (Comparison(("a",), "in", (1,)), Comparison(("b",), "in", (None,)))
        )

    @pytest.mark.parametrize(
        ("text", "values"),
        [
            ("5", ("5", 5)),
            ("-2.5", ("-2.5", -2.5)),
            ("true", ("true", True)),
            ("null", ("null",)),
            ("05", ("05",)),
            (" 5", (" 5",)),
            ("NaN", ("NaN",)),
            ("1e999", ("1e999",)),
            ("9" * 5000, ("9" * 5000,)),
            ("[1]", ("[1]",)),
            ("five", ("five",)),
        ],
    )
    def test_a_text_of_the_canvas_equals_the_number_that_it_spells_too(
        self, text: str, values: tuple[Any, ...]
    ) -> None:
        assert condition({"a": text}) == Comparison(("a",), "in", values)
        assert condition({"a": {"$eq": text}}) == Comparison(("a",), "in", (text,))

    def test_the_same_filter_comes_as_an_object_as_text_and_from_the_canvas(self) -> None:
        nested = {"year": {"$gte": 2020, "$lt": 2024}, "$or": [{"lang": "en"}, {"lang": {"$exists": False}}]}
        text = '{"year": {"$gte": 2020, "$lt": 2024}, "$or": [{"lang": "en"}, {"lang": {"$exists": false}}]}'
        canvas = {
            "year": '{"$gte": 2020, "$lt": 2024}',
            "$or": '[{"lang": "en"}, {"lang": {"$exists": false}}]',
            "": "",
        }
        assert read_filter(nested) == read_filter(text)
        assert condition(nested) == condition(text) == condition(canvas)

    def test_a_text_that_is_no_operator_stays_a_text(self) -> None:
        assert condition({"a": '{"b": "$gte"}'}) == Comparison(("a",), "in", ('{"b": "$gte"}',))

    def test_every_operator_is_read(self) -> None:
        path = ("a",)
        exists = Comparison(path, "exists")
        one = Comparison(path, "in", (1,))
        expected = {
            '{"$eq": 1}': one,
            '{"$ne": 1}': Junction("and", (exists, Negation(one))),
            '{"$lt": 1}': Comparison(path, "<", (1,)),
            '{"$lte": 1}': Comparison(path, "<=", (1,)),
            '{"$gt": "x"}': Comparison(path, ">", ("x",)),
            '{"$gte": 1.5}': Comparison(path, ">=", (1.5,)),
            '{"$in": [1, "x", null]}': Comparison(path, "in", (1, "x", None)),
            '{"$nin": [1]}': Junction("and", (exists, Negation(one))),
            '{"$between": [1, 2]}': Junction("and", (Comparison(path, ">=", (1,)), Comparison(path, "<=", (2,)))),
            '{"$exists": true}': exists,
            '{"$exists": false}': Negation(exists),
            '{"$like": "x%"}': Comparison(path, "like", ("x%",)),
            '{"$ilike": "_x"}': Comparison(path, "ilike", ("_x",)),
            '{"$contains": "x"}': Comparison(path, "contains", ("x",)),
            '{"$not": {"$gt": 1}}': Negation(Comparison(path, ">", (1,))),
            '{"$not": 1}': Negation(one),
        }
        for text, wanted in expected.items():
            assert condition(f'{{"a": {text}}}') == wanted

    def test_conditions_nest(self) -> None:
        a, b = Comparison(("a",), "in", (1,)), Comparison(("b",), "in", (2,))
        assert condition({"$and": [{"a": 1}, {"$not": {"b": 2}}]}) == Junction("and", (a, Negation(b)))
        assert condition({"$or": [{"a": 1, "b": 2}, {"b": 2}]}) == Junction("or", (Junction("and", (a, b)), b))

    def test_an_object_of_names_leads_into_the_field(self) -> None:
        deep = condition({"source": {"page": {"$gt": 3}, "file": "x"}})
        assert deep == Junction(
            "and", (Comparison(("source", "file"), "in", ("x",)), Comparison(("source", "page"), ">", (3,)))
        )

    @pytest.mark.parametrize("name", ["$equals", "$GTE", "$", "$where", "$$eq"])
    def test_an_unknown_operator_is_named_with_those_there_are(self, name: str) -> None:
        with pytest.raises(InvalidInput) as refused:
            read_filter({"a": {name: 1}})
        assert repr(name) in refused.value.message
        assert all(operator in refused.value.hint for operator in OPERATORS)
        with pytest.raises(InvalidInput) as refused:
            read_filter({name: [{"a": 1}]})
        assert repr(name) in refused.value.message
        assert "$and, $or, $not" in refused.value.hint

    @pytest.mark.parametrize(
        "wrong",
        [
            [1],
            "x",
            "[1]",
            5,
            {1: 2},
            {"a": [1]},
            {"a": {}},
            {"a": {"$gt": 1, "b": 2}},
            {"a": {"$eq": [1]}},
            {"a": {"$eq": {"b": 1}}},
            {"a": {"$gt": None}},
            {"a": {"$gt": True}},
            {"a": {"$gt": {"$gt": 1}}},
            {"a": {"$in": []}},
            {"a": {"$in": 1}},
            {"a": {"$in": [[1]]}},
            {"a": {"$between": [1]}},
            {"a": {"$between": [1, 2, 3]}},
            {"a": {"$exists": "yes"}},
            {"a": {"$like": 1}},
            {"a": {"$like": "x\\"}},
            {"a": {"$and": [{"b": 1}]}},
            {"a": {"$not": {}}},
            {"$and": []},
            {"$and": {"a": 1}},
            {"$or": [1]},
            {"$or": [{}]},
            {"$not": [{"a": 1}]},
            {"$not": {}},
            {"a": math.nan},
            {"a": 10**400},
            {"a": "\0"},
            {"a\0": 1},
            {"\ud800": 1},
            {"a": {1, 2}},
        ],
    )
    def test_what_is_no_filter_is_refused_before_any_work(self, wrong: Any) -> None:
        with pytest.raises(InvalidInput, match="filter") as refused:
            read_filter(wrong)
        assert refused.value.hint

    def test_an_error_names_the_field_and_not_the_value(self) -> None:
        with pytest.raises(InvalidInput, match=r"'a\.b' \$gt an object") as refused:
            read_filter({"a": {"b": {"$gt": {"canary": 1}}}})
        assert "canary" not in str(refused.value)

    def test_a_filter_too_large_to_be_meant_is_refused(self) -> None:
        deep: Any = {"a": 1}
        for _ in range(MAX_DEPTH + 1):
            deep = {"$not": deep}
        within: Any = {"$gt": 1}
        for _ in range(MAX_DEPTH + 1):
            within = {"$not": within}
        for nested in (deep, {"a": within}, '{"a":' * 100_000):
            with pytest.raises(InvalidInput, match="filter"):
                read_filter(nested)
        with pytest.raises(InvalidInput, match=str(MAX_VALUES)):
            read_filter({"a": {"$in": list(range(MAX_VALUES + 1))}})
        assert read_filter({"a": {"$in": list(range(MAX_VALUES))}})

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from([*OPERATORS, "$and"]), inner),
        )
    )
    def test_anything_is_a_filter_or_an_error_of_ours(self, anything: Any) -> None:
        try:
            found = read_filter(anything)
        except InvalidInput:
            return
        if found is not None:
            text, values = conditions(found, OWN)
            assert text
            assert found == Filter(found.text, found.condition)
            assert all(f"%({name})s" in text for name in values)


class TestSql:
    def test_values_travel_beside_the_statement(self) -> None:
        odd = "'; DROP TABLE docs; --%s"
        text, values = sql({odd: odd, "b": {"$gt": odd}, "c": {"$like": odd}, "d": {"$in": [odd, 1]}})
        assert "DROP" not in text
        assert sum(str(value).count("DROP") for value in values) == 5
        assert text.replace("%(", "").count("%") == 0

    def test_equality_is_containment_which_the_index_answers(self) -> None:
        assert sql({"a": 1}) == ('r."metadata"::jsonb @> %(f0)s::jsonb', ['{"a": 1}'])
        text, values = sql({"a": {"$in": [1, 2]}})
        assert (text, values) == ('r."metadata"::jsonb @> ANY (%(f0)s::jsonb[])', [['{"a": 1}', '{"a": 2}']])

    def test_a_column_is_compared_in_its_own_type_with_values_that_have_it(self) -> None:
        layout = table(n="int4", t="text", day="date", at="timestamptz", id="uuid", more="jsonb")
        assert sql({"n": 5}, layout) == ('(r."n" = %(f0)s::int8)', [5])
        assert sql({"n": "5"}, layout) == ('(r."n" = %(f0)s::int8)', [5])
        assert sql({"n": {"$eq": "5"}}, layout) == ("FALSE", [])
        assert sql({"n": {"$gt": 5}}, layout) == ('r."n" > %(f0)s::int8', [5])
        assert sql({"n": {"$eq": 2**80}}, layout) == ("FALSE", [])
        assert sql({"t": {"$in": ["a", "b", 1]}}, layout) == ('(r."t" = ANY (%(f0)s::text[]))', [["a", "b"]])
        assert sql({"t": {"$ne": None}}, layout)[0].count("IS NULL") == 1
        assert sql({"day": {"$gte": "2024-02-29"}}, layout) == ('r."day" >= %(f0)s::date', ["2024-02-29"])
        assert sql({"day": {"$gte": "2024-02-29T10:00:00+02:00"}}, layout) == (
            'r."day" >= %(f0)s::timestamptz',
            ["2024-02-29T08:00:00+00:00"],
        )
        assert sql({"at": {"$lt": "2024-02-29T10:00:00Z"}}, layout)[1] == ["2024-02-29T10:00:00+00:00"]
        assert sql({"at": {"$lt": "2024"}}, layout)[0] == 'to_jsonb(r."at") @? %(f0)s::jsonpath'
        assert sql({"id": {"$eq": "no uuid"}}, layout) == ("FALSE", [])
        assert sql({"other": 1}, layout)[0] == 'r."more"::jsonb @> %(f0)s::jsonb'
        assert sql({"more": 1}, layout)[0] == 'r."more"::jsonb @> %(f0)s::jsonb'

    def test_a_field_that_no_column_can_hold_is_told(self) -> None:
        with pytest.raises(InvalidInput, match=r"'b'.*metadata columns: a\.") as refused:
            sql({"b": 1}, table(a="text"))
        assert "metadata_columns" in refused.value.hint
        with pytest.raises(InvalidInput, match="none"):
            sql({"b": 1}, table())
