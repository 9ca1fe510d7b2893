"""The doctor at the real Langflow of these tests: what it sees there, and which keys it is let in with."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from langflow_sluice.canvas.bundled import bundled_flows
from langflow_sluice.doctor.command import doctor
from langflow_sluice.doctor.server import facts_of_flows

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Stack

WRONG_KEY = "sk-canary-of-nobody"
# All of it is true of the server of these tests, and a deployment for many users would mend it.
TRUE_OF_SETTINGS = {"sqlite", "apikey_tracking"}
# The unsafe twin of RAG, and Batch Classify, whose total_timeout is twice what Langflow gives a worker and a run.
TRUE_OF_FLOWS = {"stock_pgvector", "worker_timeout", "execution_timeout"}

app = typer.Typer()
app.command()(doctor)


@pytest.fixture(autouse=True)
def no_settings_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("LANGFLOW_", "SLUICE_", "PG", "OPENAI_")):
            monkeypatch.delenv(name)


@pytest.fixture
def env_file(stack: Stack, tmp_path: Path) -> Path:
    """The settings that the server was started with."""
    file = tmp_path / ".env"
    settings = stack.langflow._environment().items()
    ours = [f"{name}='{value}'" for name, value in settings if name.startswith(("LANGFLOW_", "SLUICE_"))]
    file.write_text("\n".join([*ours, "PGCONNECT_TIMEOUT=10"]))
    return file


def visit(stack: Stack, *arguments: str | Path) -> dict[str, Any]:
    where = ("--langflow-url", stack.langflow.base_url, "--database-url", stack.postgres.url)
    result = CliRunner().invoke(app, [str(each) for each in (*where, *arguments, "--json", "--fail-on", "info")])
    assert result.exit_code == 1, result.output
    for secret in (stack.langflow.api_key, stack.key, WRONG_KEY, stack.postgres.url.split(":")[2].split("@")[0]):
        assert secret not in result.output
    return json.loads(result.stdout)


def found(report: dict[str, Any]) -> dict[str, str]:
    return {each["code"]: each["observed"] for each in report["findings"]}


def bad(report: dict[str, Any]) -> set[str]:
    return {each["code"] for each in report["findings"] if each["severity"] != "info"}


@pytest.mark.parametrize("way", ["auto login", "API key"])
def test_it_finds_the_pack_in_the_palette_and_nothing_that_is_false(stack: Stack, env_file: Path, way: str) -> None:
    key = ("--api-key", stack.langflow.api_key) if way == "API key" else ()
    report = visit(stack, "--env-file", env_file, *key)
    assert bad(report) == TRUE_OF_SETTINGS | TRUE_OF_FLOWS
    types = [name for name in _palette(stack) if name.startswith("ext:sluice:")]
    assert types
    assert f"offers {len(types)} nodes of langflow-sluice" in found(report)["pack_found"]
    # No guess from the nodes' defaults: the flows on the server were read.
    [connections] = report["sums"][:1]
    assert connections["fits"]
    [ours] = [term for term in connections["terms"] if term["label"].startswith("Sluice")]
    assert "pools in the flows of the server" in ours["how"]
    assert ours["each"] >= sum(facts_of_flows([flow.load() for flow in bundled_flows()]).pools)


def test_a_key_that_the_server_does_not_accept_is_told_and_not_shown(stack: Stack, env_file: Path) -> None:
    report = visit(stack, "--env-file", env_file, "--api-key", WRONG_KEY, "--no-import")
    assert bad(report) == TRUE_OF_SETTINGS | {"langflow_unreachable"}
    assert "does not accept the API key" in found(report)["langflow_unreachable"]
    [refused] = [each for each in report["findings"] if each["code"] == "langflow_unreachable"]
    assert "LANGFLOW_API_KEY or --api-key" in refused["advice"]


def test_the_key_of_the_servers_own_settings_is_used_where_none_is_given(stack: Stack, env_file: Path) -> None:
    env_file.write_text(f"{env_file.read_text()}\nLANGFLOW_API_KEY={WRONG_KEY}")
    report = visit(stack, "--env-file", env_file, "--no-import")
    assert "does not accept the API key" in found(report)["langflow_unreachable"]


def _palette(stack: Stack) -> list[str]:
    return [name for group in stack.client.components().values() for name in group]
