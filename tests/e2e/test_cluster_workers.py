"""Two workers of one server under one budget, through the Redis that Langflow itself uses."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from langflow_sluice.canvas.bundled import bundled_flows
from langflow_sluice.cluster.redis_settings import RedisSettings
from langflow_sluice.embedded.langflow import AsyncLangflowClient, LangflowServer
from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.embedded.redis import MISSING, EmbeddedRedis, program
from langflow_sluice.metrics.shared_figures import SharedFigures
from langflow_sluice.simulator import ProviderProcess, ProviderSettings
from langflow_sluice.top.rates import look

from .callers import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WORKERS, CAP, CALLS = 2, 4, 24
A_MINUTE = 120
BURST = A_MINUTE / 60
KEY = "sk-canary-one-budget"


class Deployment:
    """A provider, Langflow's PostgreSQL and Redis, and a server of two workers, with the simplest guarded flow."""

    def __init__(self, opened: ExitStack) -> None:
        self.provider = opened.enter_context(ProviderProcess(ProviderSettings(keys=(KEY,), slots=100, service_s=0.05)))
        self.redis = opened.enter_context(EmbeddedRedis(password="canary-of-redis"))
        # Workers that start on an empty SQLite file at once fail in each other's migrations.
        postgres = opened.enter_context(EmbeddedPostgres())
        env = {
            "LANGFLOW_DATABASE_URL": postgres.create_database(vector=False),
            "LANGFLOW_JOB_QUEUE_TYPE": "redis",
            "LANGFLOW_REDIS_QUEUE_URL": self.redis.url,
        }
        self.langflow = opened.enter_context(LangflowServer(env=env, workers=WORKERS))
        # As another machine would: from Redis alone, since its own folder is empty.
        elsewhere = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        self.state = SharedFigures(elsewhere, RedisSettings(self.redis.url))
        with self.langflow.client() as client:
            client.set_variable("OPENAI_API_KEY", KEY)
            (chat,) = [flow for flow in bundled_flows() if flow.slug == "chat_rate_limited"]
            self.flow_id = client.upload_flow(chat.load())
        asyncio.run(self._wake_all())

    async def _wake_all(self) -> None:
        """Calls until each worker has answered: the server is healthy as soon as the first one is."""
        async with asyncio.timeout(120), self.langflow.async_client() as client:
            while len(self.state.read()) < WORKERS:
                await asyncio.gather(*self.ask(client, "all workers"))
                await asyncio.sleep(1.5)  # a worker tells once a second

    def ask(self, client: AsyncLangflowClient, guard: str, **limits: Any) -> Sequence[asyncio.Future[Any]]:
        """Calls the flow so often at once, with a guard of that name."""
        values = {"base_url": self.provider.base_url, "guard_name": guard, "queue_timeout": 300, **limits}
        tweaks = {"RateLimitedLLMComponent-llm": values}
        runs = (client.run(self.flow_id, f"{guard} {number}", tweaks=tweaks) for number in range(CALLS))
        return [asyncio.ensure_future(run) for run in runs]

    def in_flight(self) -> int:
        return self.provider.stats().in_flight.get("chat", 0)

    def told_of(self, guard: str) -> dict[str, int]:
        """What the workers tell of a guard, added up."""
        lines = [line for line in look(self.state.read()).guards if line.name == guard]
        return {name: getattr(line, name) for line in lines for name in ("limit", "in_flight", "waiting", "workers")}

    def guards_heard_of(self) -> int:
        with self.redis.client() as client:
            return len({key.split(b"}")[0] for key in client.scan_iter("sluice:{*")})


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    if program() is None:
        pytest.skip(MISSING)
    with ExitStack() as opened:
        yield Deployment(opened)


def most_within(times: Sequence[float], seconds: float) -> int:
    """The most events within any stretch of that length."""
    ordered = sorted(times)
    return max(sum(1 for each in ordered[at:] if each <= start + seconds) for at, start in enumerate(ordered))


@pytest.mark.slow
async def test_the_provider_never_has_more_calls_than_the_cap_and_without_the_cluster_twice_as_many(
    deployment: Deployment,
) -> None:
    provider = deployment.provider
    seen = {}
    async with deployment.langflow.async_client() as client:
        for scope, expected in (("cluster", CAP), ("process", WORKERS * CAP)):
            provider.reset()
            provider.configure(fault="hang")
            asked = deployment.ask(client, f"capped {scope}", scope=scope, max_concurrency=CAP)
            await until(lambda expected=expected: deployment.in_flight() >= expected)
            told = {"limit": expected, "in_flight": expected, "waiting": CALLS - expected, "workers": WORKERS}
            await until(lambda scope=scope, told=told: deployment.told_of(f"capped {scope}") == told)
            provider.configure(fault="ok")
            await asyncio.gather(*asked)
            stats = provider.stats()
            assert stats.answered == {200: CALLS}
            seen[scope] = stats.max_in_flight["chat"]
    assert seen == {"cluster": CAP, "process": WORKERS * CAP}
    assert deployment.guards_heard_of() == 1


@pytest.mark.slow
async def test_the_provider_never_has_more_calls_a_minute_than_allowed_and_without_the_cluster_it_has(
    deployment: Deployment,
) -> None:
    provider = deployment.provider
    provider.configure(fault="ok")
    within = 5.0
    seen = {}
    async with deployment.langflow.async_client() as client:
        for scope in ("cluster", "process"):
            provider.reset()
            limits = {"scope": scope, "max_concurrency": 0, "requests_per_minute": A_MINUTE}
            await asyncio.gather(*deployment.ask(client, f"metered {scope}", **limits))
            stats = provider.stats()
            assert stats.answered == {200: CALLS}
            seen[scope] = most_within([call.arrived_at for call in stats.calls], within)
    allowed = within * A_MINUTE / 60 + BURST
    print(f"\nmost calls within {within:g} s: {seen}, allowed {allowed:g}")  # noqa: T201 - a figure to report
    # A call may take a moment longer on its way than the next one.
    assert seen["cluster"] <= allowed + 1 < seen["process"]
