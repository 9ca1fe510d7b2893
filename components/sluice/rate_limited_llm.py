from lfx.base.models.model import LCModelComponent
from lfx.field_typing import LanguageModel
from lfx.field_typing.range_spec import RangeSpec
from lfx.io import BoolInput, DictInput, DropdownInput, IntInput, MessageInput, MultilineInput, Output, SliderInput
from lfx.schema.message import Message

from langflow_sluice.errors import SluiceError
from langflow_sluice.models.openai_compatible import chat_model
from langflow_sluice.nodes.guard_inputs import NAMED_BY_CREDENTIAL, guard_inputs, report_of
from langflow_sluice.nodes.upstream_inputs import call_policy, guard_of_upstream, upstream_inputs, upstream_of

MODEL_NAMES = ["gpt-4o-mini", "gpt-4o", "gpt-4.1-mini", "gpt-4.1", "gpt-5-mini", "gpt-5"]


class RateLimitedLLMComponent(LCModelComponent):
    display_name = "Rate-Limited LLM"
    description = "Calls an OpenAI-compatible model through one guard, shared by every flow that uses the same key."
    icon = "gauge"
    model_provider_id = "openai"

    inputs = [
        MessageInput(name="input_value", display_name="Input"),
        MultilineInput(
            name="system_message", display_name="System Message", info="Put in front of the input, for every call."
        ),
        BoolInput(name="stream", display_name="Stream", advanced=True, info="Show the answer while it is written."),
        DropdownInput(
            name="model_name", display_name="Model Name", options=MODEL_NAMES, value=MODEL_NAMES[0], combobox=True
        ),
        *upstream_inputs(read_timeout=120, total_timeout=300),
        SliderInput(
            name="temperature",
            display_name="Temperature",
            value=0.1,
            range_spec=RangeSpec(min=0, max=2, step=0.01),
            advanced=True,
            info="Not sent to reasoning models, which refuse it.",
        ),
        IntInput(
            name="max_tokens",
            display_name="Max Tokens",
            advanced=True,
            info="The longest answer. 0: the model's limit.",
        ),
        DropdownInput(
            name="reasoning_effort",
            display_name="Reasoning Effort",
            options=["", "none", "minimal", "low", "medium", "high", "xhigh"],
            value="",
            advanced=True,
            info="How long a reasoning model thinks. Blank: the model's own; other models take none.",
        ),
        BoolInput(name="json_mode", display_name="JSON Mode", advanced=True, info="The answer must be a JSON object."),
        IntInput(
            name="seed",
            display_name="Seed",
            value=None,
            advanced=True,
            info="Makes answers repeat as far as the service can. Blank: none. Not sent to reasoning models.",
        ),
        DictInput(
            name="model_kwargs",
            display_name="Model Kwargs",
            is_list=True,
            advanced=True,
            info="Further parameters of the request, as the service names them.",
        ),
        *guard_inputs(blank_name=NAMED_BY_CREDENTIAL, model=True),
    ]
    outputs = [
        Output(display_name="Model Response", name="text_output", method="text_response"),
        Output(display_name="Language Model", name="model_output", method="build_model"),
    ]

    async def text_response(self) -> Message:
        model = self.build_model()
        message = await self.get_chat_result(
            runnable=model,
            stream=self.stream,
            input_value=self.input_value,
            system_message=self.system_message,
        )
        self.status = report_of(model)
        self.log(self.status, name="Guard")
        return message

    def build_model(self) -> LanguageModel:
        upstream = upstream_of(self)
        return chat_model(
            upstream,
            guard_of_upstream(self, upstream),
            call_policy(self),
            model_name=self.model_name,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=self.seed if isinstance(self.seed, int) else None,
            reasoning_effort=self.reasoning_effort or "",
            json_mode=bool(self.json_mode),
            model_kwargs=self.model_kwargs,
        )

    def _get_exception_message(self, e: Exception) -> str | None:
        # An error of ours says it all; wrapped in another one, its code would be lost.
        return None if isinstance(e, SluiceError) else super()._get_exception_message(e)
