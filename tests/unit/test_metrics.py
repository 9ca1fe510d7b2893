from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from langflow_sluice.errors import BulkheadFull, InvalidInput
from langflow_sluice.guard import GuardSettings
from langflow_sluice.guard.histogram import BOUNDS_S, Histogram
from langflow_sluice.guard.registry import guard_registry
from langflow_sluice.metrics.figures import ProcessFigures, figures
from langflow_sluice.metrics.loop_lag import LoopLags
from langflow_sluice.metrics.prometheus import SluiceCollector
from langflow_sluice.metrics.publisher import Publisher
from langflow_sluice.metrics.state_folder import FOLDER_VARIABLE, StateFolder, state_folder
from langflow_sluice.testing import ManualClock, isolated_guards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from langflow_sluice.guard import Guard

SETTINGS = GuardSettings(max_concurrency=2, max_queue=1)


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    with isolated_guards(clock):
        yield clock


@pytest.fixture
def guard(clock: ManualClock) -> Guard:  # noqa: ARG001 - for its effect
    return guard_registry().guard("crm", SETTINGS, asked_by="test")


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "state")


def samples(told: list[ProcessFigures]) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(SluiceCollector(lambda: told))
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "worker")): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_a_time_counts_below_the_first_bound_that_it_does_not_exceed() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.001, 0.0011, 300.0, 301.0):
        histogram.add(seconds)
    assert histogram.counts[:2] == [2, 1]
    assert histogram.counts[-2:] == [1, 1]
    assert sum(histogram.counts) == 5
    assert len(histogram.counts) == len(BOUNDS_S) + 1


async def test_the_figures_are_those_of_the_guard_at_that_moment(guard: Guard, clock: ManualClock) -> None:
    async with guard.slot():
        await clock.advance(0.2)
        async with guard.slot():
            waiting = asyncio.ensure_future(guard.slot(priority="batch").__aenter__())
            await asyncio.sleep(0)
            with pytest.raises(BulkheadFull):
                await guard.slot().__aenter__()
            found = samples([figures()])
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    assert found["sluice_guard_in_flight", "crm"] == 2
    assert found["sluice_guard_limit", "crm"] == 2
    assert found["sluice_guard_waiting", "crm", "batch"] == 1
    assert found["sluice_guard_waiting", "crm", "interactive"] == 0
    assert found["sluice_guard_admitted_total", "crm"] == 2
    assert found["sluice_guard_turned_away_total", "crm", "full"] == 1
    assert found["sluice_guard_breaker", "crm"] == 0
    after = samples([figures()])
    assert after["sluice_guard_service_seconds_bucket", "crm", "0.1"] == 1
    assert after["sluice_guard_service_seconds_bucket", "crm", "0.25"] == 2
    assert after["sluice_guard_service_seconds_sum", "crm"] == pytest.approx(0.2)
    assert after["sluice_guard_wait_seconds_count", "crm"] == 2


def test_both_rates_are_told(clock: ManualClock) -> None:  # noqa: ARG001 - for its effect
    rates = GuardSettings(requests_per_minute=60, tokens_per_minute=5000)
    guard_registry().guard("crm", rates, asked_by="test")
    [told] = figures().guards
    assert (told.requests_per_minute, told.tokens_per_minute) == (60, 5000)


async def test_guards_of_one_name_are_one_series_since_users_are_nobody_elses_business(clock: ManualClock) -> None:
    for user in ("anna", "ben"):
        private = guard_registry().guard(f"{user}/crm", SETTINGS, asked_by=user, name="crm")
        async with private.slot():
            await clock.advance(0)
    found = samples([figures()])
    assert found["sluice_guard_admitted_total", "crm"] == 2
    assert "anna" not in json.dumps(figures().to_dict())


async def test_what_is_told_is_read_back_as_it_was(guard: Guard, folder: StateFolder) -> None:
    async with guard.slot():
        told = figures()
        folder.write(told)
    assert folder.read() == [told]
    assert (folder.path.stat().st_mode & 0o777) == 0o700


def test_several_processes_add_up(tmp_path: Path) -> None:
    source = """
import asyncio, sys
from langflow_sluice.guard import GuardSettings
from langflow_sluice.guard.registry import guard_registry
from langflow_sluice.metrics.publisher import publisher
async def main():
    guard = guard_registry().guard("crm", GuardSettings(max_concurrency=4), asked_by="test")
    async with guard.slot(), guard.slot():
        publisher.publish()
        print("told", flush=True)
        sys.stdin.readline()
asyncio.run(main())
"""
    environment = {**os.environ, FOLDER_VARIABLE: str(tmp_path)}
    folder = StateFolder(tmp_path)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", source], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "told\n"
        told = folder.read()
        assert sum(process.guards[0].in_flight for process in told) == 4
        assert len({process.worker for process in told}) == 2
    finally:
        for worker in workers:
            worker.communicate("\n", timeout=30)
    # Each has ended in order, and taken its figures along.
    assert folder.read() == []


def test_a_process_that_was_killed_is_not_counted_for_long(guard: Guard, folder: StateFolder) -> None:  # noqa: ARG001
    told = figures()
    folder.write(ProcessFigures(told.worker, 0.0, time.time() - 60, told.guards, (), (), ()))
    assert folder.read() == []


KILLED = """
from langflow_sluice.metrics.publisher import publisher
publisher.publish()
print("told", flush=True)
input()
"""


def test_a_process_of_this_machine_that_was_killed_is_gone_at_once(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, FOLDER_VARIABLE: str(folder.path)}
    worker = subprocess.Popen(
        [sys.executable, "-c", KILLED], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "told\n"
        [told] = folder.read()
    finally:
        worker.kill()
        worker.communicate(timeout=30)
    assert list(folder.path.glob("*.json"))
    assert folder.read() == []
    # Its number says nothing about a process of another machine.
    elsewhere = dataclasses.replace(told, worker=f"not-{told.worker}")
    folder.write(elsewhere)
    assert folder.read() == [elsewhere]

    def forbid(_pid: int, _signal: int) -> None:
        raise PermissionError

    # A process of another user's lives.
    monkeypatch.setattr(os, "kill", forbid)
    assert {each.worker for each in folder.read()} == {told.worker, elsewhere.worker}


@pytest.mark.parametrize("number", ["", "x", "0", "9" * 40])
def test_a_worker_without_a_process_number_is_taken_at_its_word(folder: StateFolder, number: str) -> None:
    told = dataclasses.replace(figures(), worker=f"{socket.gethostname()}:{number}")
    folder.write(told)
    assert folder.read() == [told]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_file_that_cannot_be_read_is_passed_over(folder: StateFolder, content: str) -> None:
    folder.write(figures())
    (folder.path / "other.json").write_text(content)
    assert len(folder.read()) == 1


def test_a_folder_of_somebody_elses_is_not_used(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write(figures())
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError):
        folder.write(figures())


def test_deployments_are_told_apart_by_langflows_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("LANGFLOW_DATABASE_URL", "postgresql://anna:canary-secret@host/one")
    one = state_folder().path
    monkeypatch.setenv("LANGFLOW_DATABASE_URL", "postgresql://anna:canary-secret@host/two")
    assert state_folder().path != one
    assert "canary" not in str(one)


def test_a_state_folder_that_is_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv(FOLDER_VARIABLE, str(file))
    with pytest.raises(InvalidInput, match=FOLDER_VARIABLE):
        state_folder()


def told_in(folder: Path) -> list[Path]:
    return list(folder.glob("*.json"))


async def test_it_tells_again_only_when_something_has_changed(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    publisher = Publisher()
    publisher.publish()
    (file,) = told_in(tmp_path)
    file.unlink()
    publisher.publish()
    assert not file.exists()
    async with guard.slot():
        publisher.publish()
    assert file.exists()
    publisher.stop()
    assert not file.exists()


class TestLoopLag:
    def test_a_loop_that_was_closed_while_it_was_asked_is_forgotten(self) -> None:
        lags = LoopLags()
        loop = asyncio.new_event_loop()

        async def be_watched() -> None:
            lags.watch_running_loop()

        loop.run_until_complete(be_watched())
        lags.look()
        assert len(lags.read()) == 1
        loop.close()
        assert lags.read() == ()

    async def test_a_loop_that_comes_round_has_a_lag(self) -> None:
        lags = LoopLags()
        lags.watch_running_loop()
        lags.look()
        await asyncio.sleep(0)
        assert len(lags.read()) == 1
        assert lags.read()[0] > 0

    async def test_a_loop_that_is_blocked_shows_while_it_is(self) -> None:
        lags = LoopLags()
        lags.watch_running_loop()
        lags.look()
        early = lags.read()[0]
        # Nothing can come round while this coroutine does not let go.
        assert lags.read()[0] > early

    def test_a_loop_that_is_closed_is_forgotten(self) -> None:
        lags = LoopLags()
        loop = asyncio.new_event_loop()
        loop.run_until_complete(_watch(lags))
        assert len(lags.read()) == 1
        loop.close()
        lags.look()
        assert lags.read() == ()

    def test_a_thread_without_a_loop_has_nothing_to_watch(self) -> None:
        lags = LoopLags()
        lags.watch_running_loop()
        assert lags.read() == ()


async def _watch(lags: LoopLags) -> None:
    lags.watch_running_loop()


async def test_reading_takes_no_lock_that_a_guard_waits_for(guard: Guard) -> None:
    held = threading.Event()
    done = threading.Event()

    def hold() -> None:
        with guard.admission._lock:
            held.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    try:
        assert [each.name for each in figures().guards] == ["crm"]
    finally:
        done.set()
        holder.join()
