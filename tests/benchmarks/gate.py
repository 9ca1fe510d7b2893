"""What a call costs a real Langflow that a full Concurrency Gate turns away: routed to busy, and raised.

Run it: ``uv run python tests/benchmarks/gate.py``; about four minutes, most of it two starts of Langflow. CPU seconds
of the server's processes for each call are printed, over those of a good call; nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import functools
import statistics
import time
from typing import Any

import httpx
import psutil

from langflow_sluice.canvas import parts
from langflow_sluice.canvas.build import Flow
from langflow_sluice.embedded.langflow import LangflowServer

GATE, STEP = "ConcurrencyGateComponent-gate", "BenchmarkStepComponent-step"
QUIET_S = 0.02
SOURCE = """
import asyncio

from lfx.custom.custom_component.component import Component
from lfx.io import FloatInput, HandleInput, Output
from lfx.schema.message import Message


class BenchmarkStepComponent(Component):
    display_name = "Step"
    inputs = [
        HandleInput(name="item", display_name="Item", input_types=["Message"]),
        FloatInput(name="seconds", display_name="Seconds", value=0.0),
    ]
    outputs = [Output(name="out", display_name="Out", method="out")]

    async def out(self) -> Message:
        if self.seconds < 0:
            raise ValueError("no luck")
        await asyncio.sleep(self.seconds)
        return self.item
"""


class Palette:
    """The server's nodes, and one of the benchmark's own."""

    def __init__(self, client: Any) -> None:
        self._nodes = {name: node for group in client.components().values() for name, node in group.items()}
        made = client._request("POST", "/api/v1/custom_component", payload={"code": SOURCE})
        self._nodes[made["type"]] = made["data"]

    def node(self, node_type: str) -> dict[str, Any]:
        return copy.deepcopy(self._nodes[node_type])


def gated(palette: Palette) -> dict[str, Any]:
    flow = Flow(palette, "benchmark_gate", name="Benchmark of a gate", description="A benchmark's.")
    text, answer = parts.chat_input(flow), parts.chat_output(flow)
    gate, step = flow.add(parts.CONCURRENCY_GATE, "gate"), flow.add("BenchmarkStepComponent", "step")
    busy, reason = flow.add(parts.CHAT_OUTPUT, "busy"), flow.add(parts.CHAT_OUTPUT, "reason")
    flow.connect(text, "message", gate, "value")
    flow.connect(gate, "guarded", step, "item")
    flow.connect(step, "out", gate, "guarded")
    flow.connect(gate, "done", answer, "input_value")
    flow.connect(gate, "busy", busy, "input_value")
    flow.connect(gate, "reason", reason, "input_value")
    flow.arrange([[text], [gate], [None, step], [answer, busy, reason]])
    return flow.to_dict()


def cpu_s(server: LangflowServer) -> float:
    main = psutil.Process(server.pid)
    times = [process.cpu_times() for process in (main, *main.children(recursive=True))]
    return sum(each.user + each.system for each in times)


async def quiet(server: LangflowServer) -> float:
    """Waits until the server does nothing any more; returns the CPU seconds it has used."""
    while True:
        before = cpu_s(server)
        await asyncio.sleep(0.5)
        after = cpu_s(server)
        if after - before <= QUIET_S:
            return after


async def measure(server: LangflowServer, call: Any, calls: int) -> tuple[float, float]:
    """CPU seconds for each call, and the median of their durations."""
    durations = []
    before = await quiet(server)
    for _ in range(calls):
        started = time.perf_counter()
        await call()
        durations.append(time.perf_counter() - started)
    return (await quiet(server) - before) / calls, statistics.median(durations)


@contextlib.asynccontextmanager
async def held(http: httpx.AsyncClient, path: str) -> Any:
    """Two streaming calls that hold the gate's only slot and its only place in the queue."""
    limits = {"guard_name": "full", "max_concurrency": 1, "max_queue": 1, "queue_timeout": 3600}
    payload = {"input_value": "hold", "tweaks": {GATE: limits, STEP: {"seconds": 3600}}}
    followed = []  # a stream that nobody refers to any more is closed, and its run ends
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            response = await stack.enter_async_context(http.stream("POST", f"{path}?stream=true", json=payload))
            followed.append(response.aiter_lines())
            async for line in followed[-1]:
                if "add_message" in line:
                    break
        # Chat Input has spoken; the gate comes at once after it, and tells nobody outside.
        await asyncio.sleep(5)
        yield limits


async def compare(*, pretty: bool, calls: int, raising: int) -> None:
    env = {"LANGFLOW_PRETTY_LOGS": "true" if pretty else "false"}
    with LangflowServer(env=env) as server, server.client() as client:
        flow_id = client.upload_flow(gated(Palette(client)))
        path, headers = f"/api/v1/run/{flow_id}", {"x-api-key": server.api_key}
        async with (
            httpx.AsyncClient(base_url=server.base_url, headers=headers, timeout=300.0) as http,
            held(http, path) as limits,
        ):
            kinds = {
                "good call": ({GATE: {"guard_name": "free"}}, calls),
                "full gate, routed to busy": ({GATE: {**limits, "on_full": "busy"}}, calls),
                "full gate, raised": ({GATE: {**limits, "on_full": "raise"}}, raising),
                "a ValueError in the section": ({GATE: {"guard_name": "free"}, STEP: {"seconds": -1}}, raising),
            }
            print(f"LANGFLOW_PRETTY_LOGS={env['LANGFLOW_PRETTY_LOGS']}")
            print(f"{'':<32}{'status':>8}{'CPU s':>8}{'over good':>11}{'median s':>10}")
            good = 0.0
            for name, (tweaks, count) in kinds.items():
                payload = {"input_value": "a question", "output_type": "any", "tweaks": tweaks}
                post = functools.partial(http.post, path, json=payload)
                answer = await post()  # warms up, and shows what a caller gets
                cpu, took = await measure(server, post, count)
                good = good or cpu
                print(f"{name:<32}{answer.status_code:>8}{cpu:>8.3f}{cpu - good:>11.3f}{took:>10.2f}", flush=True)
                if "busy" in name and '"_busy"' not in answer.text:
                    print("the caller is not told why")
            print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--raising", type=int, default=3)
    parser.add_argument("--logs", choices=["both", "plain", "pretty"], default="both")
    asked = parser.parse_args()
    for pretty in (False, True):
        if asked.logs in {"both", "pretty" if pretty else "plain"}:
            asyncio.run(compare(pretty=pretty, calls=asked.calls, raising=asked.raising))
