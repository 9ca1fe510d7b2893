"""The statements that create and fill our own table; only the writer runs them.

All that name a table are executed with parameters, if only empty ones: the driver then reads the doubled ``%`` of a
quoted name as one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import psycopg

from langflow_sluice.errors import InvalidInput
from langflow_sluice.postgres import vectors
from langflow_sluice.postgres.layout import DEFAULT_LANGUAGE, INDEXED_CHARACTERS
from langflow_sluice.postgres.names import quote, quote_text

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from langflow_sluice.postgres.layout import Layout

# The lock that LangChain's PGVector takes while it creates the extension, so that the two do not collide either.
_LOCK = 1573678846307946496

COPY_INCOMING = b"COPY pg_temp.sluice_incoming FROM STDIN (FORMAT BINARY)"
DROP_INCOMING = b"DROP TABLE pg_temp.sluice_incoming"


async def create(
    connection: AsyncConnection[tuple[Any, ...]],
    schema: str,
    collection: str,
    dimensions: int,
    local_settings: bytes,
    language: str = DEFAULT_LANGUAGE,
) -> None:
    """Creates the extension, the table and its GIN indexes, as far as they are missing.

    Readers learn the language from the table itself.

    Args:
        connection: In autocommit.
        schema: An existing schema.
        collection: Name of the table.
        dimensions: Length of its vectors.
        local_settings: Said at the start of the transaction; empty for none.
        language: Text search configuration for keyword searches, as PostgreSQL calls it.

    Raises:
        InvalidInput: The database has no such language.
    """
    relation = f"{quote(schema)}.{quote(collection)}"
    async with connection.transaction():
        if local_settings:
            await connection.execute(local_settings)
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        found = await (await connection.execute(_EXTENSION_SCHEMA)).fetchone()
        if found is None:
            await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            found = await (await connection.execute(_EXTENSION_SCHEMA)).fetchone()
        extension = quote(found[0]) if found else "public"
        exists = await (await connection.execute("SELECT to_regclass(%s)", (relation.replace("%%", "%"),))).fetchone()
        if exists and exists[0] is not None:
            return
        config = await _text_config(connection, language)
        await connection.execute(_create_table(relation, extension, dimensions, config), ())
        for name, method in (("metadata", "gin (metadata jsonb_path_ops)"), ("tsv", "gin (content_tsv)")):
            index = index_name(schema, collection, name)
            await connection.execute(f"CREATE INDEX {index} ON {relation} USING {method}".encode(), ())


async def _text_config(connection: AsyncConnection[tuple[Any, ...]], language: str) -> str:
    found = await (await connection.execute(_TEXT_CONFIGS)).fetchall()
    configs = dict(found)
    if language not in configs:
        fix = f"The database has {', '.join(sorted(configs))}."
        raise InvalidInput.of("language", language, "there is no such text search configuration", fix=fix)
    return quote_text(configs[language])


def _create_table(relation: str, extension: str, dimensions: int, config: str) -> bytes:
    return (
        f"CREATE TABLE {relation} ("
        "content_hash bytea PRIMARY KEY, content text NOT NULL, metadata jsonb NOT NULL,"
        f" embedding {extension}.{vectors.column_type(dimensions)}({dimensions:d}) NOT NULL,"
        " content_tsv tsvector GENERATED ALWAYS AS"
        f" (to_tsvector({config}::regconfig, left(content, {INDEXED_CHARACTERS}))) STORED)"
    ).encode()


# The one of PostgreSQL itself last, so that it counts among several of the same name.
_TEXT_CONFIGS = (
    b"SELECT g.cfgname, format('%I.%I', n.nspname, g.cfgname) FROM pg_ts_config g"
    b" JOIN pg_namespace n ON n.oid = g.cfgnamespace ORDER BY n.nspname = 'pg_catalog'"
)
_EXTENSION_SCHEMA = (
    b"SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'"
)


def index_name(schema: str, collection: str, purpose: str) -> str:
    """A name for an index that fits PostgreSQL's 63 bytes whatever the collection is called."""
    digest = hashlib.sha256(f"{schema}\0{collection}".encode()).hexdigest()[:16]
    return f"sluice_{digest}_{purpose}"


_INDEX_STATE = """
SELECT i.indisvalid,
       EXISTS (SELECT 1 FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s
"""
# Somebody else builds the same index at this moment: its name is taken, or both wait for one another.
_BUILT_ELSEWHERE = (psycopg.errors.DuplicateTable, psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected)


async def ensure_hnsw(
    connection: AsyncConnection[tuple[Any, ...]], layout: Layout, schema: str, collection: str, *, pgbouncer: bool
) -> None:
    """Builds the HNSW index unless there is one, without blocking readers or writers.

    It is built after the first write, which takes a fraction of what keeping it up to date row by row would. What an
    interrupted build left behind is dropped first; what another writer builds at this moment is left to it.
    """
    if not layout.relation:
        return
    name = index_name(schema, collection, "hnsw")
    state = await (await connection.execute(_INDEX_STATE, (schema, name))).fetchone()
    if state is not None and (state[0] or state[1]):
        return
    # CONCURRENTLY cannot run inside a transaction, so neither can its settings be local; PgBouncer mode sets none.
    if not pgbouncer:
        await connection.execute("SET statement_timeout = 0")
    try:
        if state is not None:
            await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {quote(schema)}.{name}".encode(), ())
        await connection.execute(
            f"CREATE INDEX CONCURRENTLY {name} ON {layout.relation}"
            f" USING hnsw (embedding {layout.extension_schema}.{layout.column_type}_cosine_ops)".encode(),
            (),
        )
        await connection.execute(f"ANALYZE {layout.relation}".encode(), ())
    except _BUILT_ELSEWHERE:
        return
    finally:
        if not pgbouncer and not connection.closed:
            await connection.execute("RESET statement_timeout")


def incoming_table(layout: Layout) -> bytes:
    """A temporary table for one batch; metadata is text here, so that it is parsed once, when it is taken over."""
    return (
        "CREATE TEMPORARY TABLE sluice_incoming (content_hash bytea, content text, metadata text,"
        f" embedding {layout.extension_schema}.{layout.column_type}) ON COMMIT DROP"
    ).encode()


def existing(layout: Layout) -> bytes:
    """Which rows of the batch are in the collection already."""
    return (
        f"SELECT content_hash FROM pg_temp.sluice_incoming JOIN {layout.relation} USING (content_hash)"  # noqa: S608 - quoted
    ).encode()


def take_over(layout: Layout, *, update: bool) -> bytes:
    """Moves the batch into the collection; the row count is the number of rows that are new or changed.

    In the order of the hashes, so that two writers with rows in common wait for one another instead of a deadlock.
    """
    what = (
        "DO UPDATE SET embedding = excluded.embedding WHERE mine.embedding IS DISTINCT FROM excluded.embedding"
        if update
        else "DO NOTHING"
    )
    return (
        f"INSERT INTO {layout.relation} AS mine (content_hash, content, metadata, embedding)"  # noqa: S608 - quoted
        " SELECT content_hash, content, metadata::jsonb, embedding FROM pg_temp.sluice_incoming"
        f" ORDER BY content_hash ON CONFLICT (content_hash) {what}"
    ).encode()
