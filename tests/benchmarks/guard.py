"""What a slot of the guard costs, beside the limiters that people would use instead.

Run it: ``uv run python tests/benchmarks/guard.py``. Figures and ratios are printed; nothing is asserted.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import tempfile
import threading
import time
import tracemalloc

import anyio
from aiolimiter import AsyncLimiter
from langchain_core.rate_limiters import InMemoryRateLimiter
from pyrate_limiter import Duration, InMemoryBucket, Limiter, Rate

from langflow_sluice.guard import Guard, GuardSettings
from langflow_sluice.guard.registry import guard_registry
from langflow_sluice.guard.waiter import Outcome
from langflow_sluice.metrics.publisher import EVERY_S, Publisher
from langflow_sluice.metrics.state_folder import FOLDER_VARIABLE

CALLS = 20_000
ROUNDS = 5
PLENTY = 10**9
CAP = 8


async def measure(work) -> float:
    """Microseconds for one call, the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(CALLS):
            await work()
        best = min(best, time.perf_counter() - started)
    return best / CALLS * 1e6


def guard_with_everything() -> Guard:
    return Guard(
        "benchmark",
        GuardSettings(
            max_concurrency=CAP,
            requests_per_minute=60.0 * PLENTY,
            tokens_per_minute=60.0 * PLENTY,
            max_queue=100_000,
            queue_timeout_s=600,
            adaptive=True,
        ),
    )


async def uncontended() -> None:
    guard = guard_with_everything()
    semaphore, limiter = asyncio.Semaphore(CAP), AsyncLimiter(PLENTY, 1)
    langchain = InMemoryRateLimiter(requests_per_second=PLENTY, max_bucket_size=PLENTY)
    capacity = anyio.CapacityLimiter(CAP)
    pyrate = Limiter(InMemoryBucket([Rate(PLENTY, Duration.SECOND)]))

    async def slot() -> None:
        async with guard.slot(tokens=100) as entered:
            entered.report(Outcome.OK)

    async def plain_slot() -> None:
        async with guard.slot(tokens=100):
            pass

    async def pair() -> None:
        async with semaphore, limiter:
            pass

    async def of_langchain() -> None:
        await langchain.aacquire()

    async def of_anyio() -> None:
        async with capacity:
            pass

    async def of_pyrate() -> None:
        pyrate.try_acquire("benchmark")

    base = await measure(pair)
    print(f"{'uncontended, one loop':<44}{'us':>8}{'x pair':>9}")
    print(f"{'asyncio.Semaphore + aiolimiter (the pair)':<44}{base:>8.2f}{1:>9.1f}")
    for name, work in (
        ("guard: cap, rates, tokens, adaptive, report", slot),
        ("guard: the same without the report", plain_slot),
        ("LangChain InMemoryRateLimiter", of_langchain),
        ("anyio CapacityLimiter", of_anyio),
        ("pyrate-limiter", of_pyrate),
    ):
        cost = await measure(work)
        print(f"{name:<44}{cost:>8.2f}{cost / base:>9.1f}")


class NoTimes:
    """In place of what times are noted in."""

    def add(self, seconds: float) -> None:
        """Notes nothing."""

    append = add


async def metrics_cost() -> None:
    """What noting the times of each call costs, and what telling them to other processes costs."""
    noting, silent = guard_with_everything(), guard_with_everything()
    queue = silent.admission
    queue.wait_times = queue.service_times = queue.waits_s = queue.services_s = NoTimes()

    async def block(guard: Guard) -> float:
        started = time.perf_counter()
        for _ in range(CALLS):
            async with guard.slot(tokens=100) as entered:
                entered.report(Outcome.OK)
        return (time.perf_counter() - started) / CALLS * 1e6

    # In turn, so that whatever else the machine does slows both of them.
    pairs = [(await block(silent), await block(noting)) for _ in range(3 * ROUNDS)]
    without, with_times = (min(costs) for costs in zip(*pairs, strict=True))
    ratio = statistics.median(noted / bare for bare, noted in pairs)
    print(
        f"guarded call without any metrics {without:.2f} us, with them {with_times:.2f} us: {ratio:.2f} (median ratio)"
    )

    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER_VARIABLE] = folder
        publisher = Publisher()
        guards = [
            guard_registry().guard(f"guard {number}", GuardSettings(), asked_by="benchmark") for number in range(10)
        ]
        costs = []
        for _ in range(100):
            for guard in guards:
                async with guard.slot():
                    pass
            started = time.thread_time()
            publisher.publish()
            costs.append(time.thread_time() - started)
        publisher.stop()
    cost = statistics.median(costs)
    print(f"telling of ten guards: {cost * 1e3:.2f} ms of CPU every {EVERY_S:g} s, {cost / EVERY_S:.2%} of a core")


async def with_waiters(count: int) -> tuple[float, float]:
    """Microseconds and bytes for each of so many waiters, from queueing to leaving."""
    guard = Guard("queue", GuardSettings(max_concurrency=1, max_queue=0, queue_timeout_s=600))
    holder = guard.slot()
    await holder.__aenter__()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    waiters = [guard.slot() for _ in range(count)]
    tasks = [asyncio.ensure_future(each.__aenter__()) for each in waiters]
    while sum(guard.statistics().waiting.values()) < count:
        await asyncio.sleep(0)
    size = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    async def call() -> None:
        async with guard.slot():
            pass

    gc.collect()
    started = time.perf_counter()
    calls = [asyncio.ensure_future(call()) for _ in range(count)]
    await asyncio.sleep(0)
    await holder.__aexit__(None, None, None)
    await asyncio.gather(*calls)
    return (time.perf_counter() - started) / count * 1e6, size


async def wake_up_while_busy() -> list[float]:
    """Milliseconds from a release to the run of the next caller, while the loop is busy with Python code."""
    guard = Guard("busy", GuardSettings(max_concurrency=1))
    delays = []

    async def busy(stop: asyncio.Event) -> None:
        while not stop.is_set():
            end = time.perf_counter() + 0.01
            while time.perf_counter() < end:
                pass
            await asyncio.sleep(0)

    stop = asyncio.Event()
    background = asyncio.ensure_future(busy(stop))
    for _ in range(50):
        released = 0.0
        holder = guard.slot()
        await holder.__aenter__()

        async def wait() -> float:
            async with guard.slot():
                return time.perf_counter()

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        released = time.perf_counter()
        await holder.__aexit__(None, None, None)
        delays.append((await waiting - released) * 1e3)
    stop.set()
    await background
    return sorted(delays)


def hammer(loops: int, threads: int, calls: int) -> float:
    """Calls a second through one guard from so many loops and threads, each holding its slot for a moment."""
    guard = Guard("hammer", GuardSettings(max_concurrency=4, max_queue=0, queue_timeout_s=0))
    workers = loops + threads

    async def many(count: int) -> None:
        async def call() -> None:
            async with guard.slot():
                await asyncio.sleep(0.001)

        await asyncio.gather(*(call() for _ in range(count)))

    def block(count: int) -> None:
        for _ in range(count):
            with guard.slot():
                time.sleep(0.001)

    running = [threading.Thread(target=lambda: asyncio.run(many(calls // workers))) for _ in range(loops)]
    running += [threading.Thread(target=block, args=(calls // workers,)) for _ in range(threads)]
    started = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert guard.statistics().peak_in_flight <= 4
    return calls // workers * workers / (time.perf_counter() - started)


def main() -> None:
    asyncio.run(uncontended())
    print()
    asyncio.run(metrics_cost())
    print()
    costs = {count: asyncio.run(with_waiters(count)) for count in (100, 10_000)}
    for count, (cost, size) in costs.items():
        print(f"{count:>6} waiting: {cost:6.2f} us and {size:6.0f} bytes for each waiter (its task included)")
    print(f"       ratio of the costs: {costs[10_000][0] / costs[100][0]:.2f}")
    print()
    delays = asyncio.run(wake_up_while_busy())
    print(f"wake-up while the loop is busy in turns of 10 ms: median {delays[25]:.2f} ms, highest {delays[-1]:.2f} ms")
    print()
    alone = hammer(1, 0, 4000)
    both = hammer(2, 8, 4000)
    print(f"one loop alone {alone:.0f} calls/s; two loops and eight threads {both:.0f} calls/s: {both / alone:.2f}")


if __name__ == "__main__":
    main()
