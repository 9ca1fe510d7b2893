"""The simulated provider as an ASGI application."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import math
import time
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from langflow_sluice.errors import InvalidInput
from langflow_sluice.simulator import wire
from langflow_sluice.simulator.answers import default_policy
from langflow_sluice.simulator.embedding import embed
from langflow_sluice.simulator.exchange import Exchange
from langflow_sluice.simulator.settings import ProviderSettings
from langflow_sluice.simulator.stats import Recorder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from langflow_sluice.simulator.answers import AnswerPolicy
    from langflow_sluice.simulator.stats import ProviderStats

    Work = Callable[[Exchange, dict[str, Any]], Awaitable[None]]

_MOST_DIMENSIONS = 4096
_THROTTLED, _UNAVAILABLE, _SERVER_ERROR = 429, 503, 500
CONNECTION_KEY = "sluice.connection"


class Provider:
    """OpenAI's chat completions, embeddings and models with a real capacity; an ASGI application.

    Use it on one event loop. ``/_sim/stats``, ``/_sim/reset`` and ``/_sim/config`` are its control interface, without
    authentication: bind it to a loopback address only.

    Args:
        settings: Capacity, speed and faults.
        policy: Decides the answers; the default answers from the context in the prompt.

    Attributes:
        settings: The settings in force.
        recorder: Collects the statistics.
    """

    def __init__(self, settings: ProviderSettings | None = None, policy: AnswerPolicy | None = None) -> None:
        self.settings = settings or ProviderSettings()
        self.recorder = Recorder(self.settings.record_limit)
        self._policy = policy or default_policy
        self._serial = itertools.count(1)
        self._started_at = int(time.time())
        self._fault_over = asyncio.Event()
        api = {
            "/v1/chat/completions": ("POST", "chat", self._chat),
            "/v1/embeddings": ("POST", "embeddings", self._embeddings),
            "/v1/models": ("GET", "models", self._models),
        }
        routes = [
            Route(path, _Endpoint(self, name, work), methods=[method], name=name)
            for path, (method, name, work) in api.items()
        ]
        routes += [
            Route("/_sim/stats", self._get_stats, methods=["GET"]),
            Route("/_sim/reset", self._post_reset, methods=["POST"]),
            Route("/_sim/config", self._post_config, methods=["POST"]),
        ]
        self._app = Starlette(routes=routes, exception_handlers={404: _not_found, 405: _not_found})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        await self._app(scope, receive, send)

    def stats(self) -> ProviderStats:
        """Returns a snapshot of the statistics; call it on the server's loop."""
        return self.recorder.snapshot()

    def configure(self, **changes: Any) -> ProviderSettings:
        """Changes settings while running; call it on the server's loop.

        Requests that hang under a ``hang`` fault go on as soon as the fault is another one.

        Raises:
            InvalidInput: If a name or a value is wrong; nothing has changed then.
        """
        self.settings = self.settings.changed(changes)
        if self.settings.fault != "hang":
            self._fault_over.set()
            self._fault_over = asyncio.Event()
        return self.settings

    async def serve(self, scope: Scope, receive: Receive, send: Send, name: str, work: Work) -> None:
        """Serves one API request: counts it, checks the key, applies the fault, then does the work."""
        connection = scope.get("extensions", {}).get(CONNECTION_KEY)
        if connection is not None:
            connection.count()
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        async with Exchange(name, body, receive, send, self.recorder) as exchange:
            try:
                if not self._authorised(request.headers.get("authorization", "")):
                    refusal = wire.error("Incorrect API key provided.", "invalid_request_error", code="invalid_api_key")
                    await exchange.reply(401, refusal)
                    return
                payload = wire.parse_body(body) if request.method == "POST" else {}
                exchange.subject = wire.subject_of(payload)
                if self.settings.fault == "reset" and connection is not None:
                    connection.abort()
                    await exchange.closed()
                elif not await self._answered_by_fault(exchange):
                    await work(exchange, payload)
            except wire.BadRequest as exc:
                await exchange.reply(400, wire.error(exc.message, "invalid_request_error", param=exc.param))

    def _authorised(self, header: str) -> bool:
        given = header.removeprefix("Bearer ").encode()
        keys = self.settings.keys
        return not keys or any(hmac.compare_digest(given, key.encode()) for key in keys)

    async def _answered_by_fault(self, exchange: Exchange) -> bool:
        status = self.settings.fault_status
        if status is not None:
            headers = self._retry_headers() if status in {_THROTTLED, _UNAVAILABLE} else {}
            kind = "server_error" if status >= _SERVER_ERROR else "invalid_request_error"
            await exchange.reply(status, wire.error(f"Simulated fault {status}.", kind), headers=headers)
            return True
        if self.settings.fault in {"garbage", "reset"}:
            await exchange.reply(200, b'{"id": "chatcmpl-')
            return True
        return False

    def _retry_headers(self) -> dict[str, str]:
        seconds = self.settings.retry_after_s
        if seconds is None:
            return {}
        return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": f"{seconds * 1000:g}"}

    async def _with_slot(self, exchange: Exchange, slots: int) -> bool:
        if not exchange.take_slot(slots):
            message = f"Rate limit reached: all {slots} slots are busy. Please try again later."
            refusal = wire.error(message, "requests", code="rate_limit_exceeded")
            await exchange.reply(_THROTTLED, refusal, headers=self._retry_headers())
            return False
        if self.settings.fault == "hang":
            await exchange.wait_for(self._fault_over)
        return True

    async def _chat(self, exchange: Exchange, payload: dict[str, Any]) -> None:
        request = wire.parse_chat(payload)
        if not await self._with_slot(exchange, self.settings.slots):
            return
        started, service_s = time.monotonic(), self.settings.service_s
        try:
            answer = self._policy(request)
        except Exception as exc:  # noqa: BLE001 - a caller's policy may fail in any way; the client must hear of it
            failure = wire.error(f"The answer policy raised {type(exc).__name__}.", "server_error")
            await exchange.reply(_SERVER_ERROR, failure)
            return
        serial = next(self._serial)
        limit = payload.get("max_completion_tokens") or payload.get("max_tokens")
        text, reason = wire.limited(answer.text, limit)
        calls = wire.tool_calls(answer, serial)
        if calls:
            reason = "tool_calls"
        said = text + "".join(call["function"]["arguments"] for call in calls)
        used = wire.usage(wire.prompt_text(request), said)
        head = {"id": f"chatcmpl-{serial:08x}", "created": int(time.time()), "model": request.model}
        if not payload.get("stream"):
            await exchange.wait_until(started + service_s)
            message = {"content": text if text or not calls else None, **({"tool_calls": calls} if calls else {})}
            await exchange.reply(200, wire.completion(head, message, reason, used), usage=used)
            return
        options = payload.get("stream_options")
        with_usage = bool(isinstance(options, dict) and options.get("include_usage"))
        await exchange.begin(200, "text/event-stream; charset=utf-8", {"cache-control": "no-cache"}, used)
        await exchange.part(wire.chunk(head, {"role": "assistant", "content": ""}, None, with_usage=with_usage))
        deltas = wire.deltas(text, calls) or [{"content": ""}]
        for number, delta in enumerate(deltas, start=1):
            await exchange.wait_until(started + service_s * number / len(deltas))
            await exchange.part(wire.chunk(head, delta, None, with_usage=with_usage))
        exchange.give_slot()
        last = wire.chunk(head, {}, reason, with_usage=with_usage)
        if with_usage:
            last += wire.event({**head, "object": "chat.completion.chunk", "choices": [], "usage": used})
        await exchange.finish(last + b"data: [DONE]\n\n")

    async def _embeddings(self, exchange: Exchange, payload: dict[str, Any]) -> None:
        inputs = wire.parse_inputs(payload)
        dimensions = payload.get("dimensions", self.settings.dimensions)
        if not isinstance(dimensions, int) or not 1 <= dimensions <= _MOST_DIMENSIONS:
            msg = f"dimensions must be a whole number from 1 to {_MOST_DIMENSIONS}."
            raise wire.BadRequest(msg, "dimensions")
        if not await self._with_slot(exchange, self.settings.embedding_slots):
            return
        started = time.monotonic()
        vectors = [embed(text, dimensions) for text in inputs]
        tokens = sum(wire.tokens_of(text) for text in inputs)
        await exchange.wait_until(started + self.settings.embedding_service_s)
        encoding = str(payload.get("encoding_format", "float"))
        answer = wire.embeddings(str(payload.get("model", "")), vectors, encoding, tokens)
        await exchange.reply(200, answer, usage=answer["usage"])

    async def _models(self, exchange: Exchange, _payload: dict[str, Any]) -> None:
        data = [
            {"id": name, "object": "model", "created": self._started_at, "owned_by": "sluice"}
            for name in self.settings.models
        ]
        await exchange.reply(200, {"object": "list", "data": data})

    async def _get_stats(self, _request: Request) -> Response:
        return JSONResponse(self.stats().to_json())

    async def _post_reset(self, _request: Request) -> Response:
        self.recorder.reset()
        return JSONResponse(self.settings.public())

    async def _post_config(self, request: Request) -> Response:
        try:
            self.configure(**wire.parse_body(await request.body()))
        except InvalidInput as exc:
            return JSONResponse(wire.error(str(exc), "invalid_request_error"), status_code=400)
        except wire.BadRequest as exc:
            return JSONResponse(wire.error(exc.message, "invalid_request_error"), status_code=400)
        return JSONResponse(self.settings.public())


class _Endpoint:
    """One API route; an object, so that Starlette hands it the raw ASGI exchange."""

    def __init__(self, provider: Provider, name: str, work: Work) -> None:
        self._provider = provider
        self._name = name
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._provider.serve(scope, receive, send, self._name, self._work)


async def _not_found(request: Request, exc: Exception) -> Response:
    status = getattr(exc, "status_code", 404)
    message = f"Unknown request URL: {request.method} {request.url.path}."
    return JSONResponse(wire.error(message, "invalid_request_error", code="unknown_url"), status_code=status)
