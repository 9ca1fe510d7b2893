"""A deployment that fails under load, the doctor's recommended settings for it, and the same load again."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import typer
from dotenv import dotenv_values
from typer.testing import CliRunner

from langflow_sluice.canvas.bundled import bundled_flows
from langflow_sluice.doctor.command import doctor
from langflow_sluice.embedded.langflow import LangflowServer
from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.load.command import load
from langflow_sluice.simulator import ProviderProcess, ProviderSettings

from .callers import LLM, tell
from .conftest import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AT_ONCE, CALLS = 40, 80
MAX_CONNECTIONS, RESERVED = 30, 3
# Langflow encrypts variables with it, and takes no other form than Fernet's.
SECRET_KEY = base64.urlsafe_b64encode(b"canary-of-the-harbour-office-32b").decode()

commands = typer.Typer()
commands.command("doctor")(doctor)
commands.command("load")(load)


@pytest.fixture(autouse=True)
def no_settings_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("LANGFLOW_", "SLUICE_", "PG", "OPENAI_")):
            monkeypatch.delenv(name)


@pytest.fixture
def postgres() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(max_connections=MAX_CONNECTIONS) as server:
        yield server


@pytest.fixture
def provider() -> Iterator[ProviderProcess]:
    """Takes every call, so that what fails is not its fault."""
    with ProviderProcess(ProviderSettings(keys=(KEY,), slots=1000, service_s=0.05)) as process:
        yield process


@contextlib.contextmanager
def deployed(env_file: Path) -> Iterator[LangflowServer]:
    """A Langflow with the settings of a file, over those of the embedded server."""
    settings = {name: value for name, value in dotenv_values(env_file).items() if value is not None}
    with LangflowServer(env=settings) as server:
        yield server


def under_load(server: LangflowServer, postgres: EmbeddedPostgres, folder: Path) -> list[dict[str, Any]]:
    """The stages of ``sluice load``: one call at a time, then all at once."""
    options = {
        "--url": server.base_url,
        "--concurrency": str(AT_ONCE),
        "--requests": str(CALLS),
        "--warm-up": "0",
        "--tweaks": str(folder / "tweaks.json"),
        "--state-dir": str(server.folder / "state"),
        "--json": str(folder / "load.json"),
    }
    words = [word for option in options.items() for word in option]
    variables = {"LANGFLOW_API_KEY": server.api_key, "SLUICE_DATABASE_URL": postgres.url}
    result = CliRunner().invoke(commands, ["load", "chat_rate_limited", *words], env=variables)
    tell(result.output)
    [flow] = json.loads((folder / "load.json").read_text())["flows"]
    stages: list[dict[str, Any]] = flow["stages"]
    return stages


def examined(env_file: Path, postgres: EmbeddedPostgres, *more: str | Path) -> dict[str, Any]:
    """What the doctor finds."""
    words = ("--env-file", env_file, "--calls", str(AT_ONCE), "--json", *more)
    variables = {"SLUICE_DATABASE_URL": postgres.url}
    result = CliRunner().invoke(commands, ["doctor", *map(str, words)], env=variables)
    assert result.exit_code == 0, result.output
    for secret in (SECRET_KEY, postgres.url.split(":")[2].split("@")[0]):
        assert secret not in result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def bad(report: dict[str, Any]) -> set[str]:
    return {each["code"] for each in report["findings"] if each["severity"] != "info"}


@pytest.mark.slow
def test_with_the_settings_that_the_doctor_writes_a_load_that_failed_in_part_passes_whole(
    postgres: EmbeddedPostgres, provider: ProviderProcess, tmp_path: Path
) -> None:
    wrong, right = tmp_path / "wrong.env", tmp_path / "right.env"
    (tmp_path / "tweaks.json").write_text(json.dumps({LLM: {"base_url": provider.base_url}}))
    own_lines = [
        "# The deployment of the harbour office.",
        f"LANGFLOW_DATABASE_URL={postgres.create_database(vector=False)}?connect_timeout=10",
        f"LANGFLOW_SECRET_KEY={SECRET_KEY}",
        "LANGFLOW_PRETTY_LOGS=false",
    ]
    too_small = """LANGFLOW_DB_CONNECTION_SETTINGS='{"pool_size": 2, "max_overflow": 0, "pool_timeout": 1}'"""
    wrong.write_text("\n".join([*own_lines, too_small, ""]))

    with deployed(wrong) as server:
        with server.client() as client:
            client.set_variable("OPENAI_API_KEY", KEY)
            client.upload_flow(next(flow for flow in bundled_flows() if flow.slug == "chat_rate_limited").load())
        alone, before = under_load(server, postgres, tmp_path)
        report = examined(wrong, postgres, "--langflow-url", server.base_url, "--write-env", right)
    assert alone["failed"] == 0  # it is the load that it cannot take
    assert before["failed"] > 0
    assert before["causes"][0]["code"] == "sqlalchemy_pool_timeout"  # the most frequent one
    assert {"pool_small", "pool_timeout", "calls_over_pool"} <= bad(report)

    assert right.read_text().startswith("\n".join(own_lines) + "\n")
    # 40 calls have to share the connections that the database can spare: they wait, and now long enough.
    assert bad(examined(right, postgres)) == {"calls_over_pool"}
    with deployed(right) as server:
        alone, after = under_load(server, postgres, tmp_path)
    assert (alone["failed"], after["failed"]) == (0, 0)
    assert after["succeeded"] == CALLS
    assert after["connections"] <= MAX_CONNECTIONS - RESERVED
    tell(f"{AT_ONCE} at once: {before['succeeded']} of {CALLS} before, {after['succeeded']} of {CALLS} after")
