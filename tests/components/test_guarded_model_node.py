"""The node that guards other nodes' models, with its source executed afresh for every run as Langflow does it."""

import asyncio
import copy
import warnings
from pathlib import Path

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.tools import tool
from pydantic import BaseModel

from langflow_sluice.errors import InvalidInput, UpstreamUnavailable
from langflow_sluice.guard import retry
from langflow_sluice.http_clients import client_cache
from langflow_sluice.models.guarded_chat import protection_of
from langflow_sluice.simulator import ProviderSettings, fingerprint, serve_in_thread
from langflow_sluice.testing import isolated_guards

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langchain_anthropic import ChatAnthropic
    from langchain_ollama import ChatOllama
    from langchain_openai import ChatOpenAI
    from lfx.base.models.provider_ssrf import provider_httpx_clients
    from lfx.custom.eval import eval_custom_component_code

COMPONENTS = Path(__file__).parents[2] / "components" / "sluice"
KEY = "sk-canary"


def executed(file):
    """The class that a node's source makes when it is executed once more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Langflow imports what the source names, and more
        return eval_custom_component_code((COMPONENTS / file).read_text("utf-8"))


@pytest.fixture(autouse=True)
def guards():
    with isolated_guards() as registry:
        yield registry


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch):
    monkeypatch.setattr(retry, "BACKOFF_BASE_S", 0.0)


@pytest.fixture
def openai(provider):
    """A model as a stock node makes it for each run of a flow: another object, with clients of its own."""

    def make(**changes):
        options = {"model": "sim-chat", "api_key": KEY, "base_url": provider.base_url, "max_retries": 5}
        return ChatOpenAI(**{**options, **provider_httpx_clients(provider.base_url), **changes})

    return make


def node(model, **inputs):
    return executed("guarded_model.py")(_id="guarded-1", model=model, **inputs)


def build(model, **inputs):
    return node(model, **inputs).build_model()


def guard_of(model):
    return protection_of(model).guard


def fallback_of(model):
    return protection_of(model).fallback.model


def test_each_execution_of_the_source_makes_another_class():
    # Without this the tests below would share their state by sharing the class.
    assert executed("guarded_model.py") is not executed("guarded_model.py")


async def test_two_executions_of_the_source_share_guard_and_connection(provider, openai):
    one, other = build(openai()), build(openai())
    assert type(one) is type(other)
    assert isinstance(one, ChatOpenAI)
    assert guard_of(one) is guard_of(other)
    for model, text in ((one, "first"), (other, "second"), (one, "third")):
        assert (await model.ainvoke(text)).text == f"Answer to: {text}"
    assert guard_of(one).statistics().admitted == 3
    assert provider.stats().connections_opened == 1


async def test_the_cap_holds_over_all_runs_and_nodes_that_call_the_service_with_one_key(provider, openai):
    provider.configure(service_s=0.02)
    limited = executed("rate_limited_llm.py")(_id="llm", api_key=KEY, base_url=provider.base_url, max_concurrency=3)
    models = [build(openai(), max_concurrency=3), build(openai().bind(seed=1), max_concurrency=3)]
    models.append(limited.build_model())
    assert len({id(guard_of(model)) for model in models}) == 1
    rows = [[f"model {number} row {row}" for row in range(5)] for number in range(3)]
    await asyncio.gather(*(model.abatch(texts) for model, texts in zip(models, rows, strict=True)))
    stats = provider.stats()
    assert stats.max_in_flight == {"chat": 3}
    assert stats.subjects() == {fingerprint(text): 1 for texts in rows for text in texts}
    assert KEY not in guard_of(models[0]).name


async def test_twenty_runs_of_ten_calls_open_no_more_connections_than_the_cap(provider, openai):
    async def run(number):
        model = build(openai(), max_concurrency=4)
        return await model.abatch([f"run {number} row {row}" for row in range(10)])

    answers = await asyncio.gather(*(run(number) for number in range(20)))
    assert sum(len(each) for each in answers) == 200
    stats = provider.stats()
    assert stats.answered == {200: 200}
    assert stats.connections_opened <= 4


def test_another_key_or_another_service_has_another_guard(provider, openai):
    models = [
        build(openai()),
        build(openai(api_key="sk-other")),
        build(ChatAnthropic(model="m", api_key=KEY, base_url="http://127.0.0.1:1")),
        build(ChatOllama(model="m", base_url=provider.root_url)),
    ]
    assert len({guard_of(model).name for model in models}) == 4
    assert not any("canary" in repr((guard_of(model), protection_of(model))) for model in models)


def test_a_model_that_calls_no_service_has_a_guard_of_the_nodes_own(guards):  # noqa: ARG001 - for its effect
    one, other = (build(FakeListChatModel(responses=["x"])) for _ in range(2))
    assert guard_of(one) is guard_of(other)
    assert "guarded-1" in guard_of(one).name
    assert one.invoke("hello").text == "x"


async def test_the_sdk_does_not_retry_and_the_guard_not_more_often_than_it_is_told(provider, openai):
    provider.configure(fault="status:500")
    for retries in (0, 2):
        provider.reset()
        with pytest.raises(UpstreamUnavailable):
            await build(openai(), max_retries=retries).ainvoke("hello")
        assert provider.stats().requests == {"chat": retries + 1}


@tool
def search(query: str) -> str:
    """Searches."""
    return query


class City(BaseModel):
    """A city."""

    name: str


async def test_agents_and_structured_output_take_the_model_and_pass_the_guard(provider, openai):
    model = build(openai().bind(stop=["never"]).with_config(tags=["flow"]), max_concurrency=1)
    assert copy.deepcopy({"tools": [model]})["tools"][0] is model
    assert model.tags == ["flow"]
    called = await model.bind_tools([search]).ainvoke("the tallest mast")
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("search", {"query": "the tallest mast"})]
    assert "Wychbourne" in (await model.with_structured_output(City).ainvoke("Wychbourne")).name
    assert guard_of(model).statistics().admitted == provider.stats().requests["chat"] == 2


async def test_the_fallback_answers_says_so_and_has_a_guard_of_its_own(provider, openai):
    with serve_in_thread(ProviderSettings(service_s=0.0)) as second:
        provider.configure(fault="status:500")
        other = ChatAnthropic(model="sim-second", api_key="sk-second-canary", base_url=second.root_url, max_retries=5)
        models = [build(openai(), fallback=other, max_retries=0, max_concurrency=2) for _ in range(2)]
        answers = [await model.ainvoke("hello") for model in models]
        said = {"fallback": "sim-second", "because": "upstream_unavailable"}
        assert [(answer.text, answer.response_metadata["sluice"]) for answer in answers] == [
            ("Answer to: hello", said)
        ] * 2
        assert guard_of(fallback_of(models[0])) is guard_of(fallback_of(models[1]))
        assert guard_of(fallback_of(models[0])) is not guard_of(models[0])
        assert guard_of(fallback_of(models[0])).settings.max_concurrency == 2
        second.configure(fault="status:500")
        second.reset()
        with pytest.raises(UpstreamUnavailable):
            await models[0].ainvoke("hello")
        assert second.stats().requests == {"chat": 1}
        client_cache().close()


async def test_the_status_tells_of_the_guard_and_of_the_fallback_and_not_of_the_key(provider, openai):
    provider.configure(fault="status:500")
    component = node(openai(), fallback=FakeListChatModel(responses=["x"]), max_retries=0)
    model = component.build_model()
    assert "0 calls" in component.status
    await model.ainvoke("canary prompt")
    from langflow_sluice.nodes.guard_inputs import report_of

    assert "1 answered by the fallback" in report_of(model)
    assert "canary" not in component.status + report_of(model)


def test_a_fallback_of_the_same_service_has_another_guard_since_the_first_is_the_one_that_is_full(openai):
    model = build(openai(), fallback=openai(model="smaller"))
    assert guard_of(fallback_of(model)) is not guard_of(model)
    assert "guarded-1" in guard_of(fallback_of(model)).name


async def test_a_fallback_that_is_guarded_already_keeps_its_guard_and_its_bindings(provider, openai):
    first = build(openai(api_key="sk-one"), guard_name="one")
    model = build(
        FakeListChatModel(responses=["x"]), fallback=first.bind(stop=["y"]).with_config(tags=["flow"]), max_retries=0
    )
    assert guard_of(fallback_of(model)) is guard_of(first)
    assert fallback_of(model).tags == ["flow"]
    assert (await fallback_of(model).ainvoke("hello")).text == "Answer to: hello"
    assert provider.stats().requests == {"chat": 1}


@pytest.mark.parametrize("empty", [None, ""])
def test_without_a_fallback_there_is_none(openai, empty):
    assert protection_of(build(openai(), fallback=empty)).fallback is None


@pytest.mark.parametrize("field", ["model", "fallback"])
@pytest.mark.parametrize("connected", [{"provider": "OpenAI"}, object(), ["model"], FakeListChatModel])
def test_what_is_no_chat_model_is_refused_by_the_name_of_its_input(field, connected):
    inputs = {"model": FakeListChatModel(responses=["x"]), field: connected}
    with pytest.raises(InvalidInput, match=f"^{field} is .*no chat model"):
        build(**inputs)


@pytest.mark.parametrize("connected", [None, ""])
def test_a_node_without_a_model_says_which_input_is_empty(connected):
    with pytest.raises(InvalidInput, match=r"^model is"):
        build(connected)


def test_a_model_that_is_guarded_already_is_refused(openai):
    guarded = build(openai())
    for model in (guarded, guarded.bind(seed=1)):
        with pytest.raises(InvalidInput, match="already"):
            build(model)


@pytest.mark.parametrize("setting", ["max_retries", "total_timeout", "max_concurrency", "queue_timeout"])
def test_a_wrong_setting_is_refused_by_name(setting):
    with pytest.raises(InvalidInput, match=f"{setting} is"):
        build(FakeListChatModel(responses=["x"]), **{setting: -1})


def test_a_wrong_fallback_after_is_refused_by_name():
    models = [FakeListChatModel(responses=["x"]) for _ in range(2)]
    with pytest.raises(InvalidInput, match="fallback_after is"):
        build(models[0], fallback=models[1], fallback_after=-1)
