from __future__ import annotations

import asyncio
from typing import Any

import pytest

from langflow_sluice.simulator.exchange import Exchange
from langflow_sluice.simulator.stats import Recorder


class Network:
    """The ASGI server and the connection under it; notes which slots are held when the client may see the end."""

    def __init__(self) -> None:
        self.recorder = Recorder(record_limit=1)
        self.held_at_end: list[Any] = []
        self._gone = asyncio.Event()

    async def receive(self) -> Any:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message.get("more_body") is False:
            self.held_at_end.append(self.recorder.snapshot().in_flight)

    def abort(self) -> None:
        self.held_at_end.append(self.recorder.snapshot().in_flight)
        self._gone.set()

    def exchange(self, *, resettable: bool = True) -> Exchange:
        connection: Any = self if resettable else None
        return Exchange("chat", b"{}", self.receive, self.send, self.recorder, connection)


@pytest.mark.parametrize("end", [Exchange.reset, Exchange.finish, lambda exchange: exchange.reply(200, {})])
async def test_the_slot_is_free_before_the_client_can_see_the_end(end: Any) -> None:
    network = Network()
    async with network.exchange() as exchange:
        assert exchange.take_slot(1)
        await end(exchange)
    assert network.held_at_end == [{}]
    assert network.recorder.snapshot().disconnects == 0


async def test_without_a_connection_there_is_nothing_to_reset() -> None:
    network = Network()
    async with network.exchange(resettable=False) as exchange:
        assert exchange.take_slot(1)
        assert not await exchange.reset()
        assert network.recorder.snapshot().in_flight == {"chat": 1}
