from __future__ import annotations

import math
import random
import struct
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from sqlalchemy.exc import OperationalError as WrappedError

from langflow_sluice.errors import DatabaseError, InvalidInput, PoolTimeout
from langflow_sluice.postgres import failures, vectors
from langflow_sluice.postgres.documents import DocumentRow, PreparedRow, RowFailure, prepare
from langflow_sluice.postgres.filters import read_filter
from langflow_sluice.postgres.keywords import Keywords, read_keywords
from langflow_sluice.postgres.layout import Columns
from langflow_sluice.postgres.mmr import diverse
from langflow_sluice.postgres.names import checked_name, quote, quote_text
from langflow_sluice.postgres.search_settings import SearchSettings
from langflow_sluice.postgres.settings import PoolSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool_size", 0),
        ("pool_size", 2.5),
        ("pool_size", True),
        ("pool_size", 10_000),
        ("max_overflow", -1),
        ("pool_timeout_s", -1),
        ("pool_timeout_s", math.inf),
        ("pool_recycle_s", math.nan),
        ("statement_timeout_s", "30"),
        ("connect_timeout_s", 0),
        ("max_waiting", -1),
        ("pre_ping", 1),
        ("pgbouncer", None),
    ],
)
def test_a_wrong_limit_of_a_pool_is_told_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=name) as refused:
        PoolSettings(**{name: value})
    assert refused.value.hint


def test_a_statement_timeout_is_never_rounded_to_none() -> None:
    assert PoolSettings(statement_timeout_s=0.0001).statement_timeout_ms == 1
    assert PoolSettings(statement_timeout_s=0).statement_timeout_ms == 0


@pytest.mark.parametrize(
    "embedding",
    [
        None,
        "1,2",
        b"12",
        [],
        [0.0, 0.0],
        [1.0, math.nan],
        [1.0, math.inf],
        [math.inf, -math.inf],
        ["1"],
        [None],
        [[1.0]],
    ],
)
def test_what_cannot_be_searched_by_is_told(embedding: Any) -> None:
    assert vectors.problem_of(embedding)


def test_a_vector_too_long_for_any_index_is_told() -> None:
    assert not vectors.problem_of([1.0] * 4000)
    assert "4001" in vectors.problem_of([1.0] * 4001)


def test_a_number_too_large_for_the_type_is_no_crash() -> None:
    with pytest.raises(OverflowError):
        vectors.encode([1e39], "vector")
    with pytest.raises(OverflowError):
        vectors.encode([1e6], "halfvec")


def test_the_binary_form_is_that_of_pgvector() -> None:
    assert vectors.encode([1.0, -2.0], "vector").data == struct.pack(">HHff", 2, 0, 1.0, -2.0)


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "\ud800", "x" * 64, "ü" * 32, None, 7])
def test_a_name_that_postgresql_would_change_or_refuse_is_refused(name: Any) -> None:
    with pytest.raises(InvalidInput, match="collection_name"):
        checked_name("collection_name", name)


def test_a_name_is_quoted_whatever_it_holds() -> None:
    assert quote('a"; DROP TABLE b; --%s') == '"a""; DROP TABLE b; --%%s"'


def test_a_text_of_the_catalog_stays_one_literal() -> None:
    assert quote_text("o'dd %s") == "'o''dd %%s'"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("search_type", "fuzzy"),
        ("search_type", None),
        ("number_of_results", 0),
        ("number_of_results", 10_001),
        ("number_of_results", True),
        ("number_of_results", "4"),
        ("fetch_k", 0),
        ("fetch_k", 1.5),
        ("score_threshold", 2),
        ("score_threshold", -1.5),
        ("score_threshold", math.nan),
        ("score_threshold", "0.5"),
        ("score_threshold", True),
        ("mmr_lambda", -0.1),
        ("mmr_lambda", 1.1),
        ("mmr_lambda", None),
    ],
)
def test_a_wrong_setting_of_a_search_is_told_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=name) as refused:
        SearchSettings(**{name: value})
    assert refused.value.hint


def test_a_rank_of_words_is_never_below_zero() -> None:
    assert SearchSettings(score_threshold=-0.5)
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        SearchSettings(search_type="keyword", score_threshold=-0.5)


def test_results_are_chosen_from_no_fewer_rows_than_are_wanted() -> None:
    assert SearchSettings(number_of_results=80, fetch_k=20).depth == 80
    assert SearchSettings(number_of_results=8, fetch_k=20).depth == 20


def test_equal_searches_are_equal_keys() -> None:
    first, same = (SearchSettings(filter=read_filter(given)) for given in ({"a": 1, "b": 2}, '{"b": 2, "a": 1}'))
    assert (first, hash(first)) == (same, hash(same))
    assert first != SearchSettings(filter=read_filter({"a": True, "b": 2}))
    assert first != SearchSettings(filter=read_filter({"a": 1.0, "b": 2}))


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 64, None])
@pytest.mark.parametrize("field", ["content", "embedding", "metadata"])
def test_a_column_that_cannot_exist_is_told_by_the_name_of_the_input(field: str, name: Any) -> None:
    with pytest.raises(InvalidInput, match=field):
        Columns(**{field: (name,) if field == "metadata" else name})


@pytest.mark.parametrize(
    ("question", "wanted", "unwanted"),
    [
        ("How deep is the well?", "How deep is the well?", ""),
        ('the "deep well" of', 'the "deep well" of', ""),
        ("well -mill", "well", "mill"),
        ('well -"old mill" town', "well town", '"old mill"'),
        ("what happens at -5 degrees", 'what happens at "-5" degrees', ""),
        ("a - b -- c ---d", "a b c d", ""),
        ("pump XK-4417", "pump XK-4417", ""),
        ('an "open end', 'an "open end', ""),
        ("nul \0 and half a \ud800 pair", "nul and half a ? pair", ""),
        ("long " + "x" * 501, "long", ""),
        ("", "", ""),
        ("-", "", ""),
    ],
)
def test_a_question_is_taken_apart_as_web_searches_do(question: str, wanted: str, unwanted: str) -> None:
    assert read_keywords(question) == Keywords(wanted, unwanted)


class TestMaximalMarginalRelevance:
    @settings(max_examples=60, deadline=None)
    @given(
        count=st.integers(0, 30),
        dimensions=st.integers(1, 12),
        k=st.integers(1, 40),
        relevance=st.floats(0, 1),
        kind=st.sampled_from(["vector", "halfvec"]),
        seed=st.integers(0, 10_000),
    )
    def test_it_chooses_what_langchain_chooses(
        self, count: int, dimensions: int, k: int, relevance: float, kind: str, seed: int
    ) -> None:
        numbers = random.Random(seed)  # noqa: S311 - any numbers do
        query, *rows = ([numbers.uniform(-1, 1) for _ in range(dimensions)] for _ in range(count + 1))
        encoded = [vectors.encode(row, kind).data for row in rows]
        stored = [struct.unpack(f">{dimensions}{'f' if kind == 'vector' else 'e'}", row[4:]) for row in encoded]
        ours = diverse(query, encoded, column_type=kind, k=k, relevance=relevance)
        theirs = maximal_marginal_relevance(np.array(query), [list(row) for row in stored], relevance, k)
        if ours != theirs:  # two candidates of the same worth, but for the last bit: each choice must be as good
            assert _worth(query, stored, ours, relevance) == pytest.approx(_worth(query, stored, theirs, relevance))

    def test_the_next_one_is_unlike_those_chosen(self) -> None:
        rows = [[1.0, 0.0], [1.0, 0.01], [0.7, 0.7]]
        encoded = [vectors.encode(row, "vector").data for row in rows]
        chosen = [diverse([1.0, 0.0], encoded, column_type="vector", k=2, relevance=weight) for weight in (1.0, 0.3)]
        assert chosen == [[0, 1], [0, 2]]

    def test_a_vector_without_direction_is_like_nothing(self) -> None:
        rows = [vectors.encode([0.0, 0.0], "vector").data, vectors.encode([0.0, 1.0], "vector").data]
        assert diverse([0.0, 1.0], rows, column_type="vector", k=5, relevance=0.5) == [1, 0]


def _worth(query: list[float], rows: list[tuple[float, ...]], chosen: list[int], relevance: float) -> list[float]:
    def cosine(a: Any, b: Any) -> float:
        return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))

    return [
        relevance * cosine(query, rows[each])
        - (1 - relevance) * max((cosine(rows[each], rows[other]) for other in chosen[:place]), default=0.0)
        for place, each in enumerate(chosen)
    ]


def test_the_identity_of_a_row_is_its_content_and_metadata() -> None:
    def identity(content: str, metadata: dict[str, Any], embedding: list[float]) -> bytes:
        row = prepare(0, DocumentRow(content, metadata, embedding), dimensions=2, column_type="vector")
        assert isinstance(row, PreparedRow)
        return row.content_hash

    first = identity("a", {"x": 1, "y": 2}, [1.0, 2.0])
    assert first == identity("a", {"y": 2, "x": 1}, [3.0, 4.0])
    assert first != identity("a", {"x": 1}, [1.0, 2.0])
    assert first != identity("b", {"x": 1, "y": 2}, [1.0, 2.0])


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (DocumentRow(None, {}, [1.0, 2.0]), "content"),  # type: ignore[arg-type]
        (DocumentRow("a\0", {}, [1.0, 2.0]), "NUL"),
        (DocumentRow("\udc00", {}, [1.0, 2.0]), "surrogate"),
        (DocumentRow("a", {"x": object()}, [1.0, 2.0]), "metadata"),
        (DocumentRow("a", {"x": "\0"}, [1.0, 2.0]), "NUL"),
        (DocumentRow("a", {"x": "\ud800"}, [1.0, 2.0]), "surrogate"),
        (DocumentRow("a", {"x": math.nan}, [1.0, 2.0]), "JSON"),
        (DocumentRow("a", [1], [1.0, 2.0]), "mapping"),  # type: ignore[arg-type]
        (DocumentRow("a", {}, [1.0]), "1 dimensions"),
        (DocumentRow("a", {}, [1e39, 1.0]), "too large"),
        (DocumentRow("a", {}, [0.0, 0.0]), "zeros"),
    ],
)
def test_a_row_that_cannot_be_stored_says_why(row: DocumentRow, word: str) -> None:
    failure = prepare(3, row, dimensions=2, column_type="vector")
    assert isinstance(failure, RowFailure)
    assert failure.index == 3
    assert word in failure.reason


def test_text_that_only_looks_like_an_escaped_nul_is_kept() -> None:
    row = prepare(0, DocumentRow("a", {"x": "\\u0000"}, [1.0, 2.0]), dimensions=2, column_type="vector")
    assert isinstance(row, PreparedRow)


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (
            psycopg.OperationalError("connection failed: FATAL:  sorry, too many clients already"),
            failures.TooManyClients,
        ),
        (psycopg.OperationalError("FATAL:  remaining connection slots are reserved"), failures.TooManyClients),
        (psycopg.OperationalError("FATAL:  password authentication failed"), failures.AccessDenied),
        (psycopg.OperationalError("Connection refused"), failures.DatabaseUnavailable),
        (psycopg.OperationalError("FATAL:  the database system is starting up"), failures.DatabaseUnavailable),
        (psycopg.OperationalError('FATAL:  database "x" does not exist'), failures.MissingDatabase),
        (psycopg.errors.ConnectionTimeout("timeout"), failures.DatabaseUnavailable),
        (psycopg.errors.AdminShutdown("terminating connection"), failures.DatabaseUnavailable),
        (psycopg.errors.QueryCanceled("canceling statement due to statement timeout"), failures.StatementTimeout),
        (psycopg.errors.DeadlockDetected("deadlock detected"), failures.Deadlock),
        (psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"), failures.LockTimeout),
        (psycopg.errors.IdleInTransactionSessionTimeout("terminating connection"), failures.IdleInTransaction),
        (psycopg.errors.UndefinedTable('relation "x" does not exist'), failures.MissingCollection),
        (psycopg.errors.UndefinedObject('type "vector" does not exist'), failures.MissingExtension),
        (psycopg.errors.DataException("different vector dimensions 3 and 4"), failures.DimensionMismatch),
        (psycopg.errors.InsufficientPrivilege("permission denied for table x"), failures.AccessDenied),
        (psycopg.errors.ProtocolViolation("query_wait_timeout"), failures.TooManyClients),
        (psycopg.errors.ProtocolViolation("unsupported startup parameter: options"), DatabaseError),
        (psycopg.errors.DuplicatePreparedStatement("exists"), DatabaseError),
        (TimeoutError(), failures.DatabaseUnavailable),
        (RuntimeError("odd"), DatabaseError),
    ],
)
def test_a_foreign_error_becomes_the_one_of_its_kind(exc: Exception, kind: type[DatabaseError]) -> None:
    ours = failures.translate(exc, target="db.example.org:5432/shop")
    assert type(ours) is kind
    assert "db.example.org:5432/shop" in ours.message
    assert ours.hint
    wrapped = failures.translate(WrappedError("SELECT 1", {"x": "canary"}, exc), target="db.example.org:5432/shop")
    assert type(wrapped) is kind
    assert "canary" not in str(wrapped)


def test_our_own_errors_stay_as_they_are() -> None:
    error = PoolTimeout("full")
    assert failures.translate(error, target="x") is error


def test_bad_data_is_told_without_the_data() -> None:
    error = psycopg.errors.InvalidTextRepresentation('invalid input syntax for type vector: "canary"')
    assert "canary" not in str(failures.translate(error, target="x"))
