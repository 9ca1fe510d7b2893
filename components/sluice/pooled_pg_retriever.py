from lfx.custom.custom_component.component import Component
from lfx.field_typing import Retriever
from lfx.io import Output, QueryInput
from lfx.schema.data import Data
from lfx.schema.dataframe import DataFrame

from langflow_sluice.nodes.database_inputs import collection_inputs, pool_inputs
from langflow_sluice.nodes.guard_inputs import NAMED_BY_CREDENTIAL, guard_inputs, report
from langflow_sluice.nodes.node_status import show_status
from langflow_sluice.nodes.search_inputs import retrieval_of, search_inputs, table_inputs
from langflow_sluice.postgres.retrieval import PooledRetriever


class PooledPGRetrieverComponent(Component):
    display_name = "Pooled PG Retriever"
    description = "Finds the rows that answer a question, over a pool of connections that all flows share."
    icon = "database"

    inputs = [
        *collection_inputs(needs_embedding=False),
        QueryInput(
            name="search_query",
            display_name="Search Query",
            info="The question.",
            placeholder="Enter a query...",
            tool_mode=True,
        ),
        *search_inputs(),
        *table_inputs(),
        *pool_inputs(),
        *guard_inputs(blank_name=NAMED_BY_CREDENTIAL, max_concurrency=10),
    ]
    outputs = [
        Output(display_name="Search Results", name="search_results", method="search_documents"),
        Output(display_name="Table", name="dataframe", method="as_dataframe"),
        Output(display_name="Retriever", name="retriever", method="build_retriever", tool_mode=False),
    ]

    async def search_documents(self) -> list[Data]:
        retrieval = retrieval_of(self)
        query = (self.search_query or "").strip()
        hits = await retrieval.search(query) if query else []
        told = f"{len(hits)} results. {report(retrieval.guard)}"
        show_status(self, told)
        self.log(told, name="Guard")
        return [Data(data={**hit.metadata, "text": hit.content, "score": hit.score}) for hit in hits]

    async def as_dataframe(self) -> DataFrame:
        return DataFrame(await self.search_documents())

    def build_retriever(self) -> Retriever:
        return PooledRetriever(retrieval=retrieval_of(self))
