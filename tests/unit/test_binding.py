"""Bound models taken apart, without a provider."""

import warnings

import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableBinding

from langflow_sluice.errors import InvalidInput
from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.guard.retry import CallPolicy
from langflow_sluice.models.binding import unbound
from langflow_sluice.models.guarded_chat import bound_to, guarded
from langflow_sluice.models.protection import Protection


class Echo(FakeListChatModel):
    """Answers with the options of the call."""

    responses: list[str] = ["x"]

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):  # noqa: ARG002
        told = AIMessage("answer", response_metadata={"stop": stop, "options": kwargs})
        return ChatResult(generations=[ChatGeneration(message=told)])


class Listener(BaseCallbackHandler):
    """Remembers how the runs were begun."""

    def __init__(self):
        self.begun = []

    def on_chat_model_start(self, serialized, messages, **kwargs):  # noqa: ARG002
        self.begun.append((kwargs["tags"], kwargs["metadata"]))


def guard_around(model, options):
    return guarded(model, Protection(Guard("test", GuardSettings()), CallPolicy(), lambda _: None), options)


def told_by(model):
    return model.invoke("hello").response_metadata


def test_a_model_without_bindings_is_itself():
    model = Echo()
    assert unbound(model) == (model, {})
    assert unbound(model)[0] is model


def test_of_nested_bindings_the_outermost_option_counts_and_all_others_stay():
    model = Echo()
    bound = model.bind(stop=["a"], seed=1).with_config(tags=["x"]).bind(seed=2, response_format={"type": "json_object"})
    inner, options = unbound(bound)
    assert type(inner) is Echo
    assert options == {"stop": ["a"], "seed": 2, "response_format": {"type": "json_object"}}


def test_the_options_reach_each_call_and_the_calls_own_win():
    inner, options = unbound(Echo().bind(stop=["a"], seed=1, response_format={"type": "json_object"}))
    model = guard_around(inner, options)
    assert told_by(model) == {"stop": ["a"], "options": {"seed": 1, "response_format": {"type": "json_object"}}}
    told = model.bind(seed=3).invoke("hello", stop=["b"]).response_metadata
    assert (told["stop"], told["options"]["seed"]) == (["b"], 3)
    further = bound_to(model, {"seed": 4, "user": "u"})
    assert told_by(further)["options"] == {"seed": 4, "response_format": {"type": "json_object"}, "user": "u"}
    assert told_by(model)["options"]["seed"] == 1


def test_tags_metadata_and_callbacks_of_bindings_and_of_the_model_stay_in_force():
    def begun_by(prepare):
        own, first, second = Listener(), Listener(), Listener()
        model = Echo(tags=["own"], metadata={"a": 1}, callbacks=[own])
        inner = RunnableBinding(bound=model, kwargs={}, config={"tags": ["in"], "metadata": {"b": 2, "c": 2}})
        bound = RunnableBinding(bound=inner, kwargs={"seed": 1}, config={"tags": ["out"], "metadata": {"b": 3}})
        bound.config["callbacks"], inner.config["callbacks"] = [second], [first]
        prepare(bound).invoke("hello")
        assert (model.tags, model.callbacks) == (["own"], [own])
        return [[(set(tags), metadata) for tags, metadata in each.begun] for each in (own, first, second)]

    found = begun_by(lambda bound: guard_around(*unbound(bound)))
    assert found == begun_by(lambda bound: bound)
    assert found == [[({"own", "in", "out"}, metadata)] for [(_, metadata)] in found]
    assert {metadata["a"] + metadata["b"] + metadata["c"] for [(_, metadata)] in found} == {6}


def test_a_manager_of_callbacks_is_taken_as_it_is():
    listener = Listener()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inner, _ = unbound(Echo(callbacks=[Listener()]).with_config(callbacks=CallbackManager([listener])))
    inner.invoke("hello")
    assert len(listener.begun) == 1


@pytest.mark.parametrize(
    "connected",
    [
        None,
        "",
        "gpt-4o",
        42,
        {"provider": "OpenAI"},
        [Echo()],
        Echo,
        Echo() | str,
        ChatPromptTemplate.from_template("{x}"),
        ChatPromptTemplate.from_template("{x}").bind(x=1),
        Echo().with_retry(),
        Echo().with_fallbacks([Echo()]),
        FakeListChatModel(responses=["x"]).with_structured_output,
    ],
)
@pytest.mark.parametrize("field", ["model", "fallback"])
def test_what_is_no_chat_model_is_refused_by_the_name_of_its_input(connected, field):
    with pytest.raises(InvalidInput, match=f"^{field} is .*no chat model") as caught:
        unbound(connected, field)
    assert "gpt-4o" not in str(caught.value)


def test_a_model_that_is_guarded_already_is_refused_also_inside_a_binding():
    model = guard_around(Echo(), {})
    inner, options = unbound(model.bind(seed=1).with_config(tags=["x"]))
    with pytest.raises(InvalidInput, match="behind guard 'test' already"):
        guard_around(inner, options)
