"""The adaptive limit in front of a provider over HTTP whose capacity changes."""

import asyncio

import pytest

from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.guard.retry import CallPolicy
from langflow_sluice.models.openai_compatible import Upstream, chat_model
from langflow_sluice.simulator import ProviderProcess, ProviderSettings

SERVICE_S = 0.2
PHASES = ((8, 60.0), (3, 60.0), (16, 60.0))
CLIENTS = 64


@pytest.mark.slow
@pytest.mark.parametrize("retry_after_s", [1.0, None])
async def test_it_follows_the_capacity_of_a_provider_and_keeps_every_call(retry_after_s, monkeypatch):
    monkeypatch.setenv("LANGFLOW_SSRF_ALLOWED_HOSTS", "127.0.0.1,localhost")
    settings = ProviderSettings(slots=8, service_s=SERVICE_S, retry_after_s=retry_after_s)
    with ProviderProcess(settings) as provider:
        upstream = Upstream(provider.base_url, "sk-slow")
        guard = Guard("slow", GuardSettings(max_concurrency=64, queue_timeout_s=0, adaptive=True))
        policy = CallPolicy(max_retries=1000, total_timeout_s=0)
        model = chat_model(upstream, guard, policy, model_name="sim-chat")
        stopped = False
        kept = 0

        async def client(number):
            nonlocal kept
            while not stopped:
                await model.ainvoke(f"client {number}")
                kept += 1

        clients = [asyncio.ensure_future(client(number)) for number in range(CLIENTS)]
        figures = []
        for slots, seconds in PHASES:
            await asyncio.to_thread(provider.configure, slots=slots)
            await asyncio.to_thread(provider.reset)
            await asyncio.sleep(seconds)
            answered = (await asyncio.to_thread(provider.stats)).answered
            served, refused = answered.get(200, 0), answered.get(429, 0)
            figures.append((slots, served * SERVICE_S / slots / seconds, refused / (served + refused)))
        stopped = True
        await asyncio.gather(*clients)
    print(f"\nRetry-After {retry_after_s}: slots, share of the ideal, share refused: {figures}")  # noqa: T201
    assert kept > 0
    assert all(refused <= 0.1 for _, _, refused in figures)
    assert all(share >= 0.8 for _, share, _ in figures)
