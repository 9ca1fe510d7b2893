"""What a permit of the whole cluster costs, beside a bare counter in Redis and the limiters people would use instead.

Run it: ``uv run python tests/benchmarks/cluster.py``. Figures and ratios are printed; nothing is asserted. The other
limiters meter rates and know no permits that come back: one hit of theirs stands against an enter and a leave of ours.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import threading
import time
from collections import Counter

import redis
import redis.asyncio
from limits import RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter
from pyrate_limiter import Limiter, Rate, RedisBucket
from throttled import RateLimiterType, Throttled, rate_limiter
from throttled.store import RedisStore

from langflow_sluice.cluster.exchange import digest, keys
from langflow_sluice.embedded.redis import EmbeddedRedis
from langflow_sluice.guard import Guard, GuardSettings

CALLS = 2_000
ROUNDS = 5
PLENTY = 10**9
PROCESSES, CALLERS, CAP = 4, 50, 16
SECONDS = 5.0
LEASE_S = 1.0


def best(measure) -> float:
    """Microseconds for one, the best of some rounds."""
    times = []
    for _ in range(ROUNDS):
        gc.collect()
        started = time.perf_counter()
        measure()
        times.append(time.perf_counter() - started)
    return min(times) / CALLS * 1e6


async def best_of(work) -> float:
    times = []
    for _ in range(ROUNDS):
        gc.collect()
        started = time.perf_counter()
        for _ in range(CALLS):
            await work()
        times.append(time.perf_counter() - started)
    return min(times) / CALLS * 1e6


def show(title: str, microseconds: float, bare: float) -> None:
    print(f"{title:<58} {microseconds:8.0f} us {microseconds / bare:6.2f} x")


async def pair(server: EmbeddedRedis) -> None:
    """One caller, one call after the other."""
    guard = Guard("one caller", GuardSettings(max_concurrency=CAP, scope="cluster"))
    metered = GuardSettings(CAP, requests_per_minute=60.0 * PLENTY, tokens_per_minute=60.0 * PLENTY, scope="cluster")
    guard_of_all = Guard("one caller, metered", metered)

    async def enter_and_leave() -> None:
        async with guard.slot():
            pass

    async def enter_and_leave_metered() -> None:
        async with guard_of_all.slot(tokens=100):
            pass

    async with redis.asyncio.Redis.from_url(server.url) as client:

        async def count_up_and_down() -> None:
            await client.incr("bare")
            await client.decr("bare")

        for warm_up in (enter_and_leave, enter_and_leave_metered, count_up_and_down):
            await warm_up()
        bare = await best_of(count_up_and_down)
        print("One process, one caller on its event loop")
        show("INCR + DECR, redis.asyncio", bare, bare)
        show("Guard of the cluster, enter + leave", await best_of(enter_and_leave), bare)
        show("  the same with requests and tokens metered", await best_of(enter_and_leave_metered), bare)


def pair_without_a_loop(server: EmbeddedRedis) -> None:
    """The same from a thread, and the other limiters, which are at their best there."""
    guard = Guard("one thread", GuardSettings(max_concurrency=CAP, scope="cluster"))
    client = redis.Redis.from_url(server.url)
    storage = RedisStorage(server.url)
    item = RateLimitItemPerSecond(PLENTY)
    quota = rate_limiter.per_sec(PLENTY, burst=PLENTY)
    throttle = Throttled(key="throttled", using=RateLimiterType.GCRA.value, quota=quota, store=RedisStore(server.url))
    pyrate = Limiter(RedisBucket.init([Rate(PLENTY, 1000)], client, "pyrate"))

    def enter_and_leave() -> None:
        for _ in range(CALLS):
            with guard.slot():
                pass

    def count_up_and_down() -> None:
        for _ in range(CALLS):
            client.incr("bare")
            client.decr("bare")

    def hits_of(hit):
        def hits() -> None:
            for _ in range(CALLS):
                hit()

        return hits

    with guard.slot():
        pass
    bare = best(count_up_and_down)
    print("\nOne process, one thread")
    show("INCR + DECR, redis", bare, bare)
    show("Guard of the cluster, enter + leave", best(enter_and_leave), bare)
    window = FixedWindowRateLimiter(storage)
    show("limits, fixed window, one hit", best(hits_of(lambda: window.hit(item, "fixed"))), bare)
    moving = MovingWindowRateLimiter(storage)
    few = RateLimitItemPerSecond(1000)  # its list holds every hit of the window
    show("limits, moving window of 1000, one hit", best(hits_of(lambda: moving.hit(few, "moving"))), bare)
    show("throttled-py, GCRA, one hit", best(hits_of(throttle.limit)), bare)
    show("pyrate-limiter, one hit", best(hits_of(lambda: pyrate.try_acquire("x", blocking=False))), bare)


def compete(kind: str, url: str, ready, go, stop, counts, number: int) -> None:
    """One of the processes: as many as it can, until told to stop."""
    if kind == "guard":
        asyncio.run(_compete_for_permits(ready, go, stop, counts, number))
        return
    client = redis.Redis.from_url(url)
    if kind == "bare":

        def hit() -> None:
            client.incr("bare")
            client.decr("bare")

    elif kind == "limits":
        window, item = FixedWindowRateLimiter(RedisStorage(url)), RateLimitItemPerSecond(PLENTY)

        def hit() -> None:
            window.hit(item, "fixed")

    elif kind == "throttled-py":
        quota = rate_limiter.per_sec(PLENTY, burst=PLENTY)
        hit = Throttled(key="t", using=RateLimiterType.GCRA.value, quota=quota, store=RedisStore(url)).limit
    else:
        limiter = Limiter(RedisBucket.init([Rate(PLENTY, 1000)], client, "pyrate"))

        def hit() -> None:
            limiter.try_acquire("x", blocking=False)

    hit()
    ready.release()
    go.wait()
    while not stop.is_set():
        for _ in range(20):
            hit()
        counts[number] += 20


async def _compete_for_permits(ready, go, stop, counts, number: int) -> None:
    guard = Guard("everybody's", GuardSettings(max_concurrency=CAP, scope="cluster", queue_timeout_s=600))
    ended = False

    async def caller() -> None:
        while not ended:
            async with guard.slot():
                counts[number] += 1

    async with guard.slot():
        pass
    ready.release()
    await asyncio.to_thread(go.wait)
    callers = [asyncio.ensure_future(caller()) for _ in range(CALLERS)]
    await asyncio.to_thread(stop.wait)
    ended = True
    await asyncio.gather(*callers)


def together(server: EmbeddedRedis) -> None:
    """All processes at once."""
    spawn = multiprocessing.get_context("spawn")
    print(f"\n{PROCESSES} processes, ours with {CALLERS} callers each for {CAP} permits that are given back at once")
    titles = {
        "bare": "INCR + DECR, pairs",
        "guard": "Guard of the cluster, acquisitions",
        "limits": "limits, fixed window, hits",
        "throttled-py": "throttled-py, GCRA, hits",
        "pyrate-limiter": "pyrate-limiter, hits",
    }
    for kind, title in titles.items():
        server.reset_commandstats()
        ready, go, stop = spawn.Semaphore(0), spawn.Event(), spawn.Event()
        counts = spawn.Array("q", PROCESSES, lock=False)
        parts = (kind, server.url, ready, go, stop, counts)
        crowd = [spawn.Process(target=compete, args=(*parts, number)) for number in range(PROCESSES)]
        for process in crowd:
            process.start()
        for _ in crowd:
            ready.acquire()
        server.reset_commandstats()
        started = time.perf_counter()
        go.set()
        time.sleep(SECONDS)
        total, seconds = sum(counts), time.perf_counter() - started
        spent = server.commandstats()
        stop.set()
        for process in crowd:
            process.join()
        shares = ", ".join(f"{count / max(1, total):.2f}" for count in counts)
        exchanges = spent["evalsha"]
        cost = f"; {exchanges.calls / max(1, total):.2f} scripts for each" if exchanges.calls else ""
        print(f"{title:<58} {total / seconds:8.0f} /s, shares {shares}{cost}")


def costs(server: EmbeddedRedis) -> None:
    """What the scripts cost Redis: time and bytes."""
    guard = Guard("measured", GuardSettings(max_concurrency=CAP, scope="cluster"))
    with guard.slot():
        server.reset_commandstats()
        spent = Counter[str]()
        for _ in range(CALLS):
            with guard.slot():
                pass
        script = server.commandstats()["evalsha"]
        spent["script"] = script.calls
    with server.client() as client:
        names = keys("sluice", digest("measured"))
        found = {name.rsplit(":", 1)[1]: client.memory_usage(name) for name in names if client.exists(name)}
    print(
        f"\nThe script: {script.total_us / script.calls:.1f} us of Redis' time, {script.calls / CALLS:.2f} for a pair"
    )
    print(f"Bytes of a guard that one process uses: {sum(found.values())} ({found})")
    print(f"Threads of this process: {', '.join(sorted(thread.name for thread in threading.enumerate()))}")


if __name__ == "__main__":
    with EmbeddedRedis() as redis_server:
        os.environ |= {"SLUICE_REDIS_URL": redis_server.url, "SLUICE_LEASE": str(LEASE_S)}
        asyncio.run(pair(redis_server))
        pair_without_a_loop(redis_server)
        costs(redis_server)
        together(redis_server)
