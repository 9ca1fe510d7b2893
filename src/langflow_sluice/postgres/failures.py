"""Errors of SQLAlchemy and psycopg, told in the words of who runs the flow: what happened, where, what to change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import sqlalchemy.exc

from langflow_sluice.errors import DatabaseError, PoolTimeout, SluiceError

if TYPE_CHECKING:
    from collections.abc import Callable


class DatabaseUnavailable(DatabaseError):
    """The server cannot be reached, or ends sessions because it stops or starts."""

    code = "database_unavailable"


class MissingDatabase(DatabaseError):
    """The server is there, but has no database of that name."""

    code = "missing_database"


class TooManyClients(DatabaseError):
    """The server (or the pooler in front) has no connection left for anybody."""

    code = "too_many_clients"


class AccessDenied(DatabaseError):
    """The server refused the credential, or the role lacks a right."""

    code = "access_denied"


class StatementTimeout(DatabaseError):
    """PostgreSQL ended the statement because it took longer than ``statement_timeout``."""

    code = "statement_timeout"


class Deadlock(DatabaseError):
    """PostgreSQL ended one of several transactions that waited for each other."""

    code = "deadlock"


class LockTimeout(DatabaseError):
    """What the statement needed was locked by another session, for longer than it may wait."""

    code = "lock_timeout"


class IdleInTransaction(DatabaseError):
    """PostgreSQL ended a session that did nothing in the middle of a transaction for too long."""

    code = "idle_in_transaction_timeout"


class MissingCollection(DatabaseError):
    """There is no table and no stock collection of that name."""

    code = "missing_collection"


class MissingExtension(DatabaseError):
    """The database lacks the extension pgvector."""

    code = "missing_extension"


class DimensionMismatch(DatabaseError):
    """Vectors of one length met a collection of another."""

    code = "dimension_mismatch"


class Conflict(DatabaseError):
    """Rows to be written exist already, and ``on_conflict`` is ``error``."""

    code = "conflict"


def translate(exc: BaseException, *, target: str) -> SluiceError:
    """The error of ours that says what a foreign one means; ours come back as they are.

    Raise the result ``from None``: a foreign error carries the statement's parameters, and with them the user's texts.

    Args:
        exc: An error of SQLAlchemy, psycopg or asyncio.
        target: The database as ``host:port/database``.
    """
    if isinstance(exc, SluiceError):
        return exc
    cause = getattr(exc, "orig", None) or exc  # SQLAlchemy wraps the driver's errors
    state = getattr(cause, "sqlstate", None)
    text = _first_line(cause)
    if state is None:
        # The driver has no code for what happens while it connects; the server's words are all there is.
        state = next((code for words, code in _CONNECT_WORDS if words in text.lower()), None)
    if state is None and isinstance(cause, (asyncio.TimeoutError, TimeoutError)):
        state = _UNREACHABLE
    if isinstance(cause, sqlalchemy.exc.TimeoutError):  # of a pool that is not ours
        msg = f"No connection to {target} came free within the pool's timeout."
        return PoolTimeout(msg, hint="Raise pool_size, max_overflow or pool_timeout.")
    for codes, build in _KINDS:
        if state is not None and state.startswith(codes):
            return build(target, text)
    if isinstance(cause, psycopg.OperationalError):
        return _unavailable(target, text)
    return DatabaseError(
        f"{target} reports {type(cause).__name__}{f' ({state})' if state else ''}: {text}",
        hint="See the text of PostgreSQL above.",
    )


def missing_extension(target: str) -> MissingExtension:
    """The database has no pgvector."""
    return MissingExtension(
        f"The database {target} has no extension pgvector.",
        hint="Let a superuser run CREATE EXTENSION vector in this database once.",
    )


def missing_collection(target: str, collection: str) -> MissingCollection:
    """Nothing of that name can be searched."""
    return MissingCollection(
        f"The database {target} has no collection {collection!r}.",
        hint="Check collection_name and database_url, or write documents to it first with Pooled PG Writer.",
    )


def dimension_mismatch(target: str, collection: str, *, expected: int, given: int) -> DimensionMismatch:
    """The query's vector does not fit the collection's."""
    return DimensionMismatch(
        f"The collection {collection!r} in {target} holds vectors of {expected} dimensions, the given one has {given}.",
        hint="Connect the embedding model that the collection was written with, or write to a new collection.",
    )


def _unavailable(target: str, text: str) -> SluiceError:
    return DatabaseUnavailable(
        f"The database {target} is not available: {text}", hint="Check that it runs and that host and port are right."
    )


def _too_many(target: str, text: str) -> SluiceError:
    return TooManyClients(
        f"The database {target} has no connection left: {text}",
        hint="Lower pool_size + max_overflow times the number of workers, raise max_connections of the server, or put"
        " PgBouncer in front.",
    )


def _denied(target: str, text: str) -> SluiceError:
    return AccessDenied(f"The database {target} denies access: {text}", hint="Check user and password in database_url.")


def _lacks_right(target: str, text: str) -> SluiceError:
    return AccessDenied(f"The role lacks a right in {target}: {text}", hint="Grant it, or use another role.")


def _canceled(target: str, text: str) -> SluiceError:
    if "user request" in text:
        return DatabaseError(
            f"The statement on {target} was cancelled by somebody else: {text}", hint="Ask who runs the database."
        )
    return StatementTimeout(
        f"A statement on {target} took longer than statement_timeout and was ended.",
        hint="Raise statement_timeout, or make it faster: is there an HNSW index on the collection?",
    )


def _deadlock(target: str, _: str) -> SluiceError:
    return Deadlock(
        f"{target} ended a transaction: it and others waited for each other's rows (deadlock).",
        hint="Try again, since the others went through; if it comes back, let fewer callers write at once.",
    )


def _locked(target: str, text: str) -> SluiceError:
    return LockTimeout(
        f"What a statement on {target} needed was locked by another session: {text}",
        hint="Find who holds the lock (pg_blocking_pids), and end its transaction or wait for it, or raise"
        " lock_timeout.",
    )


def _idle(target: str, _: str) -> SluiceError:
    return IdleInTransaction(
        f"{target} ended a session that was idle in a transaction for longer than idle_in_transaction_session_timeout.",
        hint="Commit before slow work, such as a call to a model, or raise that timeout.",
    )


def _no_such_database(target: str, text: str) -> SluiceError:
    return MissingDatabase(f"The server has no database for {target}: {text}", hint="Check the end of database_url.")


def _no_table(target: str, text: str) -> SluiceError:
    return MissingCollection(
        f"The table is gone from {target}: {text}", hint="Check collection_name, or write the documents again."
    )


def _dimensions(target: str, text: str) -> SluiceError:
    if "dimensions" in text:
        return DimensionMismatch(
            f"The vectors do not fit the collection in {target}: {text}",
            hint="Connect the embedding model that the collection was written with.",
        )
    # What follows the colon is the value itself.
    problem = text.split(":", maxsplit=1)[0]
    return DatabaseError(
        f"{target} refused a value: {problem}.", hint="Check the documents and the filter for odd values."
    )


def _no_vector(target: str, text: str) -> SluiceError:
    return missing_extension(target) if "vector" in text else DatabaseError(f"{target}: {text}")


def _protocol(target: str, text: str) -> SluiceError:
    if "query_wait_timeout" in text:
        return TooManyClients(
            f"PgBouncer in front of {target} had no server connection within its query_wait_timeout.",
            hint="Lower pool_size + max_overflow, or raise default_pool_size of PgBouncer.",
        )
    if "startup parameter" in text:
        return DatabaseError(
            f"The pooler in front of {target} refuses settings at connect: {text}",
            hint="Turn on PgBouncer mode, and leave out of database_url what it names.",
        )
    return DatabaseError(f"{target} broke the protocol: {text}", hint="Is that a PostgreSQL server?")


def _prepared(target: str, text: str) -> SluiceError:
    return DatabaseError(
        f"A pooler in front of {target} shares sessions between clients: {text}", hint="Turn on PgBouncer mode."
    )


_UNREACHABLE = "08006"
_CONNECT_WORDS: tuple[tuple[str, str], ...] = (
    ("query_wait_timeout", "08P01"),
    ("unsupported startup parameter", "08P01"),
    ("server login has been failing", "08006"),
    ("cannot connect to server", "08006"),
    ("no such database", "3D000"),
    ("no such user", "28P01"),
    ("too many clients", "53300"),
    ("too many connections", "53300"),
    ("remaining connection slots", "53300"),
    ("no more connections allowed", "53300"),
    ("authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("pg_hba.conf rejects", "28000"),
    ("does not exist", "3D000"),
    ("shutting down", "57P03"),
    ("starting up", "57P03"),
)
# By SQLSTATE, https://www.postgresql.org/docs/18/errcodes-appendix.html; the first match counts.
_KINDS: tuple[tuple[tuple[str, ...], Callable[[str, str], SluiceError]], ...] = (
    (("08P01",), _protocol),
    (("08", "57P01", "57P02", "57P03", "57P05"), _unavailable),
    (("53300",), _too_many),
    (("28",), _denied),
    (("42501",), _lacks_right),
    (("57014",), _canceled),
    (("40P01",), _deadlock),
    (("55P03",), _locked),
    (("25P03",), _idle),
    (("3D000",), _no_such_database),
    (("42P01",), _no_table),
    (("22000", "22P02", "22P03"), _dimensions),
    (("42704", "42883", "58P01"), _no_vector),
    (("42P05", "26000"), _prepared),
)


def _first_line(exc: BaseException) -> str:
    """The server's words without DETAIL and CONTEXT, which quote the values of rows."""
    diagnostic = getattr(exc, "diag", None)
    text = getattr(diagnostic, "message_primary", None) or str(exc)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else type(exc).__name__
