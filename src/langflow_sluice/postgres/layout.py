"""Where a collection's rows lie: our own table, or the two tables of LangChain's stock PGVector."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy.dialects import postgresql

from langflow_sluice.errors import DatabaseError, InvalidInput
from langflow_sluice.postgres import failures

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# PostgreSQL cuts longer names without a word (NAMEDATALEN - 1), so that two collections could become one.
MAX_NAME_BYTES = 63
# Another process may create, rewrite or drop a collection; what we know of it is looked up again after this.
LAYOUT_TTL_S = 60.0
MAX_LAYOUTS = 1024

STOCK_COLLECTIONS = "langchain_pg_collection"
STOCK_EMBEDDINGS = "langchain_pg_embedding"
OWN_COLUMNS = frozenset({"content_hash", "content", "metadata", "embedding"})

_preparer = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Layout:
    """How to read one collection.

    Attributes:
        kind: ``own`` (one table, typed columns) or ``stock`` (LangChain's PGVector).
        relation: The table in SQL, quoted.
        column_type: pgvector's type of the embeddings: ``vector`` or ``halfvec``.
        dimensions: Length of the embeddings; ``None`` while a stock collection is empty.
        extension_schema: Schema of pgvector, quoted; it need not be on the search path.
        stock_id: The stock collection's id; empty for our own.
    """

    kind: Literal["own", "stock"]
    relation: str
    column_type: str
    dimensions: int | None
    extension_schema: str
    stock_id: str = ""


def quote(name: str) -> str:
    """A name as an identifier in a statement that is executed with parameters (so ``%`` is doubled)."""
    return str(_preparer.quote_identifier(name))


def checked_name(field: str, name: Any) -> str:
    """The name of a table or schema as given, if PostgreSQL can store it as it is.

    Any characters will do, since names are always quoted.

    Raises:
        InvalidInput: It is no text, empty, longer than 63 bytes, or holds what PostgreSQL cannot store.
    """
    if not isinstance(name, str) or not name.strip():
        raise InvalidInput.of(field, name, "it is empty", fix=f"Enter a name for {field}.")
    if "\0" in name or not is_storable(name):
        raise InvalidInput.of(field, name, "it holds characters that PostgreSQL cannot store", fix="Remove them.")
    size = len(name.encode())
    if size > MAX_NAME_BYTES:
        problem = f"it takes {size} bytes and PostgreSQL cuts names after {MAX_NAME_BYTES}"
        raise InvalidInput.of(field, name, problem, fix="Choose a shorter name.")
    return name


# One statement tells all, so that a cold first search costs one round trip more, not five. A vector's typmod is its
# number of dimensions.
_LOOK = f"""
SELECT
  (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'),
  (SELECT jsonb_object_agg(a.attname, jsonb_build_array(t.typname, a.atttypmod))
     FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     JOIN pg_type t ON t.oid = a.atttypid
    WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND a.attnum > 0 AND NOT a.attisdropped),
  (SELECT count(*) = 2 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname IN ('{STOCK_COLLECTIONS}', '{STOCK_EMBEDDINGS}'))
"""  # noqa: S608 - our own names


async def find_layout(
    connection: AsyncConnection[tuple[Any, ...]], *, target: str, schema: str, collection: str
) -> Layout | None:
    """Looks up how a collection is stored; reads the catalog only and creates nothing.

    Our own table wins over a stock collection of the same name.

    Returns:
        The layout, or ``None`` if there is no such collection.

    Raises:
        DatabaseError: pgvector is missing, or a table of that name is no collection.
    """
    found = await (await connection.execute(_LOOK, {"schema": schema, "name": collection})).fetchone()
    extension, columns, has_stock = found or (None, None, False)
    if extension is None:
        raise failures.missing_extension(target)
    if columns and columns.keys() >= OWN_COLUMNS:
        kind, dimensions = columns["embedding"]
        return Layout("own", f"{quote(schema)}.{quote(collection)}", kind, dimensions, quote(extension))
    if has_stock:
        stock = await _find_stock(connection, schema, collection, quote(extension))
        if stock is not None:
            return stock
    if columns:
        missing = ", ".join(sorted(OWN_COLUMNS - columns.keys()))
        msg = f"The table {collection!r} in {target} is no collection of ours: it lacks {missing}."
        raise DatabaseError(msg, hint="Choose another collection_name.")
    return None


async def _find_stock(
    connection: AsyncConnection[tuple[Any, ...]], schema: str, collection: str, extension: str
) -> Layout | None:
    relation = f"{quote(schema)}.{STOCK_EMBEDDINGS}"
    found = await connection.execute(
        f"SELECT c.uuid::text, (SELECT {extension}.vector_dims(e.embedding) FROM {relation} e"  # noqa: S608 - quoted
        f" WHERE e.collection_id = c.uuid AND e.embedding IS NOT NULL LIMIT 1)"
        f" FROM {quote(schema)}.{STOCK_COLLECTIONS} c WHERE c.name = %s LIMIT 1",
        (collection,),
    )
    row = await found.fetchone()
    return Layout("stock", relation, "vector", row[1], extension, stock_id=row[0]) if row else None


class LayoutCache:
    """Layouts by (database and credential, schema, collection), for all engines of the process; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str, str], tuple[Layout, float]] = OrderedDict()

    def get(self, key: tuple[str, str, str]) -> Layout | None:
        """The layout if it is known and was looked up lately."""
        known = self._known.get(key)
        return known[0] if known and time.monotonic() < known[1] else None

    def put(self, key: tuple[str, str, str], layout: Layout) -> None:
        """Keeps a layout, and drops the oldest beyond the bound."""
        with self._lock:
            self._known[key] = (layout, time.monotonic() + LAYOUT_TTL_S)
            self._known.move_to_end(key)
            while len(self._known) > MAX_LAYOUTS:
                self._known.popitem(last=False)

    def forget(self, key: tuple[str, str, str]) -> None:
        """Drops a layout that turned out wrong or was changed."""
        with self._lock:
            self._known.pop(key, None)


layouts = LayoutCache()


def containment(filter_: Any) -> str:
    """A metadata filter ``{name: value, ...}``, all of which must be equal, as the JSON document rows must contain.

    Raises:
        InvalidInput: It is no mapping, a value is no scalar, or it cannot be stored as JSON.
    """
    hint = 'Enter it as {"name": value}.'
    if not isinstance(filter_, dict) or not all(isinstance(name, str) for name in filter_):
        msg = f"filter is of type {type(filter_).__name__}: it is no JSON object."
        raise InvalidInput(msg, hint=hint)
    for name, value in filter_.items():
        if value is not None and not isinstance(value, (str, int, float, bool)):
            msg = (
                f"filter wants {name!r} to equal a {type(value).__name__}: only text, numbers, true, false and null do."
            )
            raise InvalidInput(msg, hint=hint)
    problem, text = as_json(filter_)
    if problem:
        msg = f"filter {problem}."
        raise InvalidInput(msg, hint="Remove it from the filter.")
    return text


def is_storable(text: str) -> bool:
    """Whether a text has an UTF-8 form: one with half of a surrogate pair has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_json(mapping: Any) -> tuple[str, str]:
    """A mapping as JSON in one fixed form that PostgreSQL stores: ``(problem, text)``, one of which is empty."""
    if not hasattr(mapping, "keys"):
        return f"is of type {type(mapping).__name__}, not a mapping", ""
    try:
        text = json.dumps(dict(mapping), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as exc:
        return f"cannot be written as JSON ({type(exc).__name__}: {exc})", ""
    if not is_storable(text):
        return "holds a lone surrogate, which is no character", ""
    # An escaped NUL, unless the backslash in front of it is itself escaped.
    if "\\u0000" in text and "\\u0000" in text.replace("\\\\", ""):
        return "holds a NUL character, which PostgreSQL cannot store", ""
    return "", text
