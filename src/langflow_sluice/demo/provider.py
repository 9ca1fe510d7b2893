"""The model provider that the demo calls: simulated, or a real one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langflow_sluice.simulator import ProviderProcess

SIMULATED_KEY = "sk-demo-simulated-provider"
SLOTS, SERVICE_S = 8, 0.2
RAG_SLOTS, RAG_SERVICE_S = 64, 0.05


@dataclass(slots=True)
class Provider:
    """Where the demo's models are.

    Attributes:
        base_url: Root of the API.
        key: Its key.
        simulated: The simulator, which can be asked what it saw; None for a real provider.
    """

    base_url: str
    key: str
    simulated: ProviderProcess | None

    def prepare(self, *, slots: int, service_s: float) -> None:
        """Sets the simulator's capacity and forgets what it saw; nothing for a real provider."""
        if self.simulated is not None:
            self.simulated.configure(slots=slots, service_s=service_s)
            self.simulated.reset()

    def seen(self) -> tuple[int, int] | None:
        """Chat requests seen and 429s answered since ``prepare``; None for a real provider."""
        if self.simulated is None:
            return None
        stats = self.simulated.stats()
        return stats.requests.get("chat", 0), stats.answered.get(429, 0)


@contextlib.contextmanager
def open_provider(base_url: str, key: str) -> Iterator[Provider]:
    """Starts the simulator, or takes the provider that is named.

    Raises:
        InvalidInput: A real provider is named without a key.
    """
    if base_url:
        if not key:
            msg = "OPENAI_API_KEY is not set, and a real provider needs a key."
            raise InvalidInput(msg, hint="Set OPENAI_API_KEY, or leave out --base-url to use the simulated provider.")
        yield Provider(base_url, key, None)
        return
    from langflow_sluice.simulator import ProviderProcess, ProviderSettings

    settings = ProviderSettings(slots=SLOTS, service_s=SERVICE_S, retry_after_s=1.0, keys=(SIMULATED_KEY,))
    with ProviderProcess(settings) as simulator:
        yield Provider(simulator.base_url, SIMULATED_KEY, simulator)
