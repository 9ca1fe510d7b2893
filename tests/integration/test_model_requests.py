"""What a Rate-Limited LLM sends: its parameters as they leave for the service, whichever way the model is called."""

import asyncio
import json
import warnings

import pytest
from langchain_core.tools import tool
from pydantic import BaseModel

from langflow_sluice.errors import InvalidInput
from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.guard.retry import CallPolicy
from langflow_sluice.models.openai_compatible import Upstream, chat_model

from .asking import ask

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from lfx.base.models.openai_constants import OPENAI_REASONING_MODEL_NAMES

KEY = "canary-key"
REASONING = OPENAI_REASONING_MODEL_NAMES[0]
WAYS = ["ainvoke", "invoke", "astream", "stream"]


@pytest.fixture
def make(provider):
    """Makes a model that tells what it has sent."""

    def made(model_name="sim-chat", guard=None, **options):
        upstream = Upstream(provider.base_url, KEY)
        guard = guard or Guard("test", GuardSettings())
        model = chat_model(upstream, guard, CallPolicy(max_retries=0), model_name=model_name, **options)
        bodies = []

        async def record(request):
            bodies.append(json.loads(request.content))

        model.http_async_client.event_hooks = {"request": [record]}
        model.http_client.event_hooks = {"request": [lambda request: bodies.append(json.loads(request.content))]}
        return model, bodies

    return made


def sent(body):
    """A body without what each request has."""
    return {name: value for name, value in body.items() if name not in {"model", "messages", "stream"}}


STREAMED = {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize("way", WAYS)
async def test_without_settings_nothing_but_the_messages_is_sent_and_the_usage_is_reported(make, way):
    model, bodies = make()
    answer = await ask(model, way)
    [body] = bodies
    assert body["model"] == "sim-chat"
    assert [message["content"] for message in body["messages"]] == ["hello"]
    assert sent(body) == (STREAMED if "stream" in way else {})
    assert answer.usage_metadata["total_tokens"] > 0


@pytest.mark.parametrize("way", WAYS)
async def test_every_parameter_reaches_the_service_in_every_way(make, way):
    # The client knows the first, LangChain the second, and only the service the third.
    options = {"user": "u-1", "top_p": 0.5, "top_k": 3}
    model, bodies = make(temperature=0.3, seed=7, max_tokens=9, reasoning_effort="low", model_kwargs=options)
    await ask(model, way)
    expected = {
        "temperature": 0.3,
        "seed": 7,
        "max_completion_tokens": 9,
        "reasoning_effort": "low",
        "user": "u-1",
        "top_p": 0.5,
    }
    assert sent(bodies[0]) == {**expected, "top_k": 3, **(STREAMED if "stream" in way else {})}


@pytest.mark.parametrize("way", WAYS)
async def test_in_json_mode_the_answer_is_a_json_object_and_the_model_is_still_one(make, way):
    guard = Guard("test", GuardSettings(max_concurrency=1))
    model, bodies = make(guard=guard, json_mode=True)
    answer = await ask(model, way)
    assert json.loads(answer.text) == {"answer": "Answer to: hello"}
    assert bodies[0]["response_format"] == {"type": "json_object"}
    assert hasattr(model, "bind_tools")
    assert (guard.statistics().admitted, guard.statistics().in_flight) == (1, 0)


class Verdict(BaseModel):
    """A verdict."""

    reason: str
    score: int


@tool
def search(query: str) -> str:
    """Searches."""
    return query


async def test_in_json_mode_a_schema_or_tools_of_a_call_still_work(make):
    model, bodies = make(json_mode=True)
    for method in ("json_schema", "function_calling", "json_mode"):
        structured = model.with_structured_output(Verdict, method=method, include_raw=True)
        found = await structured.ainvoke("judge")
        assert method == "json_mode" or isinstance(found["parsed"], Verdict)
    assert [body["response_format"]["type"] for body in bodies] == ["json_schema", "json_object", "json_object"]
    for way in WAYS:
        assert (await ask(model.bind_tools([search]), way, "sluice gates")).tool_calls
        assert bodies[-1]["response_format"] == {"type": "json_object"}


async def test_further_parameters_that_only_the_service_knows_are_added_to_those_of_the_body(make):
    model, bodies = make(json_mode=True, model_kwargs={"top_k": 3, "extra_body": {"min_p": 0.1}})
    await model.bind_tools([search]).ainvoke("hello")
    assert (bodies[0]["top_k"], bodies[0]["min_p"]) == (3, 0.1)
    assert bodies[0]["response_format"] == {"type": "json_object"}
    with pytest.raises(InvalidInput, match="extra_body"):
        make(model_kwargs={"top_k": 3, "extra_body": "canary"})


async def test_a_format_among_the_further_parameters_wins_over_json_mode(make):
    model, bodies = make(json_mode=True, model_kwargs={"response_format": {"type": "text"}})
    assert (await model.ainvoke("hello")).text == "Answer to: hello"
    assert bodies[0]["response_format"] == {"type": "text"}


@pytest.mark.parametrize(("seed", "expected"), [(0, {"seed": 0}), (None, {}), (7, {"seed": 7})])
async def test_a_seed_of_zero_is_a_seed(make, seed, expected):
    model, bodies = make(seed=seed)
    await model.ainvoke("hello")
    assert sent(bodies[0]) == expected


async def test_reasoning_models_get_neither_temperature_nor_seed(make):
    model, bodies = make(REASONING, temperature=0.3, seed=7, max_tokens=9, reasoning_effort="high")
    await model.ainvoke("hello")
    assert sent(bodies[0]) == {"max_completion_tokens": 9, "reasoning_effort": "high"}


async def test_settings_that_are_switched_off_are_not_sent(make):
    model, bodies = make(temperature=None, max_tokens=0, reasoning_effort="", json_mode=False, model_kwargs={})
    await model.ainvoke("hello")
    assert sent(bodies[0]) == {}


async def test_the_caller_of_the_node_is_not_surprised_by_a_dictionary_that_was_changed(make):
    given = {"top_p": 0.5, "user": "u-1"}
    make(json_mode=True, model_kwargs=given)
    assert given == {"top_p": 0.5, "user": "u-1"}


REFUSED = ["api_key", "openai_api_key", "base_url", "model", "model_name", "max_retries", "timeout", "http_client"]
REFUSED += ["streaming", "callbacks", "cache", "default_headers", "request_timeout", "max_tokens", "rate_limiter"]
REFUSED += [
    "messages",
    "stream",
    "openai_proxy",
    "model_kwargs",
    "disable_streaming",
    "stream_usage",
    "metadata",
    "organization",
]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_parameter_of_a_request_is_refused_by_name_and_without_its_value(make, name):
    with pytest.raises(InvalidInput, match=f"model_kwargs is '{name}'") as caught:
        make(model_kwargs={name: "canary-value"})
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_p", "canary-much"), ("n", 0), ("n", "canary"), ("logit_bias", "canary"), ("logprobs", "canary")],
)
def test_a_value_that_no_request_can_have_is_refused_by_the_name_of_the_parameter(make, name, value):
    with pytest.raises(InvalidInput, match=rf"model_kwargs.*{name}") as caught:
        make(model_kwargs={name: value})
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_values_that_the_canvas_hands_over_as_text_are_read(make):
    model, bodies = make(model_kwargs={"top_p": "0.5", "n": "1", "logprobs": "true"})
    await model.ainvoke("hello")
    assert sent(bodies[0]) == {"top_p": 0.5, "n": 1, "logprobs": True}


async def test_a_copy_with_changes_leaves_the_shared_model_alone(make):
    guard = Guard("test", GuardSettings(max_concurrency=1))
    model, bodies = make(guard=guard, temperature=0.3, json_mode=True)
    before = dict(vars(model))
    other = model.model_copy(update={"temperature": 0.9, "streaming": True}, deep=True)
    other.model_name = "other"
    other.callbacks = []
    assert vars(model) == before
    async with asyncio.timeout(30):
        assert json.loads((await other.ainvoke("hello")).text) == {"answer": "Answer to: hello"}
        await model.ainvoke("hello")
    assert [(body["model"], body["temperature"]) for body in bodies] == [("other", 0.9), ("sim-chat", 0.3)]
    assert guard.statistics().admitted == 2


@pytest.mark.parametrize("way", WAYS)
async def test_a_model_with_streaming_switched_on_takes_one_permit_in_every_way(make, way):
    guard = Guard("test", GuardSettings(max_concurrency=1))
    model, bodies = make(guard=guard)
    model.streaming = True  # as Langflow's Agent does
    async with asyncio.timeout(30):
        answer = await ask(model.bind_tools([search]), way, "sluice gates")
        events = [event async for event in model.astream_events("hello", version="v2")]
    assert [call["args"] for call in answer.tool_calls] == [{"query": "sluice gates"}]
    assert all(body["stream"] for body in bodies)
    assert (
        "".join(e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream") == "Answer to: hello"
    )
    assert (guard.statistics().admitted, guard.statistics().in_flight) == (2, 0)


async def test_langflows_remedies_reach_the_model_behind_the_guard(make):
    from lfx.base.models.model_remediation import apply_overrides_to_model

    model, bodies = make(temperature=0.3)
    assert apply_overrides_to_model(model, {"temperature": None})
    await model.ainvoke("hello")
    assert sent(bodies[0]) == {}
    assert apply_overrides_to_model(model, {"use_responses_api": True})
    assert model.use_responses_api
