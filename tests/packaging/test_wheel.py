"""The wheel as pip would install it, loaded as Langflow loads an installed extension and a folder of components."""

import configparser
import json
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The contract is what has been promised; a node that is new there must show up here.
NODES = sorted(json.loads((ROOT / "tests" / "components" / "contract.json").read_text("utf-8"))["nodes"])
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "components", "flows", "src")
# The hook that every installer calls (PEP 517); the interpreter's own setuptools, so that no index is asked.
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"

# What Langflow does at its start, for this one distribution and this one folder.
LOAD = """
import json, sys
from importlib.metadata import distributions
from pathlib import Path

from lfx.extension.loader import discover_inline_bundles, load_installed_extensions
from lfx.services.deps import get_settings_service

import langflow_sluice
from langflow_sluice.canvas.bundled import bundled_flows

wheel, components = sys.argv[1:]
told = {"package": langflow_sluice.__file__, "flows": [flow.slug for flow in bundled_flows()]}
assert components in get_settings_service().settings.components_path
for way, results in (
    ("installed", load_installed_extensions(distributions(path=[wheel]))),
    ("folder", discover_inline_bundles([Path(components)])),
):
    told[way] = {
        "bundles": [result.bundle for result in results],
        "types": [component.namespaced_id for result in results for component in result.components],
        "problems": [str(problem) for result in results for problem in (*result.errors, *result.warnings)],
        "source": str(results[0].source_path),
    }
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built from a copy: building in place would pick up what earlier builds left."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=leftovers)
        else:
            shutil.copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(target)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [path] = target.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(unpacked, tmp_path_factory):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LANGFLOW_")},
        "PYTHONPATH": str(unpacked),
        "LANGFLOW_CONFIG_DIR": str(tmp_path_factory.mktemp("config")),
        "LANGFLOW_COMPONENTS_PATH": str(unpacked / "langflow_sluice" / "components"),
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(unpacked), environment["LANGFLOW_COMPONENTS_PATH"]],
        env=environment,
        cwd=unpacked.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def names_under(folder, *patterns):
    return {
        path.relative_to(folder).as_posix()
        for pattern in patterns
        for path in folder.rglob(pattern)
        if "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(
    ("source", "package", "patterns"),
    [
        ("src/langflow_sluice", "langflow_sluice", ("*.py", "py.typed")),
        ("components", "langflow_sluice/components", ("*.py", "extension.json")),
        ("flows", "langflow_sluice/flows", ("*.py", "*.json")),
    ],
)
def test_every_file_of_a_source_folder_is_in_the_wheel(source, package, patterns, wheel):
    wanted = names_under(ROOT / source, *patterns)
    assert wanted
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert {f"{package}/{name}" for name in wanted} <= set(names)
        for name in wanted:
            assert archive.read(f"{package}/{name}") == (ROOT / source / name).read_bytes()


def test_the_wheel_has_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {Path(name).parts[0] for name in names} == {"langflow_sluice"}
    assert {Path(name).suffix for name in names} == {".py", ".json", ".lua", ".typed"}


def test_the_metadata_names_command_extension_licence_and_extra(unpacked):
    [info] = unpacked.glob("*.dist-info")
    entry_points = configparser.ConfigParser()
    entry_points.read(info / "entry_points.txt")
    assert dict(entry_points["console_scripts"]) == {"sluice": "langflow_sluice.cli:app"}
    assert dict(entry_points["langflow.extensions"]) == {"langflow-sluice": "langflow_sluice.components"}
    metadata = Parser().parsestr((info / "METADATA").read_text("utf-8"))
    assert (metadata["Name"], metadata["License-Expression"]) == ("langflow-sluice", "MIT")
    assert "demo" in metadata.get_all("Provides-Extra")
    assert "Permission is hereby granted" in (info / "licenses" / "LICENSE").read_text("utf-8")
    manifest = json.loads((unpacked / "langflow_sluice" / "components" / "extension.json").read_text("utf-8"))
    assert manifest["version"] == metadata["Version"]


def test_langflow_finds_the_installed_wheel_as_the_bundle_sluice_with_its_nodes(loaded, unpacked):
    assert Path(loaded["package"]).is_relative_to(unpacked)
    assert loaded["installed"] == {
        "bundles": ["sluice"],
        "types": [f"ext:sluice:{name}@official" for name in NODES],
        "problems": [],
        "source": str(unpacked / "langflow_sluice" / "components"),
    }


def test_langflow_finds_the_same_nodes_in_a_folder_of_components(loaded):
    assert loaded["folder"]["bundles"] == ["sluice"]
    assert loaded["folder"]["types"] == [f"ext:sluice:{name}@extra" for name in NODES]
    assert loaded["folder"]["problems"] == []


def test_the_bundled_flows_are_found_in_the_wheel(loaded):
    assert {"chat_rate_limited", "rag_pgvector"} <= set(loaded["flows"])
    assert len(loaded["flows"]) == len(names_under(ROOT / "flows", "*.json"))


@pytest.mark.parametrize("place", ["checkout", "wheel"])
def test_langflows_own_check_of_the_extension_passes(place, unpacked):
    components = ROOT / "components" if place == "checkout" else unpacked / "langflow_sluice" / "components"
    command = [sys.executable, "-m", "lfx", "extension", "validate", str(components)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validate: ok" in done.stdout
