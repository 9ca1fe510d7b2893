"""Two workers of one server: what they tell adds up to what the provider saw, whichever of them is asked."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from langflow_sluice.canvas.bundled import bundled_flows
from langflow_sluice.embedded.langflow import LangflowServer
from langflow_sluice.metrics.state_folder import StateFolder
from langflow_sluice.simulator import ProviderProcess, ProviderSettings
from langflow_sluice.top.rates import look

from .callers import until

if TYPE_CHECKING:
    from langflow_sluice.top.rates import GuardLine

WORKERS, CAP, CALLS = 2, 3, 24
KEY = "sk-canary-two-workers"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def metric(port: int, name: str) -> float:
    """The sum of a metric over all workers."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30).text
    assert KEY not in text
    families = text_string_to_metric_families(text)
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


@pytest.mark.slow
async def test_what_two_workers_tell_adds_up_to_what_the_provider_saw() -> None:
    port = free_port()
    env = {
        "LANGFLOW_DANGEROUSLY_ALLOW_MULTI_WORKER_WITHOUT_SHARED_QUEUE": "true",
        "SLUICE_METRICS_ADDRESS": f"127.0.0.1:{port}",
    }
    with ExitStack() as opened:
        provider = opened.enter_context(ProviderProcess(ProviderSettings(keys=(KEY,), slots=100, service_s=0.05)))
        langflow = opened.enter_context(LangflowServer(env=env, workers=WORKERS))
        with langflow.client() as client:
            client.set_variable("OPENAI_API_KEY", KEY)
            (chat,) = [flow for flow in bundled_flows() if flow.slug == "chat_rate_limited"]
            flow_id = client.upload_flow(chat.load())
        tweaks = {"RateLimitedLLMComponent-llm": {"base_url": provider.base_url, "max_concurrency": CAP}}
        folder = StateFolder(langflow.folder / "state")

        def guard() -> GuardLine | None:
            guards = look(folder.read()).guards
            return guards[0] if guards else None

        provider.configure(fault="hang")
        async with langflow.async_client() as client:
            asked = [
                asyncio.ensure_future(client.run(flow_id, f"call {number}", tweaks=tweaks)) for number in range(CALLS)
            ]
            # With process scope each worker has the cap for itself.
            await until(lambda: provider.stats().in_flight == {"chat": WORKERS * CAP})
            await until(lambda: (seen := guard()) is not None and seen.waiting == CALLS - WORKERS * CAP)
            seen = guard()
            assert seen is not None
            assert (seen.workers, seen.in_flight, seen.limit) == (WORKERS, WORKERS * CAP, WORKERS * CAP)
            assert metric(port, "sluice_guard_in_flight") == WORKERS * CAP
            assert metric(port, "sluice_guard_waiting") == CALLS - WORKERS * CAP
            provider.configure(fault="ok")
            answers = await asyncio.gather(*asked)
        assert len(answers) == CALLS
        await until(lambda: metric(port, "sluice_guard_admitted_total") == CALLS)
        assert provider.stats().answered == {200: CALLS}
        assert metric(port, "sluice_guard_service_seconds_count") == CALLS
        assert metric(port, "sluice_event_loop_lag_seconds") > 0
