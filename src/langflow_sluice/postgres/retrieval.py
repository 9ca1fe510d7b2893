"""From a question to rows: the embedding, a slot of the guard and a connection of the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from langflow_sluice.postgres.engines import engine_for
from langflow_sluice.postgres.search import CollectionSearch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.embeddings import Embeddings

    from langflow_sluice.nodes.database_inputs import Database
    from langflow_sluice.postgres.search import SearchHit


class Retrieval:
    """Questions to one collection; from any event loop, and itself under ``deepcopy``.

    Args:
        database: Address, pool and guard.
        collection: The collection's name.
        embedding: Embeds the question, with the model that embedded the rows.
        k: The most rows to return.
        score_threshold: Rows with a lower score are left out; None lets all pass.
        filter_: Metadata that rows must have; None or empty lets all pass.
    """

    def __init__(
        self,
        database: Database,
        collection: str,
        embedding: Embeddings,
        *,
        k: int = 4,
        score_threshold: float | None = None,
        filter_: Mapping[str, Any] | None = None,
    ) -> None:
        self._database = database
        self._collection = collection
        self._embedding = embedding
        self._k = k
        self._score_threshold = score_threshold
        self._filter = filter_

    async def search(self, question: str) -> list[SearchHit]:
        """The rows nearest to a question, the nearest first.

        Raises:
            SluiceError: Turned away by a guard, or a failure of the provider or the database; says which.
        """
        # The slot is taken for the database alone: a slow embedding must not keep others from their connections.
        vector = await self._embedding.aembed_query(question)
        database = self._database
        async with database.guard.slot(priority=database.priority):
            search = CollectionSearch(engine_for(database.url, database.settings), self._collection)
            return await search.similarity(
                vector, k=self._k, score_threshold=self._score_threshold, filter=self._filter
            )

    def __deepcopy__(self, memo: dict[int, object]) -> Retrieval:
        return self


class PooledRetriever(BaseRetriever):
    """A LangChain retriever over a ``Retrieval``; its synchronous entry points may be used from any thread."""

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
        from lfx.utils.async_helpers import run_until_complete

        hits: list[SearchHit] = run_until_complete(self.retrieval.search(query))
        return [as_document(hit) for hit in hits]


def as_document(hit: SearchHit) -> Document:
    """A hit as LangChain knows it, with its score among the metadata."""
    return Document(page_content=hit.content, metadata={**hit.metadata, "score": hit.score})
