"""One stack of real parts for all tests of this folder: PostgreSQL, a simulated provider, Langflow with the pack."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from langflow_sluice.canvas.bundled import bundled_flows
from langflow_sluice.embedded.langflow import LangflowServer
from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.simulator import ProviderProcess, ProviderSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langflow_sluice.embedded.langflow import LangflowClient

KEY = "sk-e2e-simulated-provider"


@dataclass(frozen=True)
class Stack:
    """What runs.

    Attributes:
        postgres: The database with pgvector; the global variable SLUICE_DATABASE_URL holds its address.
        provider: The models; the global variable OPENAI_API_KEY holds its only key, `key`.
        langflow: The server.
        client: A client of its API.
        flows: Ids of the bundled flows, by slug.
        tweaks: Send every model node to the provider.
    """

    postgres: EmbeddedPostgres
    provider: ProviderProcess
    langflow: LangflowServer
    client: LangflowClient
    flows: dict[str, str] = field(default_factory=dict)
    key: str = KEY

    @property
    def tweaks(self) -> dict[str, dict[str, Any]]:
        """Models' addresses, by node."""
        return {
            "RateLimitedLLMComponent-llm": {"base_url": self.provider.base_url},
            "RateLimitedLLMComponent-batch": {"base_url": self.provider.base_url},
            "RateLimitedEmbeddingsComponent-embed": {"base_url": self.provider.base_url},
            "OpenAIModelComponent-llm": {"openai_api_base": self.provider.base_url},
        }

    def run(self, slug: str, text: str) -> str:
        """Runs a bundled flow through the API and returns its answer."""
        return self.client.run(self.flows[slug], text, tweaks=self.tweaks).text


class Palette:
    """The nodes that the running server offers, and what a test adds to them.

    Args:
        client: Asks the server.
    """

    def __init__(self, client: LangflowClient) -> None:
        self._client = client
        self._nodes = {name: node for group in client.components().values() for name, node in group.items()}

    def node(self, node_type: str) -> dict[str, Any]:
        """A copy of a node's template."""
        return copy.deepcopy(self._nodes[node_type])

    def make(self, source: str) -> str:
        """Makes a node out of the source of a component, as the canvas does; returns its type."""
        made = self._client._request("POST", "/api/v1/custom_component", payload={"code": source})
        self._nodes[made["type"]] = made["data"]
        return str(made["type"])


@pytest.fixture(scope="session")
def running() -> Iterator[Stack]:
    """The stack; Langflow takes most of a minute to start, so it is started once."""
    with (
        EmbeddedPostgres() as postgres,
        ProviderProcess(ProviderSettings(keys=(KEY,))) as provider,
        # At DEBUG, so that what must not be logged is looked for where it would be.
        LangflowServer(env={"LANGFLOW_LOG_LEVEL": "debug"}, ui=True) as langflow,
        langflow.client() as client,
    ):
        client.set_variable("OPENAI_API_KEY", KEY)
        client.set_variable("SLUICE_DATABASE_URL", postgres.url)
        stack = Stack(postgres, provider, langflow, client)
        stack.flows.update({flow.slug: client.upload_flow(flow.load()) for flow in bundled_flows()})
        yield stack


@pytest.fixture
def stack(running: Stack) -> Stack:
    """The stack with the provider as it is for every test: eight slots, and nothing counted yet."""
    running.provider.configure(slots=8, service_s=0.05, retry_after_s=1.0, fault="ok")
    running.provider.reset()
    return running


@pytest.fixture
def stack_afresh(running: Stack) -> Iterator[Stack]:
    """The stack with a provider of the test's own, so that its guards and connections are the test's own too."""
    with ProviderProcess(ProviderSettings(keys=(KEY,), slots=8, service_s=0.05)) as provider:
        yield replace(running, provider=provider)


@pytest.fixture(scope="session")
def palette(running: Stack) -> Palette:
    """What flows of the tests are made of."""
    return Palette(running.client)


@pytest.fixture(scope="session")
def model_flows(running: Stack, palette: Palette) -> dict[str, str]:
    """Ids of the flows in which a stock node uses the stock model behind Guarded Model, by short name."""
    from .model_flows import FLOWS  # it takes Langflow's component stack, which only some tests need

    return {name: running.client.upload_flow(make(palette).to_dict()) for name, make in FLOWS.items()}
