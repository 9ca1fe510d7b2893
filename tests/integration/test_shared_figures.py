"""Workers on several machines see each other's figures through the Redis that they share."""

from __future__ import annotations

import dataclasses
import json
import logging
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from langflow_sluice.cluster.redis_settings import RedisSettings
from langflow_sluice.embedded.redis import MISSING, EmbeddedRedis, program
from langflow_sluice.metrics import shared_figures
from langflow_sluice.metrics.figures import ProcessFigures
from langflow_sluice.metrics.shared_figures import SharedFigures
from langflow_sluice.metrics.state_folder import GONE_AFTER_S, StateFolder, state_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "canary-of-figures"


@pytest.fixture
def redis() -> Iterator[EmbeddedRedis]:
    if program() is None:
        pytest.skip(MISSING)
    with EmbeddedRedis(password=PASSWORD) as server:
        yield server


def told(worker: str, at: float | None = None) -> ProcessFigures:
    now = time.time() if at is None else at
    return ProcessFigures(worker, now, now, (), (), (), (0.01,))


def machine(redis: EmbeddedRedis, path: Path) -> SharedFigures:
    return SharedFigures(path, RedisSettings(redis.url))


def workers(folder: StateFolder) -> list[str]:
    return [each.worker for each in folder.read()]


def test_each_machine_sees_the_workers_of_all_and_those_that_end_are_gone(redis: EmbeddedRedis, tmp_path: Path) -> None:
    one, other = machine(redis, tmp_path / "one"), machine(redis, tmp_path / "other")
    one.write(told("one:1"))
    one.write(told("one:2"))
    other.write(told("other:1"))
    assert workers(one) == workers(other) == ["one:1", "one:2", "other:1"]
    assert workers(StateFolder(tmp_path / "one")) == ["one:1", "one:2"]
    one.withdraw("one:1")
    assert workers(one) == workers(other) == ["one:2", "other:1"]


def test_what_was_told_last_counts_and_workers_count_once(redis: EmbeddedRedis, tmp_path: Path) -> None:
    one, other = machine(redis, tmp_path / "one"), machine(redis, tmp_path / "other")
    early, late = told("one:1", time.time() - 5), told("one:1")
    one.write(early)
    StateFolder(tmp_path / "one").write(late)
    assert one.read() == [late]
    assert other.read() == [early]


def test_a_worker_of_this_machine_that_was_killed_does_not_come_back_by_redis(
    redis: EmbeddedRedis, tmp_path: Path
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(30)
    killed = told(f"{socket.gethostname()}:{ended.pid}")
    one, other = machine(redis, tmp_path / "one"), machine(redis, tmp_path / "other")
    one.write(killed)
    assert one.read() == []
    # Another machine, though it may have this one's name, knows nothing about the process.
    assert other.read() == [killed]


def test_nothing_is_left_of_workers_that_are_gone(redis: EmbeddedRedis, tmp_path: Path) -> None:
    one = machine(redis, tmp_path / "one")
    one.write(told("one:1"))
    with redis.client() as client:
        left_ms = [client.pttl(name) for name in client.scan_iter("*")]
    assert len(left_ms) == 2
    assert all(0 < each <= 2 * GONE_AFTER_S * 1000 for each in left_ms)


def test_what_cannot_be_understood_is_left_out(redis: EmbeddedRedis, tmp_path: Path) -> None:
    one = machine(redis, tmp_path / "one")
    one.write(told("one:1"))
    newer = json.dumps({**dataclasses.asdict(told("two:1")), "format": 99})
    with redis.client() as client:
        for worker, text in (("two:1", newer), ("three:1", "no json"), ("four:1", "[]")):
            client.set(f"sluice:figures:{worker}", text)
            client.zadd("sluice:workers", {worker: time.time()})
        client.zadd("sluice:workers", {"just gone": time.time()})
    assert workers(one) == ["one:1"]


def test_without_redis_each_machine_sees_its_own_and_says_so_once(
    redis: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = machine(redis, tmp_path / "one"), machine(redis, tmp_path / "other")
    other.write(told("other:1"))
    redis.stop()
    with caplog.at_level(logging.WARNING):
        one.write(told("one:1"))
        assert workers(one) == ["one:1"]
        one.withdraw("gone:1")
    assert len(caplog.records) == 1
    assert PASSWORD not in caplog.text
    redis.start()
    monkeypatch.setattr(shared_figures, "_AGAIN_AFTER_S", 0.0)
    one._not_before = 0.0
    one.write(told("one:1"))
    assert workers(other) == ["one:1", "other:1"]


def test_a_deployment_with_a_redis_shares_its_figures_and_one_without_does_not(
    redis: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("SLUICE_REDIS_URL", raising=False)
    assert type(state_folder()) is StateFolder
    monkeypatch.setenv("SLUICE_REDIS_URL", redis.url)
    shared = state_folder()
    machine(redis, tmp_path / "other").write(told("other:1"))
    assert isinstance(shared, SharedFigures)
    assert workers(shared) == ["other:1"]
