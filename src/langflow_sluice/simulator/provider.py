"""The simulated provider as an ASGI application."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import time
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from langflow_sluice.errors import InvalidInput
from langflow_sluice.simulator import wire
from langflow_sluice.simulator.answers import default_policy
from langflow_sluice.simulator.anthropic import ANTHROPIC
from langflow_sluice.simulator.embedding import embed
from langflow_sluice.simulator.exchange import Exchange
from langflow_sluice.simulator.ollama import OLLAMA
from langflow_sluice.simulator.openai import OPENAI, embeddings, parse_inputs
from langflow_sluice.simulator.settings import ProviderSettings
from langflow_sluice.simulator.stats import Recorder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from langflow_sluice.simulator.answers import AnswerPolicy
    from langflow_sluice.simulator.stats import ProviderStats
    from langflow_sluice.simulator.wire import WireFormat

    Work = Callable[[Exchange, dict[str, Any], WireFormat], Awaitable[None]]

_MOST_DIMENSIONS = 4096
_THROTTLED, _UNAVAILABLE, _OVERLOADED = 429, 503, 529
CONNECTION_KEY = "sluice.connection"


class Provider:
    """OpenAI's, Anthropic's and Ollama's chats over one real capacity, and OpenAI's embeddings and models.

    An ASGI application.

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
            "/v1/chat/completions": ("POST", "chat", self._chat, OPENAI),
            "/v1/messages": ("POST", "chat", self._chat, ANTHROPIC),
            "/api/chat": ("POST", "chat", self._chat, OLLAMA),
            "/v1/embeddings": ("POST", "embeddings", self._embeddings, OPENAI),
            "/v1/models": ("GET", "models", self._models, OPENAI),
        }
        routes = [
            Route(path, _Endpoint(self, name, work, wire_format), methods=[method], name=name)
            for path, (method, name, work, wire_format) in api.items()
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

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, name: str, work: Work, wire_format: WireFormat
    ) -> None:
        """Serves one API request: counts it, checks the key, applies the fault, then does the work."""
        connection = scope.get("extensions", {}).get(CONNECTION_KEY)
        if connection is not None:
            connection.count()
        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        async with Exchange(name, body, receive, send, self.recorder, connection) as exchange:
            try:
                if not self._authorised(request.headers.get(wire_format.key_header, "")):
                    await exchange.reply(401, wire_format.error(401, "Incorrect API key provided."))
                    return
                payload = wire.parse_body(body) if request.method == "POST" else {}
                exchange.subject = wire_format.subject_of(payload)
                if not await self._answered_by_fault(exchange, wire_format):
                    await work(exchange, payload, wire_format)
            except wire.BadRequest as exc:
                await exchange.reply(400, wire_format.error(400, exc.message, param=exc.param))

    def _authorised(self, header: str) -> bool:
        given = header.removeprefix("Bearer ").encode()
        keys = self.settings.keys
        return not keys or any(hmac.compare_digest(given, key.encode()) for key in keys)

    async def _answered_by_fault(self, exchange: Exchange, wire_format: WireFormat) -> bool:
        status = self.settings.fault_status
        if status is not None:
            await self._refuse(exchange, wire_format, status, f"Simulated fault {status}.")
            return True
        fault = self.settings.fault
        if fault == "garbage" or (fault == "reset" and not await exchange.reset()):
            await exchange.reply(200, b'{"id": "chatcmpl-')
        return fault in {"garbage", "reset"}

    async def _refuse(self, exchange: Exchange, wire_format: WireFormat, status: int, message: str) -> None:
        seconds = self.settings.retry_after_s if status in {_THROTTLED, _UNAVAILABLE} else None
        headers = {} if seconds is None else wire_format.retry_headers(seconds)
        await exchange.reply(status, wire_format.error(status, message), headers=headers)

    async def _with_slot(self, exchange: Exchange, slots: int, wire_format: WireFormat) -> bool:
        if not exchange.take_slot(slots):
            message = f"Rate limit reached: all {slots} slots are busy. Please try again later."
            await self._refuse(exchange, wire_format, _THROTTLED, message)
            return False
        if self.settings.fault == "hang":
            await exchange.wait_for(self._fault_over)
        return True

    async def _chat(self, exchange: Exchange, payload: dict[str, Any], wire_format: WireFormat) -> None:
        request = wire_format.parse_chat(payload)
        if not await self._with_slot(exchange, self.settings.slots, wire_format):
            return
        started = time.monotonic()
        try:
            answer = self._policy(request)
        except Exception as exc:  # noqa: BLE001 - a caller's policy may fail in any way; the client must hear of it
            failure = wire_format.error(wire.SERVER_ERROR, f"The answer policy raised {type(exc).__name__}.")
            await exchange.reply(wire.SERVER_ERROR, failure)
            return
        reply = wire.Reply.of(request, answer, next(self._serial), self.settings.service_s)
        if not request.stream:
            await exchange.wait_until(started + reply.service_s)
            await exchange.reply(200, wire_format.whole(reply), usage=reply.usage)
            return
        stream = wire_format.stream(reply, payload)
        await exchange.begin(200, wire_format.stream_type, {"cache-control": "no-cache"}, reply.usage)
        await exchange.part(stream.opening)
        for number, part in enumerate(stream.parts, start=1):
            await exchange.wait_until(started + reply.service_s * number / len(stream.parts))
            await exchange.part(part)
            if await self._broken_by_fault(exchange, wire_format):
                return
        await exchange.wait_until(started + reply.service_s)
        await exchange.finish(stream.closing)

    async def _broken_by_fault(self, exchange: Exchange, wire_format: WireFormat) -> bool:
        fault = self.settings.fault
        if fault == "stream_error":
            failure = wire_format.error(_OVERLOADED, f"Simulated fault {fault}.")
            await exchange.finish(wire_format.frame(failure))
        elif fault == "stream_reset" and not await exchange.reset():
            await exchange.finish()
        return fault in {"stream_error", "stream_reset"}

    async def _embeddings(self, exchange: Exchange, payload: dict[str, Any], wire_format: WireFormat) -> None:
        inputs = parse_inputs(payload)
        dimensions = payload.get("dimensions", self.settings.dimensions)
        if not isinstance(dimensions, int) or not 1 <= dimensions <= _MOST_DIMENSIONS:
            msg = f"dimensions must be a whole number from 1 to {_MOST_DIMENSIONS}."
            raise wire.BadRequest(msg, "dimensions")
        if not await self._with_slot(exchange, self.settings.embedding_slots, wire_format):
            return
        started = time.monotonic()
        vectors = [embed(text, dimensions) for text in inputs]
        tokens = sum(wire.tokens_of(text) for text in inputs)
        await exchange.wait_until(started + self.settings.embedding_service_s)
        encoding = str(payload.get("encoding_format", "float"))
        answer = embeddings(str(payload.get("model", "")), vectors, encoding, tokens)
        await exchange.reply(200, answer, usage=answer["usage"])

    async def _models(self, exchange: Exchange, _payload: dict[str, Any], _wire_format: WireFormat) -> None:
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
            return JSONResponse(OPENAI.error(400, str(exc)), status_code=400)
        except wire.BadRequest as exc:
            return JSONResponse(OPENAI.error(400, exc.message), status_code=400)
        return JSONResponse(self.settings.public())


class _Endpoint:
    """One API route; an object, so that Starlette hands it the raw ASGI exchange."""

    def __init__(self, provider: Provider, name: str, work: Work, wire_format: WireFormat) -> None:
        self._provider = provider
        self._name = name
        self._work = work
        self._format = wire_format

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._provider.serve(scope, receive, send, self._name, self._work, self._format)


async def _not_found(request: Request, exc: Exception) -> Response:
    message = f"Unknown request URL: {request.method} {request.url.path}."
    return JSONResponse(OPENAI.error(404, message), status_code=getattr(exc, "status_code", 404))
