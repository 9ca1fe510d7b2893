from __future__ import annotations

import math
import struct
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import OperationalError as WrappedError

from langflow_sluice.errors import DatabaseError, InvalidInput, PoolTimeout
from langflow_sluice.postgres import failures, vectors
from langflow_sluice.postgres.documents import DocumentRow, PreparedRow, RowFailure, prepare
from langflow_sluice.postgres.layout import checked_name, containment, quote
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


@pytest.mark.parametrize("filter_", [[1], "x", {1: 2}, {"a": {"$gt": 1}}, {"a": [1]}, {"a": math.nan}, {"a": "\0"}])
def test_a_filter_that_is_no_equality_is_refused(filter_: Any) -> None:
    with pytest.raises(InvalidInput, match="filter"):
        containment(filter_)


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
        (psycopg.OperationalError('FATAL:  database "x" does not exist'), failures.DatabaseUnavailable),
        (psycopg.errors.ConnectionTimeout("timeout"), failures.DatabaseUnavailable),
        (psycopg.errors.AdminShutdown("terminating connection"), failures.DatabaseUnavailable),
        (psycopg.errors.QueryCanceled("canceling statement due to statement timeout"), failures.StatementTimeout),
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
