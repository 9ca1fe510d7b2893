"""The bundled flows as installed: reads their files, and needs nothing of Langflow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

UNSAFE_FOLDER: Final = "unsafe"
"""Folder, below that of the flows, of the twins built of stock nodes."""


@dataclass(frozen=True)
class BundledFlow:
    """A bundled flow as its file has it.

    Attributes:
        slug: Its name in URLs.
        name: What the list of flows shows.
        description: One sentence.
        unsafe: It is built of stock nodes, to measure against.
        path: Its file.
    """

    slug: str
    name: str
    description: str
    unsafe: bool
    path: Path

    def load(self) -> dict[str, Any]:
        """Returns the flow as Langflow imports it."""
        flow: dict[str, Any] = json.loads(self.path.read_text("utf-8"))
        return flow


def bundled_folder() -> Path:
    """Returns the folder of the flows that are installed with this package."""
    return Path(str(resources.files("langflow_sluice.flows")))


def bundled_flows(folder: Path | None = None) -> list[BundledFlow]:
    """Lists the bundled flows, the safe ones first, each group by name.

    Args:
        folder: Where the files are; by default those installed with this package.
    """
    folder = folder or bundled_folder()
    paths = [*sorted(folder.glob("*.json")), *sorted((folder / UNSAFE_FOLDER).glob("*.json"))]
    found = []
    for path in paths:
        flow = json.loads(path.read_text("utf-8"))
        unsafe = path.parent.name == UNSAFE_FOLDER
        found.append(BundledFlow(flow["endpoint_name"], flow["name"], flow["description"], unsafe=unsafe, path=path))
    return found
