"""The statements of searches. Names are quoted, values travel beside them, and their texts are remembered.

All give ``content``, one column for each of the layout's metadata columns, and the row's measure: the distance, or the
score. The limit stands in the text: with a parameter the server's generic plan assumes a tenth of all rows and does
not touch the index.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langflow_sluice.postgres.layout import Layout

# Cormack, Clarke and Buettcher: Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods,
# SIGIR 2009, who found 60 good and its exact value of little importance.
RRF_K = 60
# Evaluated once, whatever the plan; as a function in each condition it would be called for each row.
_WANTED, _UNWANTED = "(SELECT wanted FROM words)", "(SELECT unwanted FROM words)"

_remembered = functools.lru_cache(maxsize=1024)


@_remembered
def nearest(layout: Layout, limit: int, where: str, *, exact: bool, with_embedding: bool) -> bytes:
    """Rows by cosine distance to ``query``, the nearest first; with ``exact`` no index for distances is used."""
    embedding = f", {layout.embedding} AS embedding" if with_embedding else ""
    conditions = _where(_has_vector(layout), _of_collection(layout), where)
    return (
        f"SELECT {_columns(layout)}, {_distance(layout)} AS distance{embedding} FROM {layout.relation} r"  # noqa: S608 - see above
        f"{conditions} ORDER BY {_order(layout, exact=exact)} LIMIT {limit:d}"
    ).encode()


@_remembered
def matching(layout: Layout, limit: int, where: str, *, excludes: bool) -> bytes:
    """Rows by how well their words match ``wanted``, the best first; ``excludes``: none that matches ``unwanted``."""
    conditions = _where(_matches(layout, excludes=excludes), _of_collection(layout), where)
    return (
        f"WITH {_words(layout, excludes=excludes)}"  # noqa: S608 - see above
        f" SELECT {_columns(layout)}, {_rank(layout)} AS score FROM {layout.relation} r"
        f"{conditions} ORDER BY score DESC LIMIT {limit:d}"
    ).encode()


@_remembered
def fused(
    layout: Layout, limit: int, depth: int, where: str, *, exact: bool, excludes: bool, has_threshold: bool
) -> bytes:
    """The first ``depth`` of ``nearest`` and of ``matching``, fused by reciprocal rank.

    Args:
        layout: Where the rows lie.
        limit: The most rows to return.
        depth: The most rows to take of each list.
        where: Further conditions, on both lists.
        exact: As of ``nearest``.
        excludes: As of ``matching``.
        has_threshold: Whether the first list ends at the distance ``farthest``.
    """
    row = "r.tableoid AS table_id, r.ctid AS row_id, " if layout.has_row_ids else ""
    metadata = [f"m{index}" for index in range(len(layout.metadata))]
    # Rows of a view have no identity but what is in them.
    identity = "table_id, row_id" if row else ", ".join(["content", *(f"{name}::jsonb" for name in metadata)])
    fields = ", ".join([*(["table_id", "row_id"] if row else []), "content", *metadata])
    select = f"SELECT {row}{_columns(layout)}"
    by_vector = _where(_has_vector(layout), _of_collection(layout), where)
    by_words = _where(_matches(layout, excludes=excludes), _of_collection(layout), where)
    near_enough = " WHERE distance <= %(farthest)s" if has_threshold else ""
    one = ", ".join(f"(array_agg({name}))[1] AS {name}" for name in ("content", *metadata))
    return (
        f"WITH {_words(layout, excludes=excludes)},"  # noqa: S608 - see above
        f" nearest AS ({select}, {_distance(layout)} AS distance"
        f" FROM {layout.relation} r{by_vector} ORDER BY {_order(layout, exact=exact)} LIMIT {depth:d}),"
        f" matching AS ({select}, {_rank(layout)} AS rank"
        f" FROM {layout.relation} r{by_words} ORDER BY rank DESC LIMIT {depth:d}),"
        f" listed AS (SELECT {fields}, distance, row_number() OVER (ORDER BY distance) AS place"
        f" FROM nearest{near_enough}"
        f" UNION ALL SELECT {fields}, NULL, row_number() OVER (ORDER BY rank DESC) FROM matching)"
        f" SELECT {one}, sum(1.0::float8 / ({RRF_K:d} + place)) AS score FROM listed GROUP BY {identity}"
        # Of two rows that have the same place in one list each, the one near in meaning comes first.
        f" ORDER BY score DESC, min(distance) LIMIT {limit:d}"
    ).encode()


def _columns(layout: Layout) -> str:
    metadata = (f", {column.value} AS m{index}" for index, column in enumerate(layout.metadata))
    return f"{layout.content} AS content{''.join(metadata)}"


def _distance(layout: Layout) -> str:
    query = f"%(query)s::{layout.extension_schema}.{layout.column_type}"
    return f"{layout.embedding} OPERATOR({layout.extension_schema}.<=>) {query}"


def _order(layout: Layout, *, exact: bool) -> str:
    # No index knows the order of a sum.
    return f"({_distance(layout)}) + 0" if exact else "distance"


def _words(layout: Layout, *, excludes: bool) -> str:
    # Any of the words, not all: a question in plain words finds nothing when one of them lacks. A row's rank grows with
    # every word it has. PostgreSQL writes "&" between words with spaces around it, which no word has in it.
    names = ["wanted", "unwanted"] if excludes else ["wanted"]
    any_of = "replace(websearch_to_tsquery({config}, %({name})s)::text, ' & ', ' | ')::tsquery AS {name}"
    queries = ", ".join(any_of.format(config=layout.text_config, name=name) for name in names)
    return f"words AS MATERIALIZED (SELECT {queries})"


def _matches(layout: Layout, *, excludes: bool) -> str:
    wanted = f"{layout.tsvector} @@ {_WANTED}"
    return f"{wanted} AND NOT {layout.tsvector} @@ {_UNWANTED}" if excludes else wanted


def _rank(layout: Layout) -> str:
    # ts_rank, not ts_rank_cd: where any word will do, how near the words are to one another tells little. 1 divides by
    # the logarithm of the text's length, since long texts have some word of every question (on our labelled set of
    # questions it finds 23 of 26, and 15 without it); 32 makes it lie between 0 and 1.
    return f"ts_rank({layout.tsvector}, {_WANTED}, 1 | 32)::float8"


def _of_collection(layout: Layout) -> str:
    return "r.collection_id = %(stock_id)s::uuid" if layout.kind == "stock" else ""


def _has_vector(layout: Layout) -> str:
    return "" if layout.kind == "own" else f"{layout.embedding} IS NOT NULL"


def _where(*conditions: str) -> str:
    told = " AND ".join(filter(None, conditions))
    return f" WHERE {told}" if told else ""
