"""The files of the bundled flows: written from their definitions, and checked against them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langflow_sluice.canvas import library
from langflow_sluice.canvas.bundled import bundled_folder
from langflow_sluice.canvas.catalog import Catalog
from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_TOLD = 8  # changed fields of one node that a line names


@dataclass(frozen=True)
class BuildReport:
    """What `build_all` did.

    Attributes:
        written: Files, in the order of the library.
        failed: What keeps a flow from being built, by slug; mostly a node that is not installed.
    """

    written: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """One way in which a folder's files and a fresh build differ.

    Attributes:
        file: Relative to the folder.
        what: What differs, in words.
    """

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def build_all(
    folder: Path | None = None, *, slugs: Iterable[str] | None = None, catalog: Catalog | None = None
) -> BuildReport:
    """Writes the bundled flows' files; a flow that cannot be built leaves its file as it is.

    Args:
        folder: Where to write; by default the folder installed with this package (meant for an editable install).
        slugs: Which flows; by default all.
        catalog: Where nodes come from; by default what is installed.

    Raises:
        InvalidInput: There is no flow of that name.
        OSError: A file cannot be written.
    """
    folder, catalog = folder or bundled_folder(), Catalog() if catalog is None else catalog
    report = BuildReport()
    for definition in library.FLOWS if slugs is None else [library.find(slug) for slug in slugs]:
        try:
            text = render(definition.build(catalog).to_dict())
        except InvalidInput as exc:
            report.failed[definition.slug] = str(exc)
            continue
        path = folder / definition.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8", newline="\n")
        report.written.append(path)
    return report


def check_all(folder: Path | None = None, *, catalog: Catalog | None = None) -> list[Difference]:
    """Compares the files with a fresh build; an empty list means that all flows are there and up to date.

    Args:
        folder: Where the files are; by default those installed with this package.
        catalog: Where nodes come from; by default what is installed.
    """
    folder, catalog = folder or bundled_folder(), Catalog() if catalog is None else catalog
    differences = []
    for definition in library.FLOWS:
        path = folder / definition.file
        try:
            fresh = definition.build(catalog).to_dict()
        except InvalidInput as exc:
            differences.append(Difference(definition.file, f"cannot be built: {exc}"))
            continue
        if not path.is_file():
            differences.append(Difference(definition.file, "the file is missing"))
        elif path.read_text("utf-8") != render(fresh):
            differences += [Difference(definition.file, what) for what in _explain(path, fresh)]
    known = {definition.file for definition in library.FLOWS}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.json")}
    return differences + [Difference(file, "no definition makes this file") for file in sorted(found - known)]


def render(flow: Mapping[str, Any]) -> str:
    """Returns the text of a flow's file: the same for equal flows, and readable in a diff."""
    return json.dumps(flow, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _explain(path: Path, fresh: Mapping[str, Any]) -> list[str]:
    try:
        found = json.loads(path.read_text("utf-8"))
        old, new = _pieces(found), _pieces(fresh)
    except (ValueError, KeyError, TypeError):
        return ["the file is not a flow"]
    told = [f"{name} is not in the file" for name in sorted(new.keys() - old.keys())]
    told += [f"{name} is not in the definition" for name in sorted(old.keys() - new.keys())]
    for name in sorted(new.keys() & old.keys()):
        paths = list(_changed(old[name], new[name]))
        if paths:
            more = " and more" if len(paths) > _TOLD else ""
            told.append(f"{name} differs in {', '.join(paths[:_TOLD])}{more}")
    return told or ["the file is written differently (order or spacing)"]


def _pieces(flow: Mapping[str, Any]) -> dict[str, Any]:
    pieces = {f"node {node['id']}": node for node in flow["data"]["nodes"]}
    pieces |= {f"edge {edge['source']} -> {edge['target']}": edge for edge in flow["data"]["edges"]}
    pieces["viewport"] = flow["data"]["viewport"]
    pieces["flow"] = {key: value for key, value in flow.items() if key != "data"}
    return pieces


def _changed(old: Any, new: Any, path: str = "") -> Iterable[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _changed(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path or "its value"
