"""Everything that was seen of a deployment beside its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langflow_sluice.doctor.database import DatabaseFacts
    from langflow_sluice.doctor.pack import PackFacts
    from langflow_sluice.doctor.provider import ProviderFacts
    from langflow_sluice.doctor.server import FlowFacts, ServerFacts


@dataclass(frozen=True, slots=True)
class Facts:
    """What the probes brought; ``None`` for what nobody has asked for, or what is not there to be asked.

    Attributes:
        database: Langflow's own.
        nodes_database: That of the nodes.
        queue_problem: Why the shared queue does not serve; empty if it does.
        pack: The pack in this Python environment.
        server: A running Langflow.
        provider: A model provider.
    """

    database: DatabaseFacts | None = None
    nodes_database: DatabaseFacts | None = None
    queue_problem: str | None = None
    pack: PackFacts | None = None
    server: ServerFacts | None = None
    provider: ProviderFacts | None = None

    @property
    def flows(self) -> FlowFacts | None:
        """What the flows of the running server ask for."""
        return self.server.flows if self.server else None
