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
from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.metrics.state_folder import StateFolder
from langflow_sluice.simulator import ProviderProcess, ProviderSettings
from langflow_sluice.top.rates import look

from .callers import until
from .conftest import Palette
from .test_pressure_gauge import gauge_flow

if TYPE_CHECKING:
    from langflow_sluice.embedded.langflow import AsyncLangflowClient
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


async def database_adds_up(
    client: AsyncLangflowClient,
    postgres: EmbeddedPostgres,
    flows: tuple[str, str],
    base_url: str,
    folder: StateFolder,
    port: int,
) -> None:
    """Questions to documents, by both workers; what their pools tell is what the database sees."""
    models = {
        f"{kind}-{name}": {"base_url": base_url}
        for kind, name in (("RateLimitedLLMComponent", "llm"), ("RateLimitedEmbeddingsComponent", "embed"))
    }
    ingest, rag = flows
    await client.run(ingest, "In shed 7 they keep rope.", tweaks=models)

    def pooled() -> tuple[int, int]:
        (pool,) = look(folder.read()).pools or (None,)
        return (0, 0) if pool is None else (pool.workers, pool.checked_out + pool.idle)

    while pooled()[0] < WORKERS:
        await asyncio.gather(*(client.run(rag, f"What is kept in shed {n}?", tweaks=models) for n in range(8)))
        await asyncio.sleep(1.5)  # a worker tells once a second
    seen = postgres.connections(database="documents")
    assert seen >= WORKERS
    await until(lambda: pooled() == (WORKERS, seen))
    assert metric(port, "sluice_pool_checked_out") + metric(port, "sluice_pool_idle") == seen


@pytest.mark.slow
async def test_what_two_workers_tell_adds_up_to_what_the_provider_saw() -> None:
    port = free_port()
    env = {
        "LANGFLOW_DATABASE_URL": "",  # below
        "LANGFLOW_DANGEROUSLY_ALLOW_MULTI_WORKER_WITHOUT_SHARED_QUEUE": "true",
        "SLUICE_METRICS_ADDRESS": f"127.0.0.1:{port}",
    }
    with ExitStack() as opened:
        provider = opened.enter_context(ProviderProcess(ProviderSettings(keys=(KEY,), slots=100, service_s=0.05)))
        postgres = opened.enter_context(EmbeddedPostgres())
        # Workers that start on an empty SQLite file at once fail in each other's migrations.
        env["LANGFLOW_DATABASE_URL"] = postgres.create_database("langflow", vector=False)
        documents = postgres.create_database("documents")
        langflow = opened.enter_context(LangflowServer(env=env, workers=WORKERS))
        with langflow.client() as client:
            client.set_variable("OPENAI_API_KEY", KEY)
            client.set_variable("SLUICE_DATABASE_URL", documents)
            flows = {flow.slug: flow for flow in bundled_flows()}
            flow_id = client.upload_flow(flows["chat_rate_limited"].load())
            ingest_id = client.upload_flow(flows["ingest_documents"].load())
            rag_id = client.upload_flow(flows["rag_pooled_postgres"].load())
            gauge_id = client.upload_flow(gauge_flow(Palette(client)).to_dict())
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
            said = (await client.run(gauge_id, "How are we?")).text
            assert f"{CALLS - WORKERS * CAP} waiting, limit {WORKERS * CAP} busy" in said
            assert f"in each of {WORKERS} workers" in said
            provider.configure(fault="ok")
            answers = await asyncio.gather(*asked)
            await until(lambda: metric(port, "sluice_guard_admitted_total") == CALLS)
            assert provider.stats().answered == {200: CALLS}
            await database_adds_up(client, postgres, (ingest_id, rag_id), provider.base_url, folder, port)
        assert len(answers) == CALLS
        assert metric(port, "sluice_guard_service_seconds_count") >= CALLS
        assert metric(port, "sluice_event_loop_lag_seconds") > 0
