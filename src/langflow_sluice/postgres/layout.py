"""Where a collection's rows lie: our own table, the two of LangChain's stock PGVector, or any table or view."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from langflow_sluice.errors import DatabaseError, InvalidInput
from langflow_sluice.postgres import catalog, failures
from langflow_sluice.postgres.names import checked_name, quote, quote_text

if TYPE_CHECKING:
    from collections.abc import Hashable

    from psycopg import AsyncConnection

    from langflow_sluice.postgres.catalog import Catalog, Table

# Another process may create, rewrite or drop a collection; what we know of it is looked up again after this.
LAYOUT_TTL_S = 60.0
MAX_LAYOUTS = 1024
# Ways of reading one collection that are remembered: with or without vectors, by these columns or those.
MAX_VARIANTS = 16
OWN_COLUMNS = frozenset({"content_hash", "content", "metadata", "embedding"})
# The text search configuration of collections that say nothing else.
DEFAULT_LANGUAGE = "english"
# PostgreSQL refuses to make a tsvector of a text whose words take more than 1 MB; the start of a very long one will do.
INDEXED_CHARACTERS = 200_000
_JSON_TYPES = frozenset({"json", "jsonb"})
_VECTOR_TYPES = frozenset({"vector", "halfvec"})


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table that is none of ours to read.

    Attributes:
        content: Column of the text.
        embedding: Column of the vectors; keyword searches do without it.
        metadata: Columns that tell about the text: the fields of a JSON object, or one field named like the column.

    Raises:
        InvalidInput: PostgreSQL cannot store such a name.
    """

    content: str = "content"
    embedding: str = "embedding"
    metadata: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checked_name("content_column", self.content)
        checked_name("embedding_column", self.embedding)
        for name in self.metadata:
            checked_name("metadata_columns", name)


@dataclass(frozen=True, slots=True)
class MetadataColumn:
    """A column that metadata is read from.

    Attributes:
        name: Its name.
        type: Its type's name; the fields of ``json`` and ``jsonb`` are fields of the metadata.
    """

    name: str
    type: str

    @property
    def is_json(self) -> bool:
        """Whether it holds fields, instead of being one."""
        return self.type in _JSON_TYPES

    @property
    def column(self) -> str:
        """The column in SQL."""
        return f"r.{quote(self.name)}"

    @property
    def value(self) -> str:
        """What it holds in SQL, as JSON, in which all types look alike."""
        return self.column if self.is_json else f"to_jsonb({self.column})"


@dataclass(frozen=True, slots=True, eq=False)  # itself, not its fields, is the key of the statements made for it
class Layout:
    """How to read one collection. All SQL in it calls the relation ``r``.

    Attributes:
        kind: ``own`` (one table, typed columns), ``stock`` (LangChain's PGVector), or any ``table`` or view.
        relation: The table in SQL, quoted.
        column_type: pgvector's type of the embeddings: ``vector`` or ``halfvec``; empty if they were not looked at.
        dimensions: Length of the embeddings; ``None`` if the type leaves it open and there are no rows yet.
        extension_schema: Schema of pgvector, quoted; it need not be on the search path.
        stock_id: The stock collection's id; empty for others.
        content: The text in SQL.
        embedding: The embedding in SQL.
        metadata: Where the metadata lies; of fields with the same name a later JSON column's counts, and a column's own
            name before both.
        has_row_ids: Whether rows have ``tableoid`` and ``ctid``, which a view's have not.
        is_approximate: Whether an index may answer that does not find all rows.
        tsvector: The words of the text in SQL.
        text_config: The text search configuration they were made with, in SQL.
    """

    kind: Literal["own", "stock", "table"]
    relation: str
    column_type: str
    dimensions: int | None
    extension_schema: str
    stock_id: str = ""
    content: str = 'r."content"'
    embedding: str = 'r."embedding"'
    metadata: tuple[MetadataColumn, ...] = (MetadataColumn("metadata", "jsonb"),)
    has_row_ids: bool = True
    is_approximate: bool = True
    tsvector: str = 'r."content_tsv"'
    text_config: str = f"'{DEFAULT_LANGUAGE}'::regconfig"


async def find_layout(
    connection: AsyncConnection[tuple[Any, ...]],
    *,
    target: str,
    schema: str,
    collection: str,
    columns: Columns | None = None,
    language: str = "",
    vectors: bool = True,
) -> Layout | None:
    """Looks up how a collection is stored; reads the catalog only and creates nothing.

    Our own table wins over a stock collection of the same name; with ``columns`` it is a table in any case.

    Args:
        connection: Any.
        target: The database as ``host:port/database``, for errors.
        schema: Schema of the collection's table.
        collection: Its name.
        columns: Which columns to read of a table that is none of ours.
        language: Text search configuration where the collection does not tell its own; empty for English.
        vectors: Whether embeddings are needed; keyword searches work without them, and without pgvector.

    Returns:
        The layout, or ``None`` if there is no such collection.

    Raises:
        DatabaseError: pgvector is missing, or a table of that name is no collection.
        InvalidInput: A column is missing or of the wrong type, or there is no such language.
    """
    known = await catalog.look(connection, schema=schema, table=collection)
    if vectors and known.extension_schema is None:
        raise failures.missing_extension(target)
    if language and language not in known.text_configs:
        names = ", ".join(sorted(known.text_configs))
        raise InvalidInput.of("language", language, f"{target} has no such language", fix=f"It has {names}.")
    table = known.tables.get(collection)
    finder = _Finder(known, schema, language, vectors=vectors, what=f"{collection!r} in {target}")
    if columns is not None:
        layout = finder.table(collection, table, columns) if table else None
    elif table and table.columns.keys() >= OWN_COLUMNS:
        layout = finder.own(collection, table)
    else:
        layout = await finder.stock(connection, collection)
        if layout is None and table:
            missing = ", ".join(sorted(OWN_COLUMNS - table.columns.keys()))
            msg = f"The table {collection!r} in {target} is no collection of ours: it lacks {missing}."
            hint = "Choose another collection_name; to search it, name its columns in content_column, embedding_column."
            raise DatabaseError(msg, hint=hint)
    if layout is None or layout.dimensions is not None or not vectors or layout.kind == "stock":
        return layout
    return replace(layout, dimensions=await _dimensions(connection, layout))


@dataclass(frozen=True, slots=True)
class _Finder:
    """Makes layouts of what the catalog tells."""

    known: Catalog
    schema: str
    language: str
    vectors: bool
    what: str

    def own(self, collection: str, table: Table) -> Layout:
        return self._layout("own", collection, table, Columns(metadata=("metadata",)))

    def table(self, collection: str, table: Table, columns: Columns) -> Layout:
        wanted = {"content_column": columns.content}
        if self.vectors:
            wanted["embedding_column"] = columns.embedding
        for field, name in [*wanted.items(), *(("metadata_columns", name) for name in columns.metadata)]:
            if name not in table.columns:
                fix = f"It has {', '.join(sorted(table.columns))}."
                raise InvalidInput.of(field, name, f"{self.what} has no such column", fix=fix)
        content = table.columns[columns.content]
        if not content.is_text:
            problem = f"in {self.what} it is of type {content.type}, which is no text"
            raise InvalidInput.of("content_column", columns.content, problem, fix="Name the column of the text.")
        return self._layout("table", collection, table, columns)

    async def stock(self, connection: AsyncConnection[tuple[Any, ...]], collection: str) -> Layout | None:
        table = self.known.tables.get(catalog.STOCK_EMBEDDINGS)
        if table is None or catalog.STOCK_COLLECTIONS not in self.known.tables:
            return None
        named = Columns("document", "embedding", ("cmetadata",))
        if not table.columns.keys() >= {"collection_id", *named.metadata, named.content, named.embedding}:
            return None
        layout = self._layout("stock", catalog.STOCK_EMBEDDINGS, table, named)
        dimensions = f"({_dimensions_of(layout)} AND r.collection_id = c.uuid LIMIT 1)" if self.vectors else "NULL"
        found = await connection.execute(
            f"SELECT c.uuid::text, {dimensions} FROM {quote(self.schema)}.{catalog.STOCK_COLLECTIONS} c"  # noqa: S608 - quoted
            " WHERE c.name = %s LIMIT 1",
            (collection,),
        )
        row = await found.fetchone()
        return replace(layout, stock_id=row[0], dimensions=row[1]) if row else None

    def _layout(self, kind: Literal["own", "stock", "table"], name: str, table: Table, columns: Columns) -> Layout:
        embedding = table.columns.get(columns.embedding) if self.vectors else None
        if embedding is not None and embedding.type not in _VECTOR_TYPES:
            hint = "Sluice searches columns of type vector and halfvec."
            problem = f"in {self.what} it is of type {embedding.type}"
            if kind == "table":
                raise InvalidInput.of("embedding_column", columns.embedding, problem, fix=hint)
            msg = f"The embeddings of {self.what} are of type {embedding.type}."
            raise DatabaseError(msg, hint=hint)
        tsvector, config = self._words(table, columns.content)
        return Layout(
            kind,
            f"{quote(self.schema)}.{quote(name)}",
            embedding.type if embedding else "",
            embedding.dimensions if embedding else None,
            quote(self.known.extension_schema or "public"),
            content=f"r.{quote(columns.content)}",
            embedding=f"r.{quote(columns.embedding)}",
            metadata=tuple(MetadataColumn(name, table.columns[name].type) for name in columns.metadata),
            has_row_ids=table.has_row_ids,
            is_approximate=table.is_approximate,
            tsvector=tsvector,
            text_config=config,
        )

    def _words(self, table: Table, content: str) -> tuple[str, str]:
        """The words of the content in SQL, from an index if there is one, and their configuration."""
        language = self.known.text_configs.get(self.language or DEFAULT_LANGUAGE, "simple")
        ready = {name: column.text_config for name, column in table.columns.items() if column.type == "tsvector"}
        # Of several we cannot know which is the content's, unless it is called so.
        names = [f"{content}_tsv"] if f"{content}_tsv" in ready else list(ready)
        if len(names) == 1:
            name = names[0]
            return f"r.{quote(name)}", f"{quote_text(ready[name] or language)}::regconfig"
        column = f"r.{quote(content)}"
        for config, indexed in table.text_indexes:
            if indexed == content and (not self.language or self._means(config, language)):
                return f"to_tsvector({quote_text(config)}::regconfig, {column})", f"{quote_text(config)}::regconfig"
        config = f"{quote_text(language)}::regconfig"
        return f"to_tsvector({config}, left({column}, {INDEXED_CHARACTERS}))", config

    def _means(self, config: str, language: str) -> bool:
        return config == language or self.known.text_configs.get(config) == language


def _dimensions_of(layout: Layout) -> str:
    return (
        f"SELECT {layout.extension_schema}.vector_dims({layout.embedding}) FROM {layout.relation} r"  # noqa: S608 - quoted
        f" WHERE {layout.embedding} IS NOT NULL"
    )


async def _dimensions(connection: AsyncConnection[tuple[Any, ...]], layout: Layout) -> int | None:
    found = await (await connection.execute(f"{_dimensions_of(layout)} LIMIT 1".encode(), ())).fetchone()
    return found[0] if found else None


class LayoutCache:
    """Layouts by (database and credential, schema, collection), for all engines of the process; any thread.

    One collection may be read in several ways; each ``variant`` is kept apart, and all are forgotten together.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str, str], dict[Hashable, tuple[Layout, float]]] = OrderedDict()

    def get(self, key: tuple[str, str, str], variant: Hashable = None) -> Layout | None:
        """The layout if it is known and was looked up lately."""
        known = self._known.get(key, {}).get(variant)
        return known[0] if known and time.monotonic() < known[1] else None

    def put(self, key: tuple[str, str, str], layout: Layout, variant: Hashable = None) -> None:
        """Keeps a layout, and drops the oldest beyond the bound."""
        with self._lock:
            others = self._known.get(key, {})
            # A new dictionary: somebody may be reading the old one.
            kept = {each: known for each, known in others.items() if len(others) < MAX_VARIANTS and each != variant}
            self._known[key] = {**kept, variant: (layout, time.monotonic() + LAYOUT_TTL_S)}
            self._known.move_to_end(key)
            while len(self._known) > MAX_LAYOUTS:
                self._known.popitem(last=False)

    def forget(self, key: tuple[str, str, str]) -> None:
        """Drops what is known of a collection that was changed, or turned out otherwise."""
        with self._lock:
            self._known.pop(key, None)


layouts = LayoutCache()
