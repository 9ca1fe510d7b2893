from lfx.custom.custom_component.component import Component
from lfx.field_typing import Embeddings
from lfx.io import HandleInput, Output

from langflow_sluice.nodes.embedding_inputs import embedding_inputs, guarded_embeddings, report_of_embeddings
from langflow_sluice.nodes.guard_inputs import NAMED_BY_CREDENTIAL, guard_inputs
from langflow_sluice.nodes.upstream_inputs import call_inputs


class GuardedEmbeddingsComponent(Component):
    display_name = "Guarded Embeddings"
    description = "Puts a guard in front of any node's embeddings, sends them in batches and keeps what was asked for."
    icon = "shield"

    inputs = [
        HandleInput(
            name="embedding",
            display_name="Embeddings",
            input_types=["Embeddings"],
            required=True,
            info="The embeddings of any node. Their own retries are switched off: they would pass the guard by.",
        ),
        *embedding_inputs(),
        *call_inputs(total_timeout=300),
        *guard_inputs(blank_name=NAMED_BY_CREDENTIAL, model=True),
    ]
    outputs = [Output(display_name="Embeddings", name="embeddings", method="build_embeddings")]

    def build_embeddings(self) -> Embeddings:
        embeddings = guarded_embeddings(self)
        self.status = report_of_embeddings(embeddings.protection.guard)
        self.log(self.status, name="Guard")
        return embeddings
