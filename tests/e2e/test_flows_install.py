"""``sluice flows install`` against the running server, for a user who has nothing there yet."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from langflow_sluice.canvas.bundled import bundled_flows
from langflow_sluice.canvas.server import FlowsServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Stack

SLUICE = Path(sys.executable).parent / "sluice"
SAFE = sorted(flow.slug for flow in bundled_flows() if not flow.unsafe)


@dataclass(frozen=True)
class Done:
    """What a command said: its exit status, and its lines by what became of the flow."""

    status: int
    output: str
    errors: str

    def flows(self, what: str) -> list[str]:
        lines = [line.split() for line in f"{self.output}\n{self.errors}".splitlines()]
        return sorted(words[1] for words in lines if words[:1] == [what])


def install(stack: Stack, *arguments: str, key: str = "") -> Done:
    env = {name: value for name, value in os.environ.items() if not name.startswith("LANGFLOW_")}
    env |= {"LANGFLOW_URL": stack.langflow.base_url, "LANGFLOW_API_KEY": key}
    command = [str(SLUICE), "flows", "install", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert not key or key not in done.stdout + done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def newcomer(stack: Stack, request: pytest.FixtureRequest) -> Iterator[FlowsServer]:
    """The server in the eyes of a user who has neither flows nor variables; `key` is the user's key."""
    account = {"username": request.node.name[:60], "password": "canary-password"}
    user = stack.client._request("POST", "/api/v1/users/", payload=account)
    stack.client._request("PATCH", f"/api/v1/users/{user['id']}", payload={"is_active": True})
    with httpx.Client(base_url=stack.langflow.base_url, timeout=60) as http:
        token = http.post("/api/v1/login", data=account).raise_for_status().json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        key = http.post("/api/v1/api_key/", json={"name": "test"}, headers=headers).raise_for_status().json()["api_key"]
    with FlowsServer(stack.langflow.base_url, key) as server:
        yield server
    stack.client._request("DELETE", f"/api/v1/users/{user['id']}")


def key_of(server: FlowsServer) -> str:
    return server._http.headers["x-api-key"]


def test_flows_are_installed_run_and_kept_the_next_time(stack: Stack, newcomer: FlowsServer) -> None:
    first = install(stack, key=key_of(newcomer))
    assert first.status == 0, first.errors
    assert first.flows("installed") == SAFE
    assert sorted(newcomer.flows()) == SAFE
    for slug, flow in newcomer.flows().items():
        assert f"{stack.langflow.base_url}/flow/{flow['id']}" in first.output, slug
    # What a run would fail for want of, by name.
    assert "global variable OPENAI_API_KEY" in first.errors
    assert "global variable SLUICE_DATABASE_URL" in first.errors

    newcomer.set_variable("OPENAI_API_KEY", stack.key)
    assert newcomer.run("chat_rate_limited", "hello there", tweaks=stack.tweaks).text == "Answer to: hello there"

    again = install(stack, key=key_of(newcomer))
    assert again.status == 0
    assert again.flows("kept") == SAFE
    assert "--replace" in again.output
    assert sorted(newcomer.flows()) == SAFE


def test_a_flow_that_calls_another_brings_it_along_under_the_name_it_has_there(
    stack: Stack, newcomer: FlowsServer
) -> None:
    newcomer.set_variable("OPENAI_API_KEY", stack.key)
    # Langflow gives the chat a number, since there is a flow of that name.
    newcomer.create({"name": "Rate-limited chat", "data": {"nodes": [], "edges": []}})
    done = install(stack, "fan_out_subflows", key=key_of(newcomer))
    assert done.status == 0, done.errors
    assert done.flows("installed") == ["chat_rate_limited", "fan_out_subflows"]
    chat = newcomer.flows()["chat_rate_limited"]
    assert chat["name"] != "Rate-limited chat"

    flow = newcomer._request("GET", f"/api/v1/flows/{chat['id']}")
    [model] = [node for node in flow["data"]["nodes"] if node["id"] == "RateLimitedLLMComponent-llm"]
    model["data"]["node"]["template"]["base_url"]["value"] = stack.provider.base_url
    newcomer._request("PATCH", f"/api/v1/flows/{chat['id']}", payload={"data": flow["data"]})
    answer = newcomer.run("fan_out_subflows", "one letter\nanother letter").text
    assert "Answer to: one letter" in answer
    assert "Answer to: another letter" in answer


def test_a_changed_flow_is_replaced_when_asked_for_with_its_id_and_the_name_its_user_gave_it(
    stack: Stack, newcomer: FlowsServer
) -> None:
    install(stack, "chat_rate_limited", key=key_of(newcomer))
    flow_id = newcomer.flows()["chat_rate_limited"]["id"]
    changes = {"name": "My chat", "data": {"nodes": [], "edges": []}}
    newcomer._request("PATCH", f"/api/v1/flows/{flow_id}", payload=changes)

    assert install(stack, "chat_rate_limited", key=key_of(newcomer)).flows("kept") == ["chat_rate_limited"]
    assert newcomer._request("GET", f"/api/v1/flows/{flow_id}")["data"] == changes["data"]

    done = install(stack, "chat_rate_limited", "--replace", key=key_of(newcomer))
    assert done.flows("replaced") == ["chat_rate_limited"]
    flow = newcomer._request("GET", f"/api/v1/flows/{flow_id}")
    assert flow["name"] == "My chat"
    assert len(flow["data"]["nodes"]) == 4


def test_auto_login_serves_where_there_is_no_key_and_leaves_none_behind(stack: Stack) -> None:
    before = stack.client._request("GET", "/api/v1/api_key/")["total_count"]
    done = install(stack)
    assert done.flows("kept") == SAFE
    assert stack.client._request("GET", "/api/v1/api_key/")["total_count"] == before


def test_a_key_that_the_server_does_not_accept_is_told_and_not_repeated(stack: Stack) -> None:
    done = install(stack, key="sk-canary-0123456789")
    assert done.status == 1
    assert "does not accept the API key" in done.errors
    assert "Traceback" not in done.errors
