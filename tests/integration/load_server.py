"""A server that answers as Langflow's API does, over HTTP, with a capacity of its own; in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from langflow_sluice.simulator.server import listen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from starlette.requests import Request

KEY = "sk-canary-langflow-key"
FLOW_ID = "11111111-2222-3333-4444-555555555550"  # of the first flow


def answered(text: str = "An answer") -> dict[str, Any]:
    """What a run with a chat output answers."""
    message = {"text": text, "error": False, "category": "message", "data": {"text": text}}
    return {"session_id": "s", "outputs": [{"inputs": {}, "outputs": [{"results": {"message": message}}]}]}


def failed(words: str) -> JSONResponse:
    """What Langflow answers where a node has failed."""
    body = {"detail": json.dumps({"message": f"Error running graph: Error building Component X: {words}"})}
    return JSONResponse(body, 500)


@dataclass
class Run:
    """One call as the server sees it.

    Attributes:
        number: From 1, in the order of arrival.
        at_once: Calls in flight when it came, with itself.
        payload: What it carried.
    """

    number: int
    at_once: int
    payload: dict[str, Any]


@dataclass
class Seen:
    """What the server has seen; read it when no call is under way."""

    runs: list[Run] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failures: int = 0
    keys_made: list[str] = field(default_factory=list)
    keys_removed: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_for_runs(self, count: int) -> bool:
        """Waits until that many have come."""
        with self.changed:
            return self.changed.wait_for(lambda: len(self.runs) >= count, 30)


@contextlib.contextmanager
def serve(flows: dict[str, Callable[[Run], Awaitable[Response | dict[str, Any]]]]) -> Iterator[tuple[str, Seen]]:
    """Serves flows by endpoint name; yields the address and what was seen."""
    seen = Seen()
    ids = {name: FLOW_ID[:-1] + str(place) for place, name in enumerate(flows)}
    in_flight = 0

    async def run(request: Request) -> Response:
        nonlocal in_flight
        if request.headers.get("x-api-key") not in {KEY, *seen.keys_made}:
            return JSONResponse({"detail": "An API key must be passed"}, 403)
        began = time.perf_counter()
        payload = await request.json()
        in_flight += 1
        with seen.changed:
            this = Run(len(seen.runs) + 1, in_flight, payload)
            seen.runs.append(this)
            seen.changed.notify_all()
        try:
            flow = next(name for name, id_ in ids.items() if id_ == request.path_params["id"])
            answer = await flows[flow](this)
        finally:
            in_flight -= 1
            seen.seconds.append(time.perf_counter() - began)
        response = answer if isinstance(answer, Response) else JSONResponse(answer)
        seen.failures += response.status_code != 200
        return response

    async def listed(_: Request) -> Response:
        return JSONResponse([{"id": id_, "name": f"Flow {name}", "endpoint_name": name} for name, id_ in ids.items()])

    async def logged_in(_: Request) -> Response:
        return JSONResponse({"access_token": "token"})

    async def made(_: Request) -> Response:
        seen.keys_made.append(f"made-{len(seen.keys_made)}")
        return JSONResponse({"id": seen.keys_made[-1], "api_key": seen.keys_made[-1]})

    async def removed(request: Request) -> Response:
        seen.keys_removed.append(request.path_params["id"])
        return JSONResponse({})

    async def version(_: Request) -> Response:
        return JSONResponse({"version": "1.13.0"})

    routes = [
        Route("/api/v1/run/{id}", run, methods=["POST"]),
        Route("/api/v1/flows/", listed),
        Route("/api/v1/auto_login", logged_in),
        Route("/api/v1/api_key/", made, methods=["POST"]),
        Route("/api/v1/api_key/{id}", removed, methods=["DELETE"]),
        Route("/api/v1/version", version),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes), log_config=None, lifespan="off", loop="asyncio", timeout_graceful_shutdown=0
    )
    server = uvicorn.Server(config)
    sock = listen()
    sock.listen()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), daemon=True)
    thread.start()
    try:
        # The socket listens already; who comes before the server is ready waits there.
        yield f"http://127.0.0.1:{sock.getsockname()[1]}", seen
    finally:
        server.should_exit = True
        thread.join()
        sock.close()


def sent_on(to: str) -> Response:
    """Sends a caller to another address."""
    return RedirectResponse(to, 307)
