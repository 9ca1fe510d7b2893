from lfx.custom.custom_component.component import Component
from lfx.io import DropdownInput, HandleInput, IntInput, Output, StrInput
from lfx.schema.data import Data

from langflow_sluice.nodes.database_inputs import collection_inputs, database_of, pool_inputs
from langflow_sluice.nodes.guard_inputs import NAMED_BY_CREDENTIAL, guard_inputs, report
from langflow_sluice.nodes.playground import shown_progress
from langflow_sluice.nodes.texts import texts_of
from langflow_sluice.postgres.ingestion import in_ranges, ingest


class PooledPGWriterComponent(Component):
    display_name = "Pooled PG Writer"
    description = "Embeds texts and writes them to PostgreSQL, once each, over a pool that all flows share."
    icon = "database"

    inputs = [
        *collection_inputs(),
        HandleInput(
            name="ingest_data",
            display_name="Ingest Data",
            input_types=["DataFrame", "Table", "Data", "JSON", "Message"],
            is_list=True,
            required=True,
            info="A table, JSON or messages: one text each, in the field text; other fields become metadata.",
        ),
        IntInput(name="batch_size", display_name="Batch Size", value=500, advanced=True, info="Rows a transaction."),
        DropdownInput(
            name="on_conflict",
            display_name="On Conflict",
            options=["skip", "update", "error"],
            value="skip",
            advanced=True,
            info="What to do with a text that is there already: leave it, embed it again and replace its embedding, or "
            "end with an error before anything is embedded.",
        ),
        StrInput(
            name="language",
            display_name="Language",
            advanced=True,
            info="Of a collection that is not there yet, for keyword and hybrid searches: a text search configuration "
            "of PostgreSQL, such as german or simple. Blank: english.",
        ),
        *pool_inputs(),
        *guard_inputs(blank_name=NAMED_BY_CREDENTIAL, max_concurrency=10),
    ]
    outputs = [Output(display_name="Ingest Result", name="ingest_result", method="ingest_documents")]

    async def ingest_documents(self) -> Data:
        database = database_of(self)
        texts = texts_of(self.ingest_data)
        async with shown_progress(self, len(texts), database.guard.clock, "texts") as progress:
            result = await ingest(
                database,
                self.collection_name,
                self.embedding,
                texts,
                on_conflict=self.on_conflict,
                batch_size=self.batch_size,
                language=(self.language or "").strip(),
                progress=lambda now: progress.add(now.done - progress.done, failed=now.failed - progress.failed),
            )
        for line in in_ranges(result.failed):
            self.log(line, name="Failed")
        if result.warning:
            self.log(result.warning, name="Index")
        told = f"{result.written} written, {result.skipped} skipped, {len(result.failed)} failed"
        self.status = " ".join(filter(None, (f"{told}.", result.warning, report(database.guard))))
        self.log(self.status, name="Guard")
        return Data(
            data={
                "text": told,
                "written": result.written,
                "skipped": result.skipped,
                "failed": [{"row": failure.index, "error": failure.reason} for failure in result.failed],
                "seconds": round(result.seconds, 3),
                "warning": result.warning,
            }
        )
