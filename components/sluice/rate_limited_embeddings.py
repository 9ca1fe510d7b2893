from lfx.base.embeddings.model import LCEmbeddingsModel
from lfx.field_typing import Embeddings
from lfx.io import DropdownInput, IntInput, Output

from langflow_sluice.models.openai_compatible import embeddings
from langflow_sluice.nodes.embedding_inputs import embedding_inputs, report_of_embeddings
from langflow_sluice.nodes.guard_inputs import NAMED_BY_CREDENTIAL, guard_inputs, number
from langflow_sluice.nodes.upstream_inputs import call_policy, guard_of_upstream, upstream_inputs, upstream_of

MODEL_NAMES = ["text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"]


class RateLimitedEmbeddingsComponent(LCEmbeddingsModel):
    display_name = "Rate-Limited Embeddings"
    description = "Embeds texts in batches through one guard, shared by every flow that uses the same key."
    icon = "gauge"
    model_provider_id = "openai"

    inputs = [
        DropdownInput(
            name="model_name", display_name="Model Name", options=MODEL_NAMES, value=MODEL_NAMES[0], combobox=True
        ),
        *upstream_inputs(read_timeout=60, total_timeout=300),
        IntInput(
            name="dimensions",
            display_name="Dimensions",
            advanced=True,
            info="Length of the vectors, for models that let you choose. 0: the model's own.",
        ),
        *embedding_inputs(),
        *guard_inputs(blank_name=NAMED_BY_CREDENTIAL, model=True),
    ]
    outputs = [Output(display_name="Embedding Model", name="embeddings", method="build_embeddings")]

    def build_embeddings(self) -> Embeddings:
        upstream = upstream_of(self)
        guard = guard_of_upstream(self, upstream)
        self.status = report_of_embeddings(guard)
        self.log(self.status, name="Guard")
        return embeddings(
            upstream,
            guard,
            call_policy(self),
            model_name=self.model_name,
            dimensions=self.dimensions,
            batch_size=number(self.batch_size),
            cache_ttl_s=number(self.cache_ttl),
        )
