"""Node templates as Langflow's palette offers them, without a running server.

Langflow's ``GET /api/v1/all`` merges a prebuilt index of its own nodes with the nodes of installed extensions, which
it imports one by one: about half a minute. The catalogue uses the same loader and the same template builder, but
imports only the bundles that somebody asks for. Importing this module imports that loader, which takes seconds.
"""

from __future__ import annotations

import copy
import importlib.util
import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfx.custom.utils import create_component_template
from lfx.extension.loader import installed_extension_roots, load_extension, load_lfx_bundles_extensions
from lfx.extension.manifest import load_manifest
from lfx.interface.components import import_langflow_components

from langflow_sluice.canvas.waiting import wait_for
from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lfx.extension.loader import LoadedComponent, LoadResult

_EXTENSION_TYPE = re.compile(r"ext:(?P<bundle>[a-z0-9_-]+):(?P<class_name>\w+)@official")
_BUNDLES_GROUP = "lfx.bundles"


def extension_type(bundle: str, class_name: str) -> str:
    """Returns the palette key of an installed extension's node, for example ``ext:sluice:FanOutComponent@official``."""
    return f"ext:{bundle}:{class_name}@official"


class Catalog:
    """The nodes that the palette of this Python environment offers, looked up by palette key.

    Stock nodes come from the index inside ``lfx``, extension nodes from the distribution (or bundle folder) that
    declares their bundle. Each source is loaded once, on the first look-up that needs it. May be used with or without
    a running event loop; not from several threads at once.

    Args:
        extensions: Folders with an ``extension.json`` to use in preference to what is installed. Their nodes get the
            types they will have once installed.
    """

    def __init__(self, extensions: Iterable[Path] = ()) -> None:
        self._extensions = tuple(Path(root) for root in extensions)
        self._stock: dict[str, dict[str, Any]] | None = None
        self._bundles: dict[str, dict[str, dict[str, Any]]] = {}
        self._problems: dict[str, str] = {}

    def node(self, node_type: str) -> dict[str, Any]:
        """Returns a fresh copy of the palette's template for ``node_type``; the caller may change it.

        Args:
            node_type: The key in the palette: a stock name (``ChatInput``) or ``ext:<bundle>:<Class>@official``.

        Raises:
            InvalidInput: No such node is installed; the message repeats what Langflow's loader complained of.
        """
        nodes, bundle = self._shelf(node_type)
        if node_type not in nodes:
            where, problem = "node_type", "no installed package has such a node"
            if self._problems.get(bundle):
                problem += f" ({self._problems[bundle]})"
            fix = f"Install the package that has the bundle {bundle!r}." if bundle else "Use a key of the palette."
            raise InvalidInput.of(where, node_type, problem, fix=fix)
        return copy.deepcopy(nodes[node_type])

    def __contains__(self, node_type: object) -> bool:
        if not isinstance(node_type, str):
            return False
        nodes, _ = self._shelf(node_type)
        return node_type in nodes

    def _shelf(self, node_type: str) -> tuple[Mapping[str, dict[str, Any]], str]:
        match = _EXTENSION_TYPE.fullmatch(node_type)
        if match is None:
            return self._stock_nodes(), ""
        bundle = match["bundle"]
        if bundle not in self._bundles:
            self._bundles[bundle] = self._load_bundle(bundle)
        return self._bundles[bundle], bundle

    def _stock_nodes(self) -> dict[str, dict[str, Any]]:
        if self._stock is None:
            loaded = wait_for(import_langflow_components(None))
            self._stock = {name: node for group in loaded["components"].values() for name, node in group.items()}
        return self._stock

    def _load_bundle(self, bundle: str) -> dict[str, dict[str, Any]]:
        nodes: dict[str, dict[str, Any]] = {}
        problems: list[str] = []
        for result in self._load_results(bundle):
            problems += [error.message for error in result.errors]
            for component in result.components:
                nodes[component.namespaced_id] = _template(component)
            if nodes:
                break
        self._problems[bundle] = "; ".join(problems)
        return nodes

    def _load_results(self, bundle: str) -> Iterable[LoadResult]:
        # The order is Langflow's own precedence: a manifest wins over a folder of bundles.
        for root in self._extensions:
            if bundle in _bundle_names(root):
                yield load_extension(root, bundle_name=bundle)
        for distribution, root in sorted(installed_extension_roots().items()):
            if bundle in _bundle_names(root):
                yield load_extension(root, distribution=distribution, bundle_name=bundle)
        yield from _load_from_bundle_folders(bundle)


def _bundle_names(root: Path) -> set[str]:
    try:
        return {bundle.name for bundle in load_manifest(root).manifest.bundles}
    except (OSError, ValueError, TypeError):
        return set()  # a broken extension of somebody else is the loader's to report, not ours


def _load_from_bundle_folders(bundle: str) -> list[LoadResult]:
    """Loads one bundle of the packages that ship bundles as plain folders (``lfx-bundles``)."""
    folders: set[str] = set()
    for entry_point in metadata.entry_points(group=_BUNDLES_GROUP):
        spec = importlib.util.find_spec(entry_point.value)
        for location in (spec and spec.submodule_search_locations) or ():
            folders |= {child.name for child in Path(location).iterdir() if child.is_dir()}
    if bundle not in folders:
        return []
    # The loader imports every bundle but the claimed ones: there are 60, and we want one.
    others = dict.fromkeys(folders - {bundle}, ("not asked for", ""))
    return [result for result in load_lfx_bundles_extensions(claimed_bundles=others) if result.bundle == bundle]


def _template(component: LoadedComponent) -> dict[str, Any]:
    """Builds what ``import_extension_components`` of lfx builds for one node, with the same marks of its origin."""
    instance = component.klass()
    built, _ = create_component_template(component_extractor=instance, module_name=component.module_name)
    node: dict[str, Any] = built
    node["extension"] = component.extension_id
    node["bundle"] = component.bundle
    node["extension_version"] = component.extension_version
    node["namespaced_id"] = component.namespaced_id
    if not node.get("name"):
        node["name"] = getattr(instance, "name", None) or component.class_name
    return node
