from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from langflow_sluice.embedded.langflow import LangflowClient, LangflowError, LangflowServer, RunResult
from langflow_sluice.embedded.process import SupervisedProcess
from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 60.0
CODE_THAT_FAILS = """
from lfx.custom.custom_component.component import Component
from lfx.io import MessageTextInput, Output
from lfx.schema.message import Message


class FailingOutput(Component):
    inputs = [MessageTextInput(name="input_value", display_name="Input")]
    outputs = [Output(display_name="Message", name="message", method="message_response")]

    def message_response(self) -> Message:
        msg = "the pump is broken"
        raise ValueError(msg)
"""


def supervised(tmp_path: Path, code: str, *, grace_s: float = 5.0, remove: Path | None = None) -> SupervisedProcess:
    command = [sys.executable, "-c", code]
    log_path = tmp_path / "log"
    return SupervisedProcess(
        command, env=dict(os.environ), cwd=tmp_path, log_path=log_path, grace_s=grace_s, remove=remove
    )


def first_line(path: Path, process: SupervisedProcess) -> str:
    while "\n" not in (text := path.read_text()):
        assert process.poll() is None
    return text.partition("\n")[0]


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits only for whoever reaps orphans on this machine."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_closing_ends_a_command_that_ignores_the_kind_request_and_its_children(tmp_path: Path) -> None:
    code = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        "daemon = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'], start_new_session=True)\n"
        "print(daemon.pid, flush=True)\n"
        "time.sleep(3600)\n"
    )
    process = supervised(tmp_path, code, grace_s=0.1)
    daemon = int(first_line(tmp_path / "log", process))
    process.close()
    process.close()
    assert is_gone(process.pid)
    if sys.platform == "linux":
        assert has_ended(daemon)


def test_a_command_that_ends_by_itself_gives_its_exit_code_and_its_log_stays_until_the_close(tmp_path: Path) -> None:
    folder = tmp_path / "to remove"
    folder.mkdir()
    process = supervised(folder, "print('last words'); raise SystemExit(7)", remove=folder)
    while process.poll() is None:
        os.sched_yield()
    assert process.poll() == 7
    assert is_gone(process.pid)
    assert (folder / "log").read_text() == "last words\n"
    process.close()
    assert not folder.exists()
    assert process.poll() == 7


def test_a_command_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="could not be started"):
        SupervisedProcess([str(tmp_path / "nothing")], env={}, cwd=tmp_path, log_path=tmp_path / "log")


def test_the_command_ends_and_its_folder_goes_when_the_owner_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "to remove"
    folder.mkdir()
    code = (
        "import os, sys, time, pathlib\n"
        "from langflow_sluice.embedded.process import SupervisedProcess\n"
        f"folder, log = pathlib.Path({str(folder)!r}), pathlib.Path({str(tmp_path / 'log')!r})\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(3600)']\n"
        "process = SupervisedProcess(command, env=dict(os.environ), cwd=folder, log_path=log, remove=folder)\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(3600)\n"
    )
    # The supervisor inherits the owner's standard error: its end means that both are gone.
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    group = int(owner.stdout.readline())
    assert not is_gone(group)
    owner.kill()
    _, complaints = owner.communicate(timeout=DEADLINE_S)
    assert complaints == ""
    assert is_gone(group)
    assert not folder.exists()


def test_killing_the_supervisor_does_not_save_the_command(tmp_path: Path) -> None:
    process = supervised(tmp_path, "import time; time.sleep(3600)")
    os.kill(process._supervisor.pid, signal.SIGKILL)
    process.close()
    deadline = time.monotonic() + DEADLINE_S
    while not has_ended(process.pid):
        assert time.monotonic() < deadline


@pytest.mark.parametrize(("workers", "env"), [(0, {}), (2, {}), (2, {"LANGFLOW_REDIS_QUEUE_URL": "redis://x"})])
def test_a_number_of_workers_that_langflow_refuses_is_refused_before_the_start(
    workers: int, env: dict[str, str]
) -> None:
    with pytest.raises(InvalidInput, match="workers"):
        LangflowServer(workers=workers, env=env)


def stand_in(tmp_path: Path, code: str) -> dict[str, str]:
    """Environment in which ``python -m langflow`` runs this code: Langflow itself takes twenty seconds to fail."""
    (tmp_path / "langflow").mkdir()
    (tmp_path / "langflow" / "__init__.py").touch()
    (tmp_path / "langflow" / "__main__.py").write_text(code)
    return {"PYTHONPATH": str(tmp_path), "LANGFLOW_DATABASE_URL": "postgresql://user:canary-password@nowhere/db"}


def test_a_server_that_ends_while_starting_says_why_without_secrets(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "print('cannot reach', os.environ['LANGFLOW_DATABASE_URL'], 'nor redis://me:canary-two@cache:1')\n"
        "sys.exit(3)\n"
    )
    server = LangflowServer(env=stand_in(tmp_path, code))
    with pytest.raises(LangflowError, match="ended while starting") as caught, server:
        pass
    assert "cannot reach *** nor redis://***@cache:1" in str(caught.value)
    assert "canary" not in str(caught.value)
    assert server.pid == 0


def test_a_server_that_is_not_healthy_in_time_is_ended(tmp_path: Path) -> None:
    server = LangflowServer(env=stand_in(tmp_path, "import time; time.sleep(3600)"), start_timeout_s=0.0)
    with pytest.raises(LangflowError, match="start_timeout_s"), server:
        pass
    assert server.pid == 0


def test_ctrl_c_while_the_server_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    started: list[tuple[int, Path]] = []

    def interrupt(_seconds: float, _step: str) -> None:
        started.append((server.pid, server.folder))
        raise KeyboardInterrupt

    server = LangflowServer(env=stand_in(tmp_path, "import time; time.sleep(3600)"), on_progress=interrupt)
    with pytest.raises(KeyboardInterrupt), server:
        pass
    [(group, folder)] = started
    assert is_gone(group)
    assert not folder.exists()


def test_a_killed_owner_leaves_neither_server_nor_folder(tmp_path: Path) -> None:
    environment = stand_in(tmp_path, "import time; time.sleep(3600)")
    code = (
        "import time\n"
        "from langflow_sluice.embedded.langflow import LangflowServer\n"
        "def say(seconds, step):\n"
        "    print(server.pid, server.folder, flush=True)\n"
        "    time.sleep(3600)\n"
        f"server = LangflowServer(env={environment!r}, on_progress=say)\n"
        "with server: pass\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    group, _, folder = owner.stdout.readline().strip().partition(" ")
    assert Path(folder).is_dir()
    owner.kill()
    _, complaints = owner.communicate(timeout=DEADLINE_S)
    assert complaints == ""
    assert is_gone(int(group))
    assert not Path(folder).exists()


def test_the_text_of_a_result_is_the_last_message_that_has_one() -> None:
    def node(text: str) -> dict[str, Any]:
        return {"results": {"message": {"text": text, "data": {"text": text}}}}

    result = RunResult.from_json({"session_id": "s", "outputs": [{"outputs": [node("one"), node("two"), node("")]}]})
    assert (result.text, result.session_id) == ("two", "s")
    table = RunResult.from_json({"outputs": [{"outputs": [{"results": {"table": [{"a": 1}]}}, None]}]})
    assert (table.text, len(table.outputs)) == ("", 1)


@pytest.fixture(scope="module")
def server() -> Iterator[LangflowServer]:
    steps: list[tuple[float, str]] = []
    os.environ["LANGFLOW_DATABASE_URL"] = "postgresql://nobody:nothing@127.0.0.1:1/must_not_be_used"
    try:
        server = LangflowServer(on_progress=lambda seconds, step: steps.append((seconds, step)))
        with server:
            yield server
            group, folder, log_path = server.pid, server.folder, server.log_path
    finally:
        del os.environ["LANGFLOW_DATABASE_URL"]
    assert steps == sorted(steps, key=lambda step: step[0])
    assert steps[-1][1] == "Loading Components"
    assert is_gone(group)
    assert not folder.exists()
    assert not log_path.exists()
    server.close()


@pytest.fixture(scope="module")
def client(server: LangflowServer) -> Iterator[LangflowClient]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def components(client: LangflowClient) -> dict[str, Any]:
    return client.components()


def flow_of(components: dict[str, Any], name: str, *, code: str = "") -> dict[str, Any]:
    """Chat Input -> Chat Output; with code, the output runs that instead of its own."""
    templates = {kind: template for group in components.values() for kind, template in group.items()}

    def node(kind: str) -> dict[str, Any]:
        template = json.loads(json.dumps(templates[kind]))
        return {"id": f"{kind}-1", "type": "genericNode", "position": {"x": 0, "y": 0}, "data": {"type": kind}} | {
            "data": {"id": f"{kind}-1", "type": kind, "node": template}
        }

    def text(handle: dict[str, Any]) -> str:
        return json.dumps(handle, sort_keys=True, separators=(",", ":")).replace('"', "œ")

    source = {"dataType": "ChatInput", "id": "ChatInput-1", "name": "message", "output_types": ["Message"]}
    accepted = templates["ChatOutput"]["template"]["input_value"]
    target = {
        "fieldName": "input_value",
        "id": "ChatOutput-1",
        "inputTypes": accepted["input_types"],
        "type": accepted["type"],
    }
    edge = {
        "id": "edge-1",
        "source": source["id"],
        "target": target["id"],
        "sourceHandle": text(source),
        "targetHandle": text(target),
        "data": {"sourceHandle": source, "targetHandle": target},
    }
    nodes = [node("ChatInput"), node("ChatOutput")]
    if code:
        nodes[1]["data"]["node"]["template"]["code"]["value"] = code
    data = {"nodes": nodes, "edges": [edge], "viewport": {"x": 0, "y": 0, "zoom": 1}}
    return {"name": name, "data": data}


@pytest.fixture(scope="module")
def echo(client: LangflowClient, components: dict[str, Any]) -> str:
    return client.upload_flow(flow_of(components, "Echo"))


def test_the_palette_has_every_template(components: dict[str, Any]) -> None:
    assert "ChatInput" in components["input_output"]
    assert components["input_output"]["ChatInput"]["template"]["code"]["value"]


def test_the_server_keeps_everything_in_its_own_folder(server: LangflowServer) -> None:
    assert (server.folder / "config" / "langflow.db").exists()
    assert server.log_path.read_text()
    assert server.folder.is_relative_to(os.path.realpath(os.environ.get("TMPDIR", "/tmp")))  # noqa: S108


def test_a_flow_runs_and_gives_its_text(client: LangflowClient, echo: str) -> None:
    result = client.run(echo, "hello", session_id="session one")
    assert (result.text, result.session_id) == ("hello", "session one")
    assert result.outputs[0]["inputs"] == {"input_value": "hello"}


def test_tweaks_reach_the_nodes(client: LangflowClient, echo: str) -> None:
    result = client.run(echo, "hello", tweaks={"ChatOutput-1": {"sender_name": "Lock Keeper"}})
    assert result.outputs[0]["outputs"][0]["results"]["message"]["sender_name"] == "Lock Keeper"


async def test_flows_run_at_once_from_an_event_loop(server: LangflowServer, echo: str) -> None:
    async with server.async_client(max_connections=4) as client:
        results = await asyncio.gather(*(client.run(echo, f"call {number}") for number in range(8)))
        assert [result.text for result in results] == [f"call {number}" for number in range(8)]
        with pytest.raises(LangflowError) as caught:
            await client.run("no such flow", "x")
        assert caught.value.status == 404


def test_a_flow_that_fails_tells_the_servers_reason(client: LangflowClient, components: dict[str, Any]) -> None:
    failing = client.upload_flow(flow_of(components, "Failing", code=CODE_THAT_FAILS))
    with pytest.raises(LangflowError, match="the pump is broken") as caught:
        client.run(failing, "hello")
    assert caught.value.status == 500


def test_a_run_that_takes_too_long_is_an_error_of_the_client(client: LangflowClient, echo: str) -> None:
    with pytest.raises(LangflowError, match="timeout_s") as caught:
        client.run(echo, "canary prompt", timeout_s=0.001)
    assert caught.value.status == 0
    assert "canary" not in str(caught.value)


def test_the_run_endpoint_wants_a_key_even_with_auto_login(server: LangflowServer, echo: str) -> None:
    with LangflowClient(server.base_url) as stranger:
        with pytest.raises(LangflowError, match="API key") as caught:
            stranger.run(echo, "hello")
        assert caught.value.status == 403
        key = stranger.create_api_key("another")
        assert key != server.api_key
        assert stranger.run(echo, "hello").text == "hello"


def test_a_variable_can_be_set_and_changed(client: LangflowClient) -> None:
    client.set_variable("SLUICE_TEST", "one", kind="Generic")
    client.set_variable("SLUICE_TEST", "two", kind="Generic")
    variables = client._request("GET", "/api/v1/variables/")
    assert [v["value"] for v in variables if v["name"] == "SLUICE_TEST"] == ["two"]


def test_a_server_that_is_not_there_is_an_error_without_the_prompt() -> None:
    with (
        LangflowClient("http://127.0.0.1:9", "canary-key") as client,
        pytest.raises(LangflowError, match="cannot be reached") as caught,
    ):
        client.run("flow", "canary prompt")
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_key_for_this_machine_is_not_shown_to_a_proxy(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.settimeout(0)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with LangflowClient(f"http://{host}:1", "sk-canary", timeout_s=5) as client, pytest.raises(LangflowError):
            client.create_api_key()
        with pytest.raises(BlockingIOError):
            proxy.accept()
