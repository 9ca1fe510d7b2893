"""What all workers tell, as one table and as one figure for each guard, pool and client."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from langflow_sluice.gauge.joining import clients_by_label, guards_by_name, pools_by_label, quantile_s
from langflow_sluice.gauge.rows import ALL, COLUMNS, snapshot_rows
from langflow_sluice.gauge.workers import all_processes
from langflow_sluice.guard import GuardSettings
from langflow_sluice.guard.registry import guard_registry
from langflow_sluice.metrics.figures import figures
from langflow_sluice.metrics.state_folder import FOLDER_VARIABLE, StateFolder
from langflow_sluice.testing import isolated_guards

from .gauge_readings import LABEL, NOW, client, guard, pool, process, times

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS = GuardSettings(max_concurrency=4)
WORKER = """
import asyncio, sys
from langflow_sluice.guard import GuardSettings
from langflow_sluice.guard.registry import guard_registry
from langflow_sluice.metrics.publisher import publisher
async def main():
    guard = guard_registry().guard("crm", GuardSettings(max_concurrency=4), asked_by="test")
    async with guard.slot(), guard.slot(), guard.slot():
        publisher.publish()
        print("told", flush=True)
        sys.stdin.readline()
asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateFolder]:
    """The state folder of a deployment of the test's own."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with isolated_guards():
        yield StateFolder(tmp_path)


def the_row(rows: list[dict[str, object]], worker: str, kind: str, name: str) -> dict[str, object]:
    [row] = [row for row in rows if (row["worker"], row["kind"], row["name"]) == (worker, kind, name)]
    return row


def test_guards_of_one_name_add_up() -> None:
    one = guard(in_flight=2, waiting=3, away={"full": 1}, wait=times(0.2), paused_s=1.0)
    other = guard(in_flight=1, waiting=4, away={"full": 2, "gone": 5}, wait=times(0.2, 9.0), breaker="open")
    crm = guards_by_name([process(one), process(other, guard("erp"), worker="host:2")])["crm"]
    assert (crm.in_flight, crm.limit, crm.admitted, crm.breaker, crm.paused_s) == (3, 16, 200, "open", 1.0)
    assert crm.waiting == {"interactive": 0, "normal": 7, "batch": 0}
    assert crm.turned_away == {"full": 3, "timeout": 0, "open": 0, "gone": 5}
    assert (crm.wait.count, crm.wait.sum_s) == (3, pytest.approx(9.4))


def test_a_limit_that_is_off_in_one_worker_is_off_in_all() -> None:
    joined = guards_by_name([process(guard(limit=0)), process(guard(), worker="host:2")])
    assert joined["crm"].limit == 0
    assert joined["crm"].max_concurrency == 16


def test_pools_and_clients_add_up_by_where_they_lead() -> None:
    told = [process(pool(checked_out=3), pool(checked_out=1), client()), process(pool(), client(), worker="host:2")]
    assert (pools_by_label(told)[LABEL].checked_out, pools_by_label(told)[LABEL].capacity) == (4, 30)
    [joined] = clients_by_label(told).values()
    assert (joined.open, joined.in_use, joined.limit) == (8, 6, 0)


def test_a_quantile_is_the_bound_of_the_range_that_it_lies_in() -> None:
    waits = times(*[0.2] * 94, *[4.0] * 6)
    assert (quantile_s(waits, 0.5), quantile_s(waits, 0.95)) == (0.25, 5.0)
    assert quantile_s(times(1000.0), 0.5) == 300.0
    assert quantile_s(times(), 0.5) is None


def test_the_table_has_a_sum_of_all_workers_and_a_row_for_each() -> None:
    told = [
        process(guard(in_flight=2), pool()),
        process(guard(in_flight=3), client(), worker="host:2", told_at=NOW - 4),
    ]
    rows = snapshot_rows(told, now=NOW + 1)
    assert {tuple(row) for row in rows} == {COLUMNS}
    assert [(row["worker"], row["kind"]) for row in rows] == [
        (ALL, "worker"),
        (ALL, "guard"),
        (ALL, "pool"),
        (ALL, "client"),
        ("host:1", "worker"),
        ("host:1", "guard"),
        ("host:1", "pool"),
        ("host:2", "worker"),
        ("host:2", "guard"),
        ("host:2", "client"),
    ]
    assert the_row(rows, ALL, "guard", "crm")["in_use"] == 5
    assert [row["in_use"] for row in rows if row["kind"] == "guard" and row["worker"] != ALL] == [2, 3]
    assert the_row(rows, ALL, "worker", "2 workers")["told_s_ago"] == 5
    assert the_row(rows, "host:1", "worker", "host:1")["loop_lag_s"] == 0.01


def test_a_guards_row_tells_whom_it_turned_away_and_how_long_calls_took() -> None:
    busy = guard(in_flight=8, waiting=5, away={"full": 1, "timeout": 2}, wait=times(0.2), service=times(0.4, 2.0))
    row = the_row(snapshot_rows([process(busy)], now=NOW), "host:1", "guard", "crm")
    assert (row["turned_away_full"], row["turned_away_timeout"], row["turned_away"]) == (1, 2, 3)
    assert (row["wait_p95_s"], row["service_p50_s"], row["service_p95_s"]) == (0.25, 0.5, 2.5)
    assert (row["waiting"], row["limit"], row["idle"]) == (5, 8, None)


def test_a_second_process_is_added_up_and_this_one_is_not_counted_twice(folder: StateFolder) -> None:
    mine = guard_registry().guard("crm", SETTINGS, asked_by="test")
    environment = {**os.environ, FOLDER_VARIABLE: str(folder.path)}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        with mine.slot():
            folder.write(figures())  # as the publisher does, a moment before
            with mine.slot():
                assert worker.stdout is not None
                assert worker.stdout.readline() == "told\n"
                told, note = all_processes()
                rows = snapshot_rows(told)
    finally:
        worker.communicate("\n", timeout=30)
    assert note == ""
    assert the_row(rows, ALL, "guard", "crm")["in_use"] == 5
    assert the_row(rows, ALL, "guard", "crm")["limit"] == 8
    # This process as it is now, not as it was when it told the others.
    assert the_row(rows, told[0].worker, "guard", "crm")["in_use"] == 2
    assert len(told) == 2


def test_a_state_folder_that_is_a_file_costs_the_other_workers_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "file"))
    told, note = all_processes()
    assert len(told) == 1
    assert FOLDER_VARIABLE in note


@pytest.mark.usefixtures("folder")
def test_reading_takes_no_lock_that_a_guard_waits_for() -> None:
    guards = [guard_registry().guard(f"crm {number}", SETTINGS, asked_by="test") for number in range(20)]
    held, done, found = threading.Event(), threading.Event(), []

    def hold() -> None:
        with contextlib.ExitStack() as stack:
            for each in guards:
                stack.enter_context(each.admission._lock)
            held.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    reader = threading.Thread(target=lambda: found.extend(snapshot_rows(all_processes()[0])), daemon=True)
    holder.start()
    held.wait(30)
    try:
        reader.start()
        reader.join(30)
        assert not reader.is_alive()
    finally:
        done.set()
        holder.join()
    assert sum(row["kind"] == "guard" and row["worker"] == ALL for row in found) == 20


@pytest.mark.usefixtures("folder")
def test_a_snapshot_sorts_nothing_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # It did, for each guard, which was nine tenths of its cost.
    guard_registry().guard("crm", SETTINGS, asked_by="test").admission.waits_s.extend([2.0, 1.0])
    monkeypatch.setattr("langflow_sluice.guard.statistics.percentiles", pytest.fail)
    assert len(figures().guards) == 1
