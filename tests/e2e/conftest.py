"""One stack of real parts for all tests of this folder: PostgreSQL, a simulated provider, Langflow with the pack."""

from __future__ import annotations

from dataclasses import dataclass, field
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
            "RateLimitedEmbeddingsComponent-embed": {"base_url": self.provider.base_url},
            "OpenAIModelComponent-llm": {"openai_api_base": self.provider.base_url},
        }

    def run(self, slug: str, text: str) -> str:
        """Runs a bundled flow through the API and returns its answer."""
        return self.client.run(self.flows[slug], text, tweaks=self.tweaks).text


@pytest.fixture(scope="session")
def running() -> Iterator[Stack]:
    """The stack; Langflow takes most of a minute to start, so it is started once."""
    with (
        EmbeddedPostgres() as postgres,
        ProviderProcess(ProviderSettings(keys=(KEY,))) as provider,
        LangflowServer() as langflow,
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
    running.provider.configure(slots=8, service_s=0.05, fault="ok")
    running.provider.reset()
    return running
