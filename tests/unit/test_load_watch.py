from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from langflow_sluice.guard.histogram import BOUNDS_S
from langflow_sluice.load.database import Connections
from langflow_sluice.load.drive import Call, Drive, Driven
from langflow_sluice.load.guards import GuardsLook, GuardTotals, stands_before
from langflow_sluice.load.plan import StagePlan
from langflow_sluice.load.watch import Edge, Watch
from langflow_sluice.metrics.figures import GuardFigures, PoolFigures, ProcessFigures, Times
from langflow_sluice.metrics.state_folder import StateFolder
from langflow_sluice.models.openai_compatible import Upstream
from langflow_sluice.postgres.url import fingerprint, read_database_url, redacted

if TYPE_CHECKING:
    from pathlib import Path

PROVIDER = "api.example.com (key 0123456789ab)"
DATABASE = "127.0.0.1:5432/docs (0123456789ab)"
GATE = "Concurrency Gate flow-1:ConcurrencyGateComponent-1"


def times(count: int, sum_s: float) -> Times:
    return Times((count, *[0] * len(BOUNDS_S)), sum_s)


def guard(name: str, *, wait_s: float = 0.0, service_s: float = 0.0, count: int = 0) -> GuardFigures:
    turned_away = {"full": 0, "timeout": 0, "open": 0, "gone": 0}
    waiting = {"interactive": 0, "normal": 3, "batch": 1}
    return GuardFigures(
        name,
        2,
        4,
        waiting,
        4,
        4,
        0.0,
        count,
        turned_away,
        0,
        "closed",
        0.0,
        times(count, wait_s),
        times(count, service_s),
    )


def process(
    *guards: GuardFigures, worker: str = "host:1", told_at: float | None = None, pool_wait_s: float = 0.0
) -> ProcessFigures:
    pool = PoolFigures("127.0.0.1:5432/docs", 10, 3, 2, 5, 0, 0, times(1, pool_wait_s))
    told = time.time() + 60 if told_at is None else told_at
    return ProcessFigures(worker, 900.0, told, guards, (pool,), (), (0.01, 0.4))


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "state")


def test_guards_are_known_by_the_names_that_nodes_give_them() -> None:
    upstream = Upstream("https://api.example.com/v1", "sk-canary")
    assert stands_before(upstream.guard_name) == stands_before(PROVIDER) == "provider"
    # As nodes.database_inputs makes it.
    url = read_database_url("postgresql://me:secret@db.example.com/docs")
    assert stands_before(f"{redacted(url)} ({fingerprint(url)[:12]})") == stands_before(DATABASE) == "database"
    assert stands_before("127.0.0.1:11434") == "provider"
    assert stands_before(GATE) == "section"
    assert stands_before("Fan-Out flow:FanOutComponent-1") == "section"
    assert stands_before("crm") == "unknown"


def test_all_workers_guards_and_pools_are_one(folder: StateFolder) -> None:
    assert GuardsLook(folder).now() is None
    folder.write(process(guard(PROVIDER), guard(GATE)))
    folder.write(process(guard(PROVIDER), worker="host:2"))
    now = GuardsLook(folder).now()
    assert now is not None
    assert (now.in_flight, now.waiting, now.loop_lag_s) == (6, 3 * 4 + 2 * 5, 0.4)


async def test_between_two_moments_all_waits_count_and_of_what_was_held_only_that_of_providers(
    folder: StateFolder,
) -> None:
    look = GuardsLook(folder)
    folder.write(process(guard(PROVIDER, wait_s=5, service_s=50, count=5), guard(GATE, count=5), worker="host:1"))
    before = await look.totals()
    folder.write(
        process(guard(PROVIDER, wait_s=6, service_s=53, count=9), guard(GATE, wait_s=2, service_s=99, count=9))
    )
    # A worker that was started meanwhile counts from its start.
    folder.write(
        process(
            guard(PROVIDER, wait_s=1, service_s=4, count=2),
            guard(DATABASE, service_s=7),
            worker="host:2",
            pool_wait_s=8,
        )
    )
    spent = (await look.totals()).since(before)
    assert (spent.waited_s, spent.provider_s) == (1 + 2 + 1 + 8, 3 + 4)


async def test_what_guards_of_unknown_services_did_or_nobody_tells_is_unknown(folder: StateFolder) -> None:
    look = GuardsLook(folder)
    nobody = await look.totals()
    assert (nobody.since(nobody).waited_s, nobody.since(nobody).provider_s) == (None, None)
    folder.write(process(guard(PROVIDER, service_s=3, count=1)))
    idle = await look.totals()
    assert (idle.since(idle).waited_s, idle.since(idle).provider_s) == (0.0, None)
    folder.write(process(guard(PROVIDER, service_s=4, count=2), guard("crm", service_s=9, count=3)))
    assert (await look.totals()).since(idle).provider_s is None


async def test_totals_wait_for_what_is_told_after_they_were_asked_for(folder: StateFolder) -> None:
    folder.write(process(guard(PROVIDER, wait_s=1, count=1), told_at=time.time() - 0.5))
    asked = asyncio.ensure_future(GuardsLook(folder).totals())
    await asyncio.sleep(0)
    assert not asked.done()
    folder.write(process(guard(PROVIDER, wait_s=7, count=2)))
    totals = await asked
    assert totals.since(GuardTotals()).waited_s == 7


def test_a_mean_calls_time_is_split_into_what_was_told_and_the_rest(folder: StateFolder) -> None:
    def edge(wait_s: float, service_s: float, count: int, database_s: float | None) -> Edge:
        folder.write(process(guard(PROVIDER, wait_s=wait_s, service_s=service_s, count=count)))
        return Edge(asyncio.run(GuardsLook(folder).totals()), database_s)

    driven = Driven([Call(2.0, 1.0, None)] * 10, 0, 5.0, 3)
    before, after = edge(0, 0, 0, 7.0), edge(1.0, 3.0, 10, 8.5)
    watch = Watch(None, None)
    split = watch.split(driven, before, after)
    assert (split.queue_s, split.provider_s, split.database_s) == (0.1, 0.3, 0.15)
    assert split.langflow_s == pytest.approx(1.0 - 0.55)
    unasked = watch.split(driven, replace(before, database_s=None), after)
    assert (unasked.database_s, unasked.langflow_s) == (None, pytest.approx(0.6))
    # A call that does many things at once spends more time in them than it takes itself.
    at_once = watch.split(driven, before, edge(30.0, 30.0, 99, 8.5))
    assert (at_once.queue_s, at_once.langflow_s) == (3.0, None)
    silent = watch.split(driven, Edge(None, None), Edge(None, None))
    assert (silent.queue_s, silent.provider_s, silent.langflow_s) == (None, None, None)
    assert watch.split(Driven(), before, after).queue_s is None


async def test_samples_are_taken_at_a_stages_ends_and_none_outside(folder: StateFolder) -> None:
    folder.write(process(guard(PROVIDER)))
    drive = Drive(StagePlan("closed loop", 1, 1), asyncio.Event().wait, max_seconds=1, stop=asyncio.Event())
    with Watch(None, GuardsLook(folder)) as watch:
        assert await watch.begin(drive) >= 0
        await watch.end()
        taken = watch.samples
        watch._sample()
        assert watch.samples == taken
    assert len(taken) >= 2
    assert {(each.guard_in_flight, each.guard_waiting, each.connections) for each in taken} == {(2, 9, None)}


class SilentDatabase:
    """Stands in for one that has stopped answering, until it is told to go on."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.goes_on = threading.Event()

    def connections(self) -> Connections:
        self.asked.set()
        self.goes_on.wait()
        return Connections(1, 1)

    def worked_s(self) -> float:
        self.goes_on.wait()
        return 1.0


async def test_a_database_that_is_silent_keeps_no_stage_from_beginning_and_none_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("langflow_sluice.load.watch._PATIENCE_S", 0.02)
    database = SilentDatabase()
    drive = Drive(StagePlan("closed loop", 1, 1), asyncio.Event().wait, max_seconds=1, stop=asyncio.Event())
    try:
        with Watch(database, None) as watch:  # type: ignore[arg-type]
            assert (await watch.edge()).database_s is None
            await watch.begin(drive)
            await watch.end()
            assert watch.samples == ()
        thread = watch._thread
        assert thread.is_alive()
    finally:
        database.goes_on.set()
    thread.join()
    # What it says in the end is of a stage that is over.
    assert watch.samples == ()


async def test_nothing_is_held_while_a_database_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langflow_sluice.load.watch._PATIENCE_S", 0.02)
    database = SilentDatabase()
    drive = Drive(StagePlan("closed loop", 1, 1), asyncio.Event().wait, max_seconds=1, stop=asyncio.Event())
    try:
        with Watch(database, None) as watch:  # type: ignore[arg-type]
            await watch.begin(drive)
            assert await asyncio.to_thread(database.asked.wait, 30)
            assert watch._lock.acquire(timeout=10)
            watch._lock.release()
    finally:
        database.goes_on.set()
