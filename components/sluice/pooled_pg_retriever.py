from lfx.custom.custom_component.component import Component
from lfx.field_typing import Retriever
from lfx.io import DictInput, FloatInput, IntInput, Output, QueryInput
from lfx.schema.data import Data
from lfx.schema.dataframe import DataFrame

from langflow_sluice.nodes.database_inputs import collection_inputs, database_of, pool_inputs
from langflow_sluice.nodes.guard_inputs import NAMED_BY_CREDENTIAL, guard_inputs, report
from langflow_sluice.postgres.retrieval import PooledRetriever, Retrieval


class PooledPGRetrieverComponent(Component):
    display_name = "Pooled PG Retriever"
    description = "Finds the rows nearest to a question, over a pool of connections that all flows share."
    icon = "database"

    inputs = [
        *collection_inputs(),
        QueryInput(
            name="search_query",
            display_name="Search Query",
            info="The question.",
            placeholder="Enter a query...",
            tool_mode=True,
        ),
        IntInput(name="number_of_results", display_name="Number of Results", value=4, advanced=True),
        DictInput(
            name="filter",
            display_name="Filter",
            is_list=True,
            advanced=True,
            info="Metadata that rows must have, each equal.",
        ),
        FloatInput(
            name="score_threshold",
            display_name="Score Threshold",
            advanced=True,
            info="Rows less similar than this are left out; 1 is the same direction. Blank: all pass.",
        ),
        *pool_inputs(),
        *guard_inputs(blank_name=NAMED_BY_CREDENTIAL, max_concurrency=10),
    ]
    outputs = [
        Output(display_name="Search Results", name="search_results", method="search_documents"),
        Output(display_name="Table", name="dataframe", method="as_dataframe"),
        Output(display_name="Retriever", name="retriever", method="build_retriever", tool_mode=False),
    ]

    async def search_documents(self) -> list[Data]:
        query = (self.search_query or "").strip()
        hits = await self._retrieval().search(query) if query else []
        self.status = f"{len(hits)} results. {report(database_of(self).guard)}"
        return [Data(data={**hit.metadata, "text": hit.content, "score": hit.score}) for hit in hits]

    async def as_dataframe(self) -> DataFrame:
        return DataFrame(await self.search_documents())

    def build_retriever(self) -> Retriever:
        return PooledRetriever(retrieval=self._retrieval())

    def _retrieval(self) -> Retrieval:
        return Retrieval(
            database_of(self),
            self.collection_name,
            self.embedding,
            k=self.number_of_results,
            score_threshold=self.score_threshold or None,
            filter_=self.filter or None,
        )
