"""The ways in which Langflow's server runs a flow: each returns what the flow came to, in one form."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import httpx

from langflow_sluice.embedded.langflow import LangflowError

from .streams import Run, on_the_canvas, through_the_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from .conftest import Stack
    from .streams import Event

    Way = Callable[[Stack, str, str, Mapping[str, Any]], Awaitable["Ending"]]

_TIMEOUT_S = 120.0
_POLL_S = 0.1
_ENDED_BADLY = 400
_NODES = "/nodes/"


class Eventful(Protocol):
    """A run whose events can be followed."""

    def events(self) -> AsyncIterator[Event]:
        """What happens from now on."""


@dataclass
class Ending:
    """What a run came to.

    Attributes:
        said: The text of each Chat Output, by its id.
        error: Why it failed, in the API's words; empty where it did not.
    """

    said: dict[str, str] = field(default_factory=dict)
    error: str = ""


async def run(stack: Stack, flow_id: str, text: str, tweaks: Mapping[str, Any]) -> Ending:
    """A call of ``/api/v1/run``."""
    async with stack.langflow.async_client() as client:
        try:
            result = await client.run(flow_id, text, tweaks=tweaks, timeout_s=_TIMEOUT_S)
        except LangflowError as error:
            return Ending(error=str(error))
    return Ending(_said_by_nodes(result.outputs))


async def run_streamed(stack: Stack, flow_id: str, text: str, tweaks: Mapping[str, Any]) -> Ending:
    """A call of ``/api/v1/run?stream=true``."""
    ending = Ending()
    async with through_the_api(stack, flow_id, text, tweaks) as run:
        async for event in run.events():
            if event.kind == "end":
                ending.said = _said_by_nodes(event.data["result"]["outputs"])
            elif event.kind == "error":
                ending.error = json.dumps(event.data)
    return ending


async def canvas(stack: Stack, flow_id: str, text: str, tweaks: Mapping[str, Any]) -> Ending:
    """The Playground: the v2 workflow API with AG-UI's events."""
    async with on_the_canvas(stack, flow_id, text, tweaks) as run:
        return await end_on_the_canvas(run)


async def end_on_the_canvas(run: Eventful) -> Ending:
    """Follows a run's AG-UI events to their end."""
    ending = Ending()
    async for event in run.events():
        if event.kind == "STATE_DELTA":
            for change in event.data["delta"]:
                results = ((change["value"] or {}).get("output") or {}).get("results") or {}
                _note(ending, change["path"].removeprefix(_NODES), results)
        elif event.kind in {"error", "RUN_ERROR"}:
            ending.error += json.dumps(event.data)
    return ending


async def build(stack: Stack, flow_id: str, text: str, tweaks: Mapping[str, Any]) -> Ending:
    """A build as canvases before 1.13 asked for it; it takes no tweaks."""
    assert not tweaks
    ending = Ending()
    async with started_build(stack, flow_id, text) as (_, run):
        async for event in run.events():
            if event.kind == "end_vertex":
                built = event.data["build_data"]
                _note(ending, built["id"], built["data"].get("results") or {})
            elif event.kind == "error":
                ending.error = json.dumps(event.data)
    return ending


async def workflow(stack: Stack, flow_id: str, text: str, tweaks: Mapping[str, Any]) -> Ending:
    """A call of the v2 workflow API that waits for the end."""
    async with http(stack) as client:
        return _ended(await client.post(_WORKFLOWS, json=_workflow(flow_id, text, tweaks, "sync")))


async def workflow_streamed(stack: Stack, flow_id: str, text: str, tweaks: Mapping[str, Any]) -> Ending:
    """A call of the v2 workflow API with Langflow's own events."""
    ending = Ending()
    async with (
        http(stack) as client,
        client.stream("POST", _WORKFLOWS, json=_workflow(flow_id, text, tweaks, "stream")) as response,
    ):
        async for event in Run(response).events():
            if event.kind == "output":
                ending.said[event.data["component_id"]] = event.data["content"]
            elif event.kind == "error":
                ending.error = json.dumps(event.data)
    return ending


async def workflow_in_background(stack: Stack, flow_id: str, text: str, tweaks: Mapping[str, Any]) -> Ending:
    """A job of the v2 workflow API whose state is asked for until it has ended."""
    async with http(stack) as client:
        job_id = await submitted(client, flow_id, text, tweaks)
        while True:
            response = await client.get(_WORKFLOWS, params={"job_id": job_id})
            if response.status_code >= _ENDED_BADLY or response.json()["object"] == "response":
                return _ended(response)
            await asyncio.sleep(_POLL_S)


WAYS: dict[str, Way] = {
    "canvas": canvas,
    "build": build,
    "run": run,
    "run, streamed": run_streamed,
    "workflow": workflow,
    "workflow, streamed": workflow_streamed,
    "workflow in background": workflow_in_background,
}
"""All of them, by name."""

_WORKFLOWS = "/api/v2/workflows"


def http(stack: Stack) -> httpx.AsyncClient:
    """A client of the server's whole API."""
    headers = {"x-api-key": stack.langflow.api_key}
    return httpx.AsyncClient(base_url=stack.langflow.base_url, headers=headers, timeout=_TIMEOUT_S)


async def submitted(client: httpx.AsyncClient, flow_id: str, text: str, tweaks: Mapping[str, Any]) -> str:
    """Starts a job of the v2 workflow API, with AG-UI's events; returns its id."""
    payload = {**_workflow(flow_id, text, tweaks, "background"), "stream_protocol": "agui", "expose_graph_state": True}
    response = await client.post(_WORKFLOWS, json=payload)
    return str(response.raise_for_status().json()["job_id"])


@contextlib.asynccontextmanager
async def started_build(stack: Stack, flow_id: str, text: str) -> AsyncIterator[tuple[str, Run]]:
    """A build under way, with its job's id; leaving the block closes the stream of its events."""
    async with http(stack) as client:
        response = await client.post(f"/api/v1/build/{flow_id}/flow", json={"inputs": {"input_value": text}})
        job_id = response.raise_for_status().json()["job_id"]
        async with client.stream("GET", f"/api/v1/build/{job_id}/events") as events:
            yield job_id, Run(events.raise_for_status())


def _workflow(flow_id: str, text: str, tweaks: Mapping[str, Any], mode: str) -> dict[str, Any]:
    return {"flow_id": flow_id, "input_value": text, "tweaks": dict(tweaks), "mode": mode}


def _ended(response: httpx.Response) -> Ending:
    answer = response.json()
    if response.status_code >= _ENDED_BADLY or answer["errors"]:
        return Ending(error=json.dumps(answer))
    return Ending({name: output["content"] for name, output in answer["outputs"].items()})


def _said_by_nodes(outputs: list[dict[str, Any]]) -> dict[str, str]:
    ending = Ending()
    for node in outputs[0]["outputs"]:
        _note(ending, node["component_id"], node["results"])
    return ending.said


def _note(ending: Ending, node_id: str, results: Mapping[str, Any]) -> None:
    if node_id.startswith("ChatOutput-"):
        message = results["message"]
        ending.said[node_id] = message["text"] if "text" in message else message["data"]["text"]
