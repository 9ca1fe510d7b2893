"""One HTTP exchange of the simulated provider, from the complete body to the last byte or the client's leaving."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from langflow_sluice.simulator.stats import Call, Recorder, fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from starlette.types import Receive, Send
    from typing_extensions import Self

    from langflow_sluice.simulator.server import Connection


class ClientLeft(Exception):
    """The client closed its connection before the answer was complete."""


class Exchange:
    """Answers one request and keeps its record; use it as an async context manager.

    A background task listens for the client's leaving, so that a slot is not held for a caller who is gone.

    Args:
        endpoint: Name in the statistics.
        body: The request's body.
        receive: ASGI receive, after the body.
        send: ASGI send.
        recorder: Where the request is counted.
        connection: The connection under it, or ``None`` where another server runs the application.
    """

    def __init__(
        self,
        endpoint: str,
        body: bytes,
        receive: Receive,
        send: Send,
        recorder: Recorder,
        connection: Connection | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._body = fingerprint(body)
        self._receive = receive
        self._send = send
        self._recorder = recorder
        self._connection = connection
        self._generation = recorder.generation
        self._arrived_at = time.time()
        self._started = time.monotonic()
        self._status = 0
        self._left = False
        self._holds_slot = False
        self.subject = ""
        recorder.begin(endpoint)

    async def __aenter__(self) -> Self:
        self._gone = asyncio.create_task(self._wait_for_disconnect())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.give_slot()
        self._gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._gone
        self._record_end()
        return isinstance(error, ClientLeft)

    def _record_end(self) -> None:
        if self._generation is not self._recorder.generation:
            return
        duration_s = time.monotonic() - self._started
        call = Call(
            self._endpoint,
            self._arrived_at,
            duration_s,
            self._status,
            self._body,
            fingerprint(self.subject),
            self._left,
        )
        self._recorder.end(call)

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def take_slot(self, slots: int) -> bool:
        """Takes one of the endpoint's slots, or returns ``False``; the end of the exchange gives it back."""
        self._holds_slot = self._recorder.take_slot(self._endpoint, slots)
        return self._holds_slot

    def give_slot(self) -> None:
        """Gives the slot back, once.

        Called before the last bytes leave: a client that starts its next call on seeing them must find the slot free.
        """
        if self._holds_slot:
            self._holds_slot = False
            self._recorder.give_slot(self._endpoint)

    async def wait_until(self, deadline: float) -> None:
        """Waits until ``time.monotonic()`` reaches a deadline.

        Raises:
            ClientLeft: As soon as the client is gone.
        """
        await asyncio.wait({self._gone}, timeout=max(0.0, deadline - time.monotonic()))
        self._check_client()

    async def wait_for(self, event: asyncio.Event) -> None:
        """Waits for an event.

        Raises:
            ClientLeft: As soon as the client is gone.
        """
        waiter = asyncio.create_task(event.wait())
        try:
            await asyncio.wait({waiter, self._gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        self._check_client()

    async def reset(self) -> bool:
        """Resets the connection and waits until it is gone; that is no leaving of the client.

        Returns:
            ``False`` where there is no connection to reset.
        """
        if self._connection is None:
            return False
        self.give_slot()
        self._connection.abort()
        await asyncio.wait({self._gone})
        return True

    def _check_client(self) -> None:
        if self._gone.done():
            self._left = True
            raise ClientLeft

    async def begin(self, status: int, content_type: str, headers: Mapping[str, str], usage: Mapping[str, int]) -> None:
        """Sends the status line and the headers."""
        self._status = status
        if self._generation is self._recorder.generation:
            self._recorder.answer(status, usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
        raw = [(b"content-type", content_type.encode())]
        raw += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def part(self, data: bytes) -> None:
        """Sends a part of a streamed body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, data: bytes = b"") -> None:
        """Gives the slot back and sends the last bytes."""
        self.give_slot()
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def reply(
        self,
        status: int,
        payload: Any,
        *,
        headers: Mapping[str, str] | None = None,
        usage: Mapping[str, int] | None = None,
    ) -> None:
        """Answers with a whole body: JSON, or the bytes given."""
        self.give_slot()
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        length = {"content-length": str(len(data))}
        await self.begin(status, "application/json", {**length, **(headers or {})}, usage or {})
        await self.finish(data)
