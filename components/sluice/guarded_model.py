from lfx.custom.custom_component.component import Component
from lfx.field_typing import LanguageModel
from lfx.io import FloatInput, HandleInput, Output

from langflow_sluice.nodes.foreign_models import guarded_model
from langflow_sluice.nodes.guard_inputs import NAMED_BY_CREDENTIAL, guard_inputs, report_of
from langflow_sluice.nodes.upstream_inputs import call_inputs


class GuardedModelComponent(Component):
    display_name = "Guarded Model"
    description = "Puts a guard in front of any node's model; whoever calls it waits for a slot."
    icon = "shield"

    inputs = [
        HandleInput(
            name="model",
            display_name="Language Model",
            input_types=["LanguageModel"],
            required=True,
            info="The model of any node. Its own retries are switched off: they would pass the guard by.",
        ),
        HandleInput(
            name="fallback",
            display_name="Fallback",
            input_types=["LanguageModel"],
            info="Answers instead when the service fails or is left alone, the queue is full, or time runs short.",
        ),
        *call_inputs(total_timeout=300),
        FloatInput(
            name="fallback_after",
            display_name="Fallback After",
            value=60,
            advanced=True,
            info="Seconds without an answer after which the fallback is asked. 0: only at a failure.",
        ),
        *guard_inputs(blank_name=NAMED_BY_CREDENTIAL, model=True),
    ]
    outputs = [Output(display_name="Language Model", name="model_output", method="build_model")]

    def build_model(self) -> LanguageModel:
        model = guarded_model(self)
        self.status = report_of(model)
        self.log(self.status, name="Guard")
        return model
