"""From a question to rows: the embedding, a slot of the guard and a connection of the pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from langflow_sluice.errors import InvalidInput, checked_amount
from langflow_sluice.postgres import side_loop
from langflow_sluice.postgres.engines import engine_for
from langflow_sluice.postgres.guarding import guarded
from langflow_sluice.postgres.result_cache import key_of, namespace_of, result_cache
from langflow_sluice.postgres.search import CollectionSearch
from langflow_sluice.postgres.url import fingerprint
from langflow_sluice.single_flight import Ask

if TYPE_CHECKING:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.embeddings import Embeddings

    from langflow_sluice.guard import Guard
    from langflow_sluice.nodes.database_inputs import Database
    from langflow_sluice.postgres.layout import Columns
    from langflow_sluice.postgres.search import SearchHit
    from langflow_sluice.postgres.search_settings import SearchSettings


@dataclass(frozen=True, slots=True)
class Collection:
    """Which rows are searched; hashable.

    Attributes:
        name: Its name, which is its table's (or view's) if it is no collection of stock PGVector.
        schema: Schema that its table lies in.
        columns: Which columns to read, if the table is neither ours nor stock PGVector's.
        language: Text search configuration where the table does not tell its own; empty for English.
    """

    name: str
    schema: str = "public"
    columns: Columns | None = None
    language: str = ""


class Retrieval:
    """Questions to one collection; from any event loop, and itself under ``deepcopy``.

    Args:
        database: Address, pool and guard.
        collection: Which rows to search.
        embedding: Embeds the question, with the model that embedded the rows; ``None`` will do for keyword searches.
        settings: How to search.
        cache_ttl_s: Seconds for which what was found is taken for an equal question, and for which equal questions at
            the same time are one; 0 asks the database each time. A write through our writer ends it at once, any other
            write does not.

    Raises:
        InvalidInput: The search needs an embedding model and there is none, or the time is none.
    """

    def __init__(
        self,
        database: Database,
        collection: Collection,
        embedding: Embeddings | None,
        settings: SearchSettings,
        *,
        cache_ttl_s: float = 0.0,
    ) -> None:
        if settings.needs_embedding and embedding is None:
            problem = f"a {settings.search_type} search compares embeddings"
            fix = "Connect the embedding model that the rows were written with, or set search_type to keyword."
            raise InvalidInput.of("embedding", None, problem, fix=fix)
        self._database = database
        self._collection = collection
        self._embedding = embedding
        self._settings = settings
        self._ask = Ask(
            namespace_of(fingerprint(database.url), collection.schema, collection.name),
            checked_amount("cache_ttl", cache_ttl_s, "it is a number of seconds", fix="Set cache_ttl to 0 or above."),
            # Who waits for another one's search gets its place in the queue and its errors.
            terms=(database.guard, database.priority, database.settings),
        )

    @property
    def guard(self) -> Guard:
        """The gate in front of the database."""
        return self._database.guard

    async def search(self, question: str) -> list[SearchHit]:
        """The rows that answer a question, the best first.

        Raises:
            SluiceError: Turned away by a guard, or a failure of the provider or the database; says which.
        """
        vector = await self._embed(question)
        key = (key_of(question, vector), self._collection, self._settings)
        found: list[SearchHit] = await result_cache().get(self._ask, key, lambda: self._find(question, vector))
        return found

    async def _embed(self, question: str) -> list[float] | None:
        if self._embedding is None or not self._settings.needs_embedding:
            return None
        return await self._embedding.aembed_query(question)

    async def _find(self, question: str, vector: list[float] | None) -> list[SearchHit]:
        """What the database finds; depends on nothing but the database, the collection, the settings and these."""
        # The slot is taken for the database alone: a slow embedding must not keep others from their connections.
        database, collection = self._database, self._collection
        async with guarded(database):
            search = CollectionSearch(
                engine_for(database.url, database.settings),
                collection.name,
                schema=collection.schema,
                columns=collection.columns,
                language=collection.language,
            )
            return await search.find(self._settings, text=question, embedding=vector)

    def __deepcopy__(self, memo: dict[int, object]) -> Retrieval:
        return self


class PooledRetriever(BaseRetriever):
    """A LangChain retriever over a ``Retrieval``; its synchronous entry points may be used from any thread.

    Those run on a loop that all of them share. On a thread that runs an event loop they block that loop, and raise
    ``WouldBlockLoop`` after some seconds if the search seems to wait for it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    retrieval: Retrieval

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain's signature
    ) -> list[Document]:
        return [as_document(hit) for hit in await self.retrieval.search(query)]

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - as above
    ) -> list[Document]:
        return [as_document(hit) for hit in side_loop.side_loop.run(self.retrieval.search(query))]


def as_document(hit: SearchHit) -> Document:
    """A hit as LangChain knows it, with its score among the metadata."""
    return Document(page_content=hit.content, metadata={**hit.metadata, "score": hit.score})
