"""The inputs of nodes that search a PostgreSQL database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from lfx.io import BoolInput, DictInput, DropdownInput, FloatInput, IntInput, StrInput

from langflow_sluice.nodes.database_inputs import database_of
from langflow_sluice.nodes.guard_inputs import number
from langflow_sluice.postgres.filters import read_filter
from langflow_sluice.postgres.layout import Columns
from langflow_sluice.postgres.retrieval import Collection, Retrieval
from langflow_sluice.postgres.search_settings import SEARCH_TYPES, SearchSettings

if TYPE_CHECKING:
    from lfx.custom.custom_component.component import Component
    from lfx.inputs.inputs import InputTypes

_DEFAULTS = SearchSettings()
_NAMES = Columns()


def search_inputs() -> list[InputTypes]:
    """How to search."""
    inputs = [
        DropdownInput(
            name="search_type",
            display_name="Search Type",
            options=list(SEARCH_TYPES),
            value=_DEFAULTS.search_type,
            info="similarity: near in meaning. mmr: near, and unlike one another. keyword: by words, without an "
            "embedding model. hybrid: by both, fused.",
        ),
        IntInput(
            name="number_of_results",
            display_name="Number of Results",
            value=_DEFAULTS.number_of_results,
            advanced=True,
        ),
        DictInput(
            name="filter",
            display_name="Filter",
            is_list=True,
            advanced=True,
            info="Metadata that rows must have: a field and the value it equals, or an object of operators, such as "
            '{"$gte": 2020}. Through the API also nested: {"$or": [{"lang": "en"}, {"year": {"$gte": 2020}}]}.',
        ),
        FloatInput(
            name="score_threshold",
            display_name="Score Threshold",
            advanced=True,
            info="Rows with a lower score are left out: a cosine similarity, 1 is the same direction; in keyword "
            "searches a rank between 0 and 1. Blank: all pass.",
        ),
        BoolInput(
            name="exact",
            display_name="Exact",
            value=False,
            advanced=True,
            info="Compare all rows instead of reading the HNSW index: slower, and misses none.",
        ),
        IntInput(
            name="fetch_k",
            display_name="Fetch K",
            value=_DEFAULTS.fetch_k,
            advanced=True,
            info="Rows that mmr chooses from, and that hybrid takes of each of its two lists.",
        ),
        FloatInput(
            name="mmr_lambda",
            display_name="MMR Lambda",
            value=_DEFAULTS.mmr_lambda,
            advanced=True,
            info="1: the most relevant rows, as similarity finds them. 0: the most diverse.",
        ),
        FloatInput(
            name="cache_ttl",
            display_name="Cache TTL",
            value=1,
            advanced=True,
            info="Seconds for which an equal question gets the same rows without asking the database; equal questions "
            "at once are asked once. Pooled PG Writer ends it at once, other writers do not. 0: off.",
        ),
    ]
    return cast("list[InputTypes]", inputs)


def table_inputs() -> list[InputTypes]:
    """Where to search: nothing for our own collections and those of stock PGVector, else names of columns."""
    inputs = [
        StrInput(
            name="schema_name",
            display_name="Schema",
            value="public",
            advanced=True,
            info="Schema that the collection's table lies in.",
        ),
        StrInput(
            name="content_column",
            display_name="Content Column",
            advanced=True,
            info="To search any table or view, named in Collection: its column of texts. Blank, with the two below: "
            "collections that Pooled PG Writer or stock PGVector have written.",
        ),
        StrInput(
            name="embedding_column",
            display_name="Embedding Column",
            advanced=True,
            info="Of any table: its column of type vector or halfvec.",
        ),
        StrInput(
            name="metadata_columns",
            display_name="Metadata Columns",
            advanced=True,
            info="Of any table, with commas between: columns to filter by and to return. Of a JSON column its fields "
            "are taken, of any other the value under the column's name.",
        ),
        StrInput(
            name="language",
            display_name="Language",
            advanced=True,
            info="For keyword and hybrid searches of tables that do not tell theirs: a text search configuration of "
            "PostgreSQL, such as german or simple. Blank: english.",
        ),
    ]
    return cast("list[InputTypes]", inputs)


def retrieval_of(component: Component) -> Retrieval:
    """What a node's inputs ask to be searched, and how.

    Raises:
        InvalidInput: One of the inputs is wrong; names it.
    """
    settings = SearchSettings(
        search_type=component.search_type or _DEFAULTS.search_type,
        number_of_results=_or_default(component.number_of_results, _DEFAULTS.number_of_results),
        score_threshold=component.score_threshold or None,
        filter=read_filter(component.filter),
        exact=bool(component.exact),
        fetch_k=_or_default(component.fetch_k, _DEFAULTS.fetch_k),
        mmr_lambda=_or_default(component.mmr_lambda, _DEFAULTS.mmr_lambda),
    )
    collection = Collection(
        component.collection_name,
        schema=component.schema_name or "public",
        columns=_columns_of(component),
        language=(component.language or "").strip(),
    )
    ttl_s = number(component.cache_ttl)
    return Retrieval(database_of(component), collection, component.embedding or None, settings, cache_ttl_s=ttl_s)


def _columns_of(component: Component) -> Columns | None:
    named = component.metadata_columns or ()
    # A list, which only the API can give, holds names as they are.
    metadata = [name.strip() for name in named.split(",")] if isinstance(named, str) else list(named)
    metadata = [name for name in metadata if name]
    content, embedding = component.content_column or "", component.embedding_column or ""
    if not (content or embedding or metadata):
        return None
    return Columns(content or _NAMES.content, embedding or _NAMES.embedding, tuple(metadata))


def _or_default(value: Any, default: Any) -> Any:
    """A number field's value: emptied on the canvas, it arrives as None or as an empty text."""
    return default if value is None or value == "" else value
