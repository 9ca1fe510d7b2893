"""The bundled flows on other servers: one that allows no custom components, one that has the pack on its path only."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import langflow_sluice
from langflow_sluice.canvas import retype
from langflow_sluice.canvas.bundled import bundled_flows
from langflow_sluice.canvas.server import FlowsServer
from langflow_sluice.embedded.langflow import LangflowServer
from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.simulator import ProviderProcess, ProviderSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SLUICE = Path(sys.executable).parent / "sluice"
KEY = "sk-elsewhere-simulated-provider"
ALL = sorted(flow.slug for flow in bundled_flows())
QUESTION, FACT = "Which metal covers the dome of Dunmere?", "The dome of Dunmere is covered with hammered copper."
OTHERS = ["The bees of Fernhollow are kept by Silas Quill.", "The ferry to Saltmarsh leaves at half past six."]
# What to say to a flow, and what its answer must hold. The order matters: documents first.
TALKS: dict[str, tuple[str, list[str]]] = {
    "ingest_documents": ("\n".join([FACT, *OTHERS]), ["0 failed"]),
    "rag_pooled_postgres": (QUESTION, [FACT]),
    "guarded_agent": (QUESTION, [FACT]),
    "chat_rate_limited": ("hello there", ["Answer to: hello there"]),
    "fan_out_rows": ("one\ntwo", ["Answer to: one", "Answer to: two"]),
    "fan_out_subflows": ("one\ntwo", ["Answer to: one", "Answer to: two"]),
    "priority_lanes": ("one\ntwo", ["Answer to: one", "Answer to: two", "At the library, the lights flicker"]),
    "batch_classify": ("one\ntwo", ["Answer to: one", "Answer to: two"]),
    "gated_section": ("anything", ["status"]),
    "batch_run_unbounded": ("one\ntwo", ["Answer to: one", "Answer to: two"]),
    "rag_pgvector": (QUESTION, ["Answer to:"]),  # it looks where nothing has been written
}


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderProcess]:
    with ProviderProcess(ProviderSettings(keys=(KEY,), service_s=0.02)) as provider:
        yield provider


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as postgres:
        yield postgres


def install(server: LangflowServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("LANGFLOW_")}
    env |= {"LANGFLOW_URL": server.base_url, "LANGFLOW_API_KEY": server.api_key}
    command = [str(SLUICE), "flows", "install", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def set_up(client: FlowsServer, provider: ProviderProcess, postgres: EmbeddedPostgres) -> None:
    """Gives the user the variables, and the chat that another flow calls its model's address: no tweak gets there."""
    client.set_variable("OPENAI_API_KEY", KEY)
    client.set_variable("SLUICE_DATABASE_URL", postgres.url)
    chat = client._request("GET", f"/api/v1/flows/{client.flows()['chat_rate_limited']['id']}")
    [model] = [data for data in retype.nodes_of(chat) if data["id"] == "RateLimitedLLMComponent-llm"]
    model["node"]["template"]["base_url"]["value"] = provider.base_url
    client._request("PATCH", f"/api/v1/flows/{chat['id']}", payload={"data": chat["data"]})


def talk(client: FlowsServer, provider: ProviderProcess) -> None:
    """Runs every bundled flow that the server has, by its name."""
    llm = {"base_url": provider.base_url}
    tweaks: dict[str, Any] = {
        "RateLimitedLLMComponent-llm": llm,
        "RateLimitedLLMComponent-batch": llm,
        "RateLimitedEmbeddingsComponent-embed": llm,
        "OpenAIModelComponent-llm": {"openai_api_base": provider.base_url},
        "APIRequest-call": {"url_input": f"{client.base_url}/health"},
    }
    present = client.flows()
    for slug, (text, expected) in TALKS.items():
        if slug in present:
            answer = str(client.run(slug, text, tweaks=tweaks).outputs)
            assert [piece for piece in expected if piece not in answer] == [], slug


def test_all_flows_run_where_custom_components_are_not_allowed_also_after_export_and_import(
    provider: ProviderProcess, postgres: EmbeddedPostgres
) -> None:
    assert sorted(TALKS) == ALL
    with (
        LangflowServer(env={"LANGFLOW_ALLOW_CUSTOM_COMPONENTS": "false"}) as langflow,
        FlowsServer(langflow.base_url, langflow.api_key) as client,
    ):
        done = install(langflow, "--unsafe")
        assert done.returncode == 0, done.stderr
        assert "other versions" not in done.stderr
        set_up(client, provider, postgres)
        assert sorted(client.flows()) == ALL
        talk(client, provider)

        # As a zip file, the way the canvas exports several flows.
        headers = {"x-api-key": langflow.api_key}
        with httpx.Client(base_url=langflow.base_url, headers=headers, timeout=120) as http:
            ids = [flow["id"] for flow in client.flows().values()]
            exported = http.post("/api/v1/flows/download/", json=ids).raise_for_status().content
            remove_all(client)
            http.post("/api/v1/flows/upload/", files={"file": ("flows.zip", exported)}).raise_for_status()
        assert sorted(client.flows()) == ALL
        talk(client, provider)

        # One by one, as an API client reads and writes them.
        read = [client._request("GET", f"/api/v1/flows/{flow['id']}") for flow in client.flows().values()]
        remove_all(client)
        for flow in read:
            client.create(flow)
        assert sorted(client.flows()) == ALL
        talk(client, provider)


def remove_all(client: FlowsServer) -> None:
    for flow in client.flows().values():
        client._http.delete(f"/api/v1/flows/{flow['id']}").raise_for_status()
    assert client.flows() == {}


@pytest.fixture(scope="module")
def python_without_the_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has every installed package but ours: of ours it has the runtime, with no entry point."""
    folder = tmp_path_factory.mktemp("python")
    venv.create(folder / "venv", symlinks=True)
    packages = folder / "packages"
    packages.mkdir()
    for path in map(Path, {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
        for entry in path.iterdir():
            if "langflow_sluice" not in entry.name and entry.suffix != ".pth":
                (packages / entry.name).symlink_to(entry)
    (packages / "langflow_sluice").symlink_to(Path(langflow_sluice.__file__).parent)
    [site] = (folder / "venv").glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(f"{packages}\n", "utf-8")
    return folder / "venv" / "bin" / "python"


def test_flows_are_installed_and_run_on_a_server_that_has_the_pack_on_its_components_path_only(
    provider: ProviderProcess,
    postgres: EmbeddedPostgres,
    python_without_the_pack: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", str(python_without_the_pack))
    with LangflowServer() as langflow:
        done = install(langflow)
        assert done.returncode == 1
        assert "has no nodes of Sluice" in done.stderr
        assert "LANGFLOW_COMPONENTS_PATH" in done.stderr

    env = {"LANGFLOW_ALLOW_CUSTOM_COMPONENTS": "false"}
    with (
        LangflowServer(components_path=ROOT / "components", env=env) as langflow,
        FlowsServer(langflow.base_url, langflow.api_key) as client,
    ):
        offered = {name for name in client.nodes() if name.startswith("ext:sluice:")}
        assert offered
        assert all(name.endswith("@extra") for name in offered)
        done = install(langflow, "--unsafe")
        assert done.returncode == 0, done.stderr
        assert "other versions" not in done.stderr
        for flow in client.flows().values():
            stored = client._request("GET", f"/api/v1/flows/{flow['id']}")
            types = {data["type"] for data in retype.nodes_of(stored) if retype.bundle_of(data["type"]) == "sluice"}
            assert types <= offered
        set_up(client, provider, postgres)
        talk(client, provider)
