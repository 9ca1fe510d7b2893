"""What PostgreSQL's catalog tells of a table, learnt in one statement that reads and creates nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langflow_sluice.postgres.names import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import AsyncConnection

STOCK_COLLECTIONS = "langchain_pg_collection"
STOCK_EMBEDDINGS = "langchain_pg_embedding"
# Rows of these can be told apart by where they lie, within one statement.
_WITH_ROW_IDS = frozenset("rpm")
_VIEW = "v"
_APPROXIMATE = frozenset({"hnsw", "ivfflat"})


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        type: Its type's name, such as ``vector``, ``jsonb`` or ``int4``.
        dimensions: Length of its vectors; ``None`` if the type leaves it open, or is no vector.
        is_text: Whether it is a kind of text.
        text_config: Of a generated ``tsvector``: the text search configuration that makes it, as SQL names it.
    """

    type: str
    dimensions: int | None
    is_text: bool
    text_config: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view.

    Attributes:
        columns: By name.
        has_row_ids: Whether its rows have ``tableoid`` and ``ctid``; those of a view have none.
        is_approximate: Whether a search by distance may be answered from an index that does not find all rows.
        text_indexes: Texts that are indexed for keyword search: the indexed expression's configuration and column.
    """

    columns: Mapping[str, Column]
    has_row_ids: bool
    is_approximate: bool
    text_indexes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Catalog:
    """What a search has to know of a database.

    Attributes:
        extension_schema: Schema that pgvector lies in; ``None`` if the database does not have it.
        tables: Those that were asked for and exist, by name; the two of stock PGVector are always asked for.
        text_configs: Text search configurations by name, as SQL names them.
    """

    extension_schema: str | None
    tables: Mapping[str, Table]
    text_configs: Mapping[str, str]


# One statement tells all, so that a cold first search costs one round trip more, not five. A vector's typmod is its
# number of dimensions.
_LOOK = f"""
SELECT
  (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'),
  (SELECT jsonb_object_agg(c.relname, jsonb_build_array(
            c.relkind,
            (SELECT jsonb_object_agg(a.attname, jsonb_build_array(t.typname, a.atttypmod, t.typcategory,
                      CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END))
               FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
               LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
            (SELECT jsonb_agg(jsonb_build_array(am.amname, pg_get_expr(i.indexprs, i.indrelid)))
               FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_am am ON am.oid = ic.relam
              WHERE i.indrelid = c.oid AND i.indisvalid)))
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname IN (%(name)s, '{STOCK_COLLECTIONS}', '{STOCK_EMBEDDINGS}')
      AND c.relkind IN ('r', 'p', 'v', 'm', 'f')),
  (SELECT jsonb_object_agg(g.cfgname, format('%%I.%%I', n.nspname, g.cfgname) ORDER BY n.nspname = 'pg_catalog')
     FROM pg_ts_config g JOIN pg_namespace n ON n.oid = g.cfgnamespace)
"""  # noqa: S608 - our own names


async def look(connection: AsyncConnection[tuple[Any, ...]], *, schema: str, table: str) -> Catalog:
    """Looks up a table (or view) of a schema and the two of stock PGVector."""
    found = await (await connection.execute(_LOOK, {"schema": schema, "name": table})).fetchone()
    extension, tables, configs = found or (None, None, None)
    return Catalog(extension, {name: _table(*told) for name, told in (tables or {}).items()}, configs or {})


def _table(kind: str, columns: dict[str, Any] | None, indexes: list[tuple[str, str | None]] | None) -> Table:
    known = {name: _column(*told) for name, told in (columns or {}).items()}
    return Table(
        columns=known,
        has_row_ids=kind in _WITH_ROW_IDS,
        is_approximate=kind == _VIEW or any(method in _APPROXIMATE for method, _ in indexes or ()),
        text_indexes=tuple(_text_indexes([expression for _, expression in indexes or () if expression], known)),
    )


def _column(type_: str, typmod: int, category: str, generated: str | None) -> Column:
    dimensions = typmod if type_ in {"vector", "halfvec"} and typmod > 0 else None
    config = _TO_TSVECTOR.search(generated or "") if type_ == "tsvector" else None
    return Column(type_, dimensions, category == "S", config[1].replace("''", "'") if config else "")


_TO_TSVECTOR = re.compile(r"to_tsvector\('((?:[^']|'')+)'::regconfig, (.*)\)", re.DOTALL)


def _text_indexes(expressions: list[str], columns: dict[str, Column]) -> list[tuple[str, str]]:
    """Of indexed expressions those that are ``to_tsvector('configuration', column)`` and no more."""
    # As PostgreSQL writes a column: quoted if need be, and with a cast if it is a text of another type.
    spelled = {name: name for name in columns} | {quote(name).replace("%%", "%"): name for name in columns}
    spelled |= {f"({text})::text": name for text, name in spelled.items()}
    found = [match for match in map(_TO_TSVECTOR.fullmatch, expressions) if match and match[2] in spelled]
    return [(match[1].replace("''", "'"), spelled[match[2]]) for match in found]
