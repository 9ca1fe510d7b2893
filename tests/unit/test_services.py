"""Which service a model of another node calls, read from the model; nothing is sent."""

import warnings

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from langflow_sluice.models.openai_compatible import Upstream
from langflow_sluice.models.services import Service, sdk_clients, service_of

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langchain_anthropic import ChatAnthropic
    from langchain_ollama import ChatOllama, OllamaEmbeddings
    from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAIEmbeddings

KEY = "canary-key"


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_API_BASE", "OPENAI_BASE_URL", "OLLAMA_HOST", "OLLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_URL", "AZURE_OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def azure(**options):
    return AzureChatOpenAI(azure_endpoint="https://blue.openai.azure.com", api_version="1", model="m", **options)


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "https://api.openai.com/v1",
        "https://api.example.com/v1/",
        "https://API.Example.com:443/v1",
        "http://vllm.local:8000/v1",
        "http://[::1]:8000/v1",
        "https://bücher.example/v1",
        "https://user:canary-password@api.example.com:8443/v1",
    ],
)
@pytest.mark.parametrize("kind", [ChatOpenAI, OpenAIEmbeddings])
def test_the_guard_has_the_name_that_a_rate_limited_node_gives_it(base_url, kind):
    upstream = Upstream(base_url, KEY)
    service = service_of(kind(model="m", api_key=KEY, **({"base_url": base_url} if base_url else {})))
    assert service == Service(upstream.host, upstream.guard_name)
    assert "canary" not in repr(service)


@pytest.mark.parametrize(
    ("model", "host"),
    [
        (lambda key: ChatAnthropic(model="m", api_key=key), "api.anthropic.com"),
        (lambda key: ChatAnthropic(model="m", api_key=key, base_url="https://proxy.local:8443"), "proxy.local:8443"),
        (lambda key: azure(api_key=key), "blue.openai.azure.com"),
        (lambda key: azure(azure_ad_token=key), "blue.openai.azure.com"),
        (
            lambda key: ChatOllama(model="m", client_kwargs={"headers": {"Authorization": f"Bearer {key}"}}),
            "127.0.0.1:11434",
        ),
        (
            lambda key: OllamaEmbeddings(
                model="m", base_url="http://gpu:11434", client_kwargs={"headers": {"authorization": f"Bearer {key}"}}
            ),
            "gpu:11434",
        ),
    ],
)
def test_host_and_credential_make_the_name_and_the_key_is_not_in_it(model, host):
    one, again, other = (service_of(model(key)) for key in ("canary-one", "canary-one", "canary-two"))
    assert one == again
    assert one.host == other.host == host
    assert one.guard_name.startswith(f"{host} (key ")
    assert one.guard_name != other.guard_name
    assert "canary" not in repr((one, other))


def test_a_service_without_credentials_is_named_by_its_address():
    assert service_of(ChatOllama(model="m")) == Service("127.0.0.1:11434", "127.0.0.1:11434")
    assert service_of(ChatOllama(model="m", base_url="http://gpu:8080")).guard_name == "gpu:8080"
    assert service_of(OllamaEmbeddings(model="m")).guard_name == "127.0.0.1:11434"


def test_ollamas_address_comes_from_the_environment_where_the_model_names_none(monkeypatch):
    monkeypatch.setenv("OLLAMA_HOST", "gpu:8080")
    assert service_of(ChatOllama(model="m")).guard_name == "gpu:8080"


def test_a_function_that_tells_the_key_is_not_called():
    def key():
        pytest.fail("called")

    assert service_of(ChatOpenAI(model="m", api_key=key)).guard_name == "api.openai.com"


@pytest.mark.parametrize(
    "model", [FakeListChatModel(responses=["x"]), DeterministicFakeEmbedding(size=3), object(), None, 3]
)
def test_a_model_that_tells_nothing_has_no_name_to_share_a_guard_by(model):
    assert service_of(model) == Service(type(model).__name__, "")


def test_no_client_is_made_by_looking_for_one():
    model = ChatAnthropic(model="m", api_key=KEY)
    service_of(model)
    assert list(sdk_clients(model)) == []
    assert not {"_client", "_async_client"} & vars(model).keys()
