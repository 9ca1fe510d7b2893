"""The bundled flows by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from langflow_sluice.canvas import safe_flows, section_flows, unsafe_flows
from langflow_sluice.canvas.bundled import UNSAFE_FOLDER
from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from langflow_sluice.canvas.build import Flow
    from langflow_sluice.canvas.catalog import Catalog


@dataclass(frozen=True)
class Definition:
    """A bundled flow.

    Attributes:
        slug: Its name in files and URLs.
        build: Builds it from a catalogue; raises `InvalidInput` where a node is not installed.
        unsafe: It is built of stock nodes, to measure against.
    """

    slug: str
    build: Callable[[Catalog], Flow]
    unsafe: bool = False

    @property
    def file(self) -> str:
        """Its file, relative to the folder of flows."""
        return f"{UNSAFE_FOLDER}/{self.slug}.json" if self.unsafe else f"{self.slug}.json"


FLOWS: Final = (
    Definition("chat_rate_limited", safe_flows.chat_rate_limited),
    Definition("ingest_documents", safe_flows.ingest_documents),
    Definition("rag_pooled_postgres", safe_flows.rag_pooled_postgres),
    Definition("guarded_agent", safe_flows.guarded_agent),
    Definition("batch_classify", safe_flows.batch_classify),
    Definition("fan_out_rows", section_flows.fan_out_rows),
    Definition("fan_out_subflows", section_flows.fan_out_subflows),
    Definition("priority_lanes", section_flows.priority_lanes),
    Definition("gated_section", section_flows.gated_section),
    Definition("batch_run_unbounded", unsafe_flows.batch_run_unbounded, unsafe=True),
    Definition("rag_pgvector", unsafe_flows.rag_pgvector, unsafe=True),
)


def find(slug: str) -> Definition:
    """Returns a bundled flow's definition.

    Raises:
        InvalidInput: There is no such flow.
    """
    for definition in FLOWS:
        if definition.slug == slug:
            return definition
    where, names = "flow", ", ".join(definition.slug for definition in FLOWS)
    raise InvalidInput.of(where, slug, "there is no such bundled flow", fix=f"Use one of {names}.")
