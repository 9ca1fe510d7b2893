"""Whether Langflow can find the pack: what is installed here, what its folders hold, what fails to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "langflow-sluice"
BUNDLE = "sluice"
_GROUP = "langflow.extensions"
_MANIFEST = "extension.json"

# In a process of its own: what nodes import is heavy, prints, and may hang.
_IMPORT = """
import importlib, json, pkgutil, sys, warnings
warnings.simplefilter("ignore")
failed = {}
package = importlib.import_module(sys.argv[1])
for module in pkgutil.iter_modules(package.__path__):
    try:
        importlib.import_module(f"{package.__name__}.{module.name}")
    except BaseException as exc:
        failed[module.name] = f"{type(exc).__name__}: {str(exc)[:200]}"
sys.__stdout__.write("\\n" + json.dumps(failed))
"""


@dataclass(frozen=True, slots=True)
class PackFacts:
    """What was seen of the pack in this Python environment.

    Attributes:
        version: As installed; empty where it is not.
        entry_point: The package that its entry point names; empty where there is none.
        manifest: Whether that package has a manifest.
        failed: Nodes that cannot be imported, and why; ``None`` where that was not tried.
        problem: Why the import could not be tried.
        missing_paths: Folders of LANGFLOW_COMPONENTS_PATH that are not there.
        on_path: Folders of LANGFLOW_COMPONENTS_PATH that hold the pack.
    """

    version: str = ""
    entry_point: str = ""
    manifest: bool = False
    failed: dict[str, str] | None = None
    problem: str = ""
    missing_paths: tuple[str, ...] = ()
    on_path: tuple[str, ...] = ()


def look_at_pack(components_path: str, *, with_import: bool, timeout_s: float) -> PackFacts:
    """Looks for the pack where Langflow does; never raises for it.

    Args:
        components_path: LANGFLOW_COMPONENTS_PATH.
        with_import: Whether to import the nodes, which takes about 10 s.
        timeout_s: Seconds that the import may take.
    """
    # Langflow splits it at both.
    folders = [entry.strip() for entry in components_path.replace(",", os.pathsep).split(os.pathsep) if entry.strip()]
    missing = tuple(folder for folder in folders if not Path(folder).exists())
    on_path = tuple(folder for folder in folders if _holds_the_pack(Path(folder)))
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return PackFacts(missing_paths=missing, on_path=on_path)
    entry = next((point.value for point in distribution.entry_points if point.group == _GROUP), "")
    failed, problem = (None, "") if not (with_import and entry) else _import(f"{entry}.{BUNDLE}", timeout_s)
    return PackFacts(distribution.version, entry, _has_manifest(entry), failed, problem, missing, on_path)


def _holds_the_pack(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("id") == DISTRIBUTION


def _has_manifest(package: str) -> bool:
    import importlib.util

    try:
        spec = importlib.util.find_spec(package) if package else None
    except ImportError:
        return False
    return any((Path(folder) / _MANIFEST).exists() for folder in (spec and spec.submodule_search_locations) or ())


def _import(package: str, timeout_s: float) -> tuple[dict[str, str] | None, str]:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed script
            [sys.executable, "-W", "ignore", "-c", _IMPORT, package],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        failed = json.loads(done.stdout.rsplit("\n", 1)[-1])
    except subprocess.TimeoutExpired:
        return None, f"importing its nodes took longer than {timeout_s:g} s"
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return None, f"importing its nodes ended with {last[:200]}"
    return failed, ""
