"""One flow, run in every way that Langflow has: the same result, in the same order."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from langflow_sluice.embedded.process import SupervisedProcess

from .callers import LLM
from .chats import upload
from .section_flows import DONE, VISIT, Desk, bundled, gate_visiting, markdown, rows_visiting
from .ways import WAYS, Ending

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Palette, Stack

ROWS = [f"Ticket {number} of the harbour office" for number in range(12)]
TABLE = markdown(["text", "result"], [[row, f"Answer to: {row}"] for row in ROWS])
WAYS_WITH_TWEAKS = {name: way for name, way in WAYS.items() if name != "build"}
SERVE_KEY = "sk-of-lfx-serve"
READY_S = 300.0
# The command as it is where only lfx is installed: nothing of Langflow's server can be imported.
LFX = [sys.executable, "-c", "import sys; sys.modules['langflow'] = None; from lfx.__main__ import main; main()"]


def rows_through_a_model(stack: Stack) -> dict[str, Any]:
    """The bundled flow, with the provider's address in it."""
    return bundled("fan_out_rows", LLM, {"base_url": stack.provider.base_url})


@pytest.fixture(scope="module")
def rows_flow(running: Stack) -> str:
    return upload(running, rows_through_a_model(running))


@pytest.mark.parametrize("way", WAYS)
async def test_rows_come_out_alike_and_in_their_order_by_every_way(stack: Stack, rows_flow: str, way: str) -> None:
    assert await WAYS[way](stack, rows_flow, "\n".join(ROWS), {}) == Ending({DONE: TABLE})
    assert stack.provider.stats().answered == {200: len(ROWS)}


async def test_what_a_gate_guards_comes_out_alike_by_every_way(stack: Stack, palette: Palette) -> None:
    async with Desk() as desk:
        flow_id = upload(stack, gate_visiting(palette, desk.port, max_concurrency=1).to_dict())
        endings = [await way(stack, flow_id, "one apple", {}) for way in WAYS.values()]
        assert endings == [Ending({DONE: "one apple seen"})] * len(WAYS)
        assert desk.came == ["one apple"] * len(WAYS)


@pytest.mark.parametrize("way", WAYS_WITH_TWEAKS)
async def test_tweaks_reach_the_nodes_inside_a_section_by_every_way(stack: Stack, palette: Palette, way: str) -> None:
    run, flow_id = WAYS_WITH_TWEAKS[way], upload(stack, rows_visiting(palette).to_dict())
    for tweaks, remark in (({VISIT: {"remark": "tweaked"}}, "tweaked"), ({}, "seen")):
        # The second run finds the flow as it was.
        rows = [[row, f"{row} {remark}"] for row in ("first row", "second row")]
        ending = await run(stack, flow_id, "first row\nsecond row", tweaks)
        assert (ending.error, ending.said[DONE]) == ("", markdown(["text", "result"], rows))


def environment(stack: Stack) -> dict[str, str]:
    """How the provider's address and key get in: the flow has the address, a variable of the key's name the key."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LANGFLOW_", "LFX_"))}
    return inherited | {
        "OPENAI_API_KEY": stack.key,
        # A key out of the environment goes to OpenAI only, unless the operator names the address.
        "LANGFLOW_PROVIDER_CREDENTIAL_ALLOWED_HOSTS": "http://127.0.0.1",
        "LANGFLOW_SSRF_ALLOWED_HOSTS": "127.0.0.1,localhost",
        "LANGFLOW_API_KEY": SERVE_KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DO_NOT_TRACK": "true",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


async def lfx_run(stack: Stack, file: Path, text: str) -> str:
    """What ``lfx run`` prints of a flow's result."""
    process = await asyncio.create_subprocess_exec(
        *(*LFX, "run", "--format", "text", str(file), text),
        env=environment(stack),
        cwd=file.parent,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complaints = await process.communicate()
    assert process.returncode == 0, (printed + complaints).decode()[-2000:]
    return printed.decode().strip()


async def test_lfx_run_prints_the_same_rows_in_the_same_order(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "fan_out_rows.json"
    file.write_text(json.dumps(rows_through_a_model(stack)), "utf-8")
    assert await lfx_run(stack, file, "\n".join(ROWS)) == TABLE
    assert stack.provider.stats().answered == {200: len(ROWS)}


@pytest.mark.slow
async def test_lfx_run_runs_what_a_gate_guards(stack: Stack, palette: Palette, tmp_path: Path) -> None:
    async with Desk() as desk:
        file = tmp_path / "gate_visiting.json"
        file.write_text(json.dumps(gate_visiting(palette, desk.port).to_dict()), "utf-8")
        assert await lfx_run(stack, file, "one apple") == "one apple seen"
        assert desk.came == ["one apple"]


@pytest.fixture
def lfx_serve(stack: Stack, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of ``lfx serve``, which serves the flow over rows from its file."""
    file, log = tmp_path / "fan_out_rows.json", tmp_path / "serve.log"
    file.write_text(json.dumps(rows_through_a_model(stack)), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*LFX, "serve", str(file), "--host", "127.0.0.1", "--port", str(port)]
    process = SupervisedProcess(command, env=environment(stack), cwd=tmp_path, log_path=log)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": SERVE_KEY}, timeout=60.0)
    try:
        until = time.monotonic() + READY_S
        while not is_up(client):
            assert process.poll() is None, log.read_text("utf-8")[-2000:]
            assert time.monotonic() < until, log.read_text("utf-8")[-2000:]
            time.sleep(0.2)
        yield client
    finally:
        client.close()
        process.close()


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.ConnectError:
        return False


def served(client: httpx.Client, flow: dict[str, Any], text: str) -> dict[str, str]:
    """What each way of ``lfx serve`` to run a flow says of it; a flow that it does not have yet is uploaded."""
    if flow["name"] not in {each["title"] for each in client.get("/flows").json()}:
        flow = client.post("/flows/upload/", json=flow).raise_for_status().json()
    [flow_id] = [each["id"] for each in client.get("/flows").json() if each["title"] == flow["name"]]
    payload = {"flow_id": flow_id, "input_value": text}
    said = {
        "run": client.post(f"/flows/{flow_id}/run", json={"input_value": text}).json()["result"],
        "workflow": client.post("/api/v2/workflows", json=payload).json()["output"]["text"],
    }
    for name, path, body in (
        ("stream", f"/flows/{flow_id}/stream", {"input_value": text}),
        ("workflow, streamed", "/api/v2/workflows", {**payload, "mode": "stream"}),
    ):
        for line in client.post(path, json=body).text.splitlines():
            event = line.removeprefix("data: ")
            data = json.loads(event)["data"] if event.startswith("{") else {}
            if "result" in data:
                said[name] = data["result"]["result"]
            elif data.get("build_data", {}).get("id") == DONE:
                said[name] = data["build_data"]["data"]["results"]["message"]["data"]["text"]
    return said


async def test_lfx_serve_gives_the_same_results_without_langflow(
    stack: Stack, palette: Palette, lfx_serve: httpx.Client
) -> None:
    ways = ("run", "stream", "workflow", "workflow, streamed")
    rows = await asyncio.to_thread(served, lfx_serve, rows_through_a_model(stack), "\n".join(ROWS))
    assert rows == dict.fromkeys(ways, TABLE)
    assert stack.provider.stats().answered == {200: len(ways) * len(ROWS)}
    async with Desk() as desk:
        gate = gate_visiting(palette, desk.port).to_dict()
        said = await asyncio.to_thread(served, lfx_serve, gate, "one apple")
        assert said == dict.fromkeys(ways, "one apple seen")
        assert desk.came == ["one apple"] * len(ways)
