"""What Rate-Limited LLM's model adds to a call, beside a bare ChatOpenAI on one shared client.

Run it: ``uv run python tests/benchmarks/models.py``. Figures and ratios are printed; nothing is asserted. Both sides
call a simulated provider in a process of its own that answers at once, in rounds that alternate.
"""

from __future__ import annotations

import asyncio
import gc
import operator
import os
import statistics
import time
import warnings
from dataclasses import dataclass, field

import httpx
from pydantic import SecretStr

from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.guard.retry import CallPolicy
from langflow_sluice.http_clients import HttpTimeouts
from langflow_sluice.models.openai_compatible import Upstream, chat_model
from langflow_sluice.simulator import ProviderProcess, ProviderSettings

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langchain_openai import ChatOpenAI

ROUNDS = 12
CALLS_ONE_BY_ONE = 30
CALLS_AT_ONCE = 200
IN_FLIGHT = 50
KEY = "benchmark"
PROMPT = "Who keeps the lighthouse in winter, and who in summer?"


def bare(base_url: str) -> ChatOpenAI:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return ChatOpenAI(
        model="sim-chat",
        api_key=SecretStr(KEY),
        base_url=base_url,
        max_retries=0,
        stream_usage=True,
        http_async_client=httpx.AsyncClient(limits=limits, timeout=HttpTimeouts().as_httpx()),
    )


def guarded(base_url: str, **limits) -> ChatOpenAI:
    guard = Guard("benchmark", GuardSettings(max_concurrency=IN_FLIGHT, **limits))
    return chat_model(Upstream(base_url, KEY), guard, CallPolicy(), model_name="sim-chat")


async def answer(model: ChatOpenAI) -> None:
    await model.ainvoke(PROMPT)


async def stream(model: ChatOpenAI) -> None:
    async for _ in model.astream(PROMPT):
        pass


@dataclass
class Figures:
    """Of one side, over all rounds."""

    durations_ms: list[float] = field(default_factory=list)
    medians_ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


async def run(call, model: ChatOpenAI, calls: int, in_flight: int, figures: Figures) -> None:
    """One round of calls by so many callers, each of whom begins the next call when one has ended."""
    durations = []

    async def caller() -> None:
        for _ in range(calls // in_flight):
            started = time.perf_counter()
            await call(model)
            durations.append((time.perf_counter() - started) * 1e3)

    gc.collect()
    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    figures.cpu_us.append((time.process_time() - cpu) / len(durations) * 1e6)
    figures.rates.append(len(durations) / (time.perf_counter() - started))
    figures.medians_ms.append(statistics.median(durations))
    figures.durations_ms += durations


async def compare(title: str, call, models: dict[str, ChatOpenAI], calls: int, in_flight: int) -> None:
    for model in models.values():
        await run(call, model, in_flight, in_flight, Figures())
    found = {name: Figures() for name in models}
    for number in range(ROUNDS):
        # Each goes first as often as last.
        for name in list(models)[:: 1 if number % 2 else -1]:
            await run(call, models[name], calls, in_flight, found[name])
    bare, *_ = found.values()
    print(f"{title:<44}{'p50 ms':>8}{'p95 ms':>8}{'added':>8}{'CPU us':>8}{'added':>8}{'calls/s':>9}{'x bare':>8}")
    for name, each in found.items():
        p50, p95 = (statistics.quantiles(each.durations_ms, n=20)[at] for at in (9, 18))
        rate = statistics.median(each.rates)
        # Round by round: what else the machine does weighs on both sides of a round alike.
        added_ms = statistics.median(map(operator.sub, each.medians_ms, bare.medians_ms))
        cpu_us = statistics.median(each.cpu_us)
        added_us = statistics.median(map(operator.sub, each.cpu_us, bare.cpu_us))
        ratio = statistics.median(map(operator.truediv, each.rates, bare.rates))
        times = f"{p50:>8.2f}{p95:>8.2f}{added_ms:>8.2f}{cpu_us:>8.0f}{added_us:>8.0f}"
        print(f"{name:<44}{times}{rate:>9.0f}{ratio:>8.2f}")
    print()


async def main() -> None:
    with ProviderProcess(ProviderSettings(slots=10 * IN_FLIGHT, service_s=0.0)) as provider:
        os.environ["LANGFLOW_SSRF_ALLOWED_HOSTS"] = "127.0.0.1"
        models = {
            "bare ChatOpenAI, shared client": bare(provider.base_url),
            "Rate-Limited LLM": guarded(provider.base_url),
            "Rate-Limited LLM, rates, tokens, adaptive": guarded(
                provider.base_url, requests_per_minute=6e7, tokens_per_minute=6e9, adaptive=True
            ),
        }
        for call, what in ((answer, "answers"), (stream, "streams")):
            await compare(f"{what}, one after the other", call, models, CALLS_ONE_BY_ONE, 1)
            await compare(f"{what}, {IN_FLIGHT} in flight", call, models, CALLS_AT_ONCE, IN_FLIGHT)
        stats = provider.stats()
        print(f"{sum(stats.requests.values())} requests, answered {stats.answered}")


if __name__ == "__main__":
    asyncio.run(main())
