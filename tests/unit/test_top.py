from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from langflow_sluice.guard.histogram import BOUNDS_S
from langflow_sluice.metrics.figures import ClientFigures, GuardFigures, PoolFigures, ProcessFigures, Times
from langflow_sluice.metrics.state_folder import StateFolder
from langflow_sluice.top.command import top
from langflow_sluice.top.rates import History, look, p95

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = Times((0,) * (len(BOUNDS_S) + 1), 0.0)
CLIENT = ClientFigures("https://api.example.com:443", open=5, in_use=3, waiting=1, limit=0)

app = typer.Typer()
app.command()(top)


def times(**at: int) -> Times:
    counts = [0] * (len(BOUNDS_S) + 1)
    for place, count in at.items():
        counts[int(place[1:])] = count
    return Times(tuple(counts), 0.0)


POOL = PoolFigures(
    "127.0.0.1:5432/docs",
    capacity=10,
    checked_out=3,
    idle=2,
    waiting=1,
    writing=0,
    turned_away=4,
    wait=times(_3=100),
)


def guard(name: str = "crm", **more: object) -> GuardFigures:
    values: dict[str, object] = {
        "in_flight": 2,
        "peak_in_flight": 4,
        "waiting": {"interactive": 0, "normal": 3, "batch": 1},
        "limit": 4,
        "max_concurrency": 4,
        "requests_per_minute": 0.0,
        "admitted": 100,
        "turned_away": {"full": 1, "timeout": 2, "open": 0, "gone": 0},
        "retries": 5,
        "breaker": "closed",
        "paused_s": 0.0,
        "wait": NOTHING,
        "service": NOTHING,
    }
    return GuardFigures(name, **{**values, **more})


def process(*guards: GuardFigures, worker: str = "host:1", told_at: float = 1000.0) -> ProcessFigures:
    return ProcessFigures(worker, 900.0, told_at, guards, (POOL,), (CLIENT,), (0.01,))


def test_workers_add_up() -> None:
    seen = look([process(guard()), process(guard(breaker="open"), guard("other"), worker="host:2")])
    crm = seen.guards[0]
    assert (crm.name, crm.workers, crm.in_flight, crm.limit, crm.waiting) == ("crm", 2, 4, 8, 8)
    assert (crm.turned_away, crm.retries, crm.breaker) == (6, 10, "open")
    assert [(pool.label, pool.workers, pool.checked_out, pool.capacity) for pool in seen.pools] == [
        (POOL.label, 2, 6, 20)
    ]
    assert seen.pools[0].turned_away == 8
    assert [(client.label, client.workers, client.open, client.in_use, client.waiting) for client in seen.clients] == [
        (CLIENT.label, 2, 10, 6, 2)
    ]
    assert seen.workers == ("host:1", "host:2")


def test_a_guard_without_a_limit_in_one_process_has_none_at_all() -> None:
    assert look([process(guard()), process(guard(limit=0), worker="host:2")]).guards[0].limit == 0


def test_rates_and_percentiles_are_of_the_time_in_between() -> None:
    before = process(guard(wait=times(_3=100)))
    now = process(guard(admitted=150, wait=times(_3=100, _5=9, _9=1)), told_at=1002.0)
    line = look([now], [before]).guards[0]
    assert line.per_s == 25
    assert line.wait_p95_s == BOUNDS_S[9]
    assert look([now], [dataclasses.replace(before, started_at=1.0)]).guards[0].per_s == pytest.approx(150 / 102)


def test_waits_at_pools_are_of_the_time_in_between() -> None:
    before, now = process(guard()), process(guard(), told_at=1002.0)
    slow = dataclasses.replace(POOL, wait=times(_3=100, _9=10))
    now = dataclasses.replace(now, pools=(slow,))
    assert look([before]).pools[0].wait_p95_s == BOUNDS_S[3]
    assert look([now], [before]).pools[0].wait_p95_s == BOUNDS_S[9]
    assert look([now], [now]).pools[0].wait_p95_s == 0


def test_a_worker_without_a_part_of_a_limit_that_all_share_takes_nothing_off_it() -> None:
    parts = [guard(limit=part, standing="cluster") for part in (2, 0)]
    assert look([process(parts[0]), process(parts[1], worker="host:2")]).guards[0].limit == 2


def test_a_client_without_a_limit_in_one_process_has_none_at_all() -> None:
    limited = dataclasses.replace(process(guard(), worker="host:2"), clients=(dataclasses.replace(CLIENT, limit=9),))
    assert look([limited]).clients[0].limit == 9
    assert look([limited, process(guard())]).clients[0].limit == 0


def test_the_busiest_stand_first() -> None:
    quiet, busy = guard("quiet", waiting={"normal": 0}, in_flight=0), guard("busy", waiting={"normal": 9})
    assert [line.name for line in look([process(quiet, busy)]).guards] == ["busy", "quiet"]


@pytest.mark.parametrize(
    ("counts", "bound"), [({}, 0.0), ({"_0": 1}, BOUNDS_S[0]), ({"_0": 95, "_4": 5}, BOUNDS_S[0]), ({"_17": 1}, 300.0)]
)
def test_the_percentile_is_the_bound_of_its_range(counts: dict[str, int], bound: float) -> None:
    assert p95(times(**counts).counts) == bound


def test_looking_more_often_than_processes_tell_does_not_make_rates_flicker() -> None:
    history, now = History(), time.time()
    first, second = process(guard(), told_at=now - 1), process(guard(admitted=110), told_at=now)
    history.look([first])
    assert history.look([second]).guards[0].per_s == pytest.approx(10)
    assert history.look([second]).guards[0].per_s == pytest.approx(10)


def test_a_process_that_has_told_nothing_for_a_while_does_nothing() -> None:
    history, now = History(), time.time()
    first, second = process(guard(), told_at=now - 9), process(guard(admitted=110), told_at=now - 8)
    history.look([first])
    assert history.look([second]).guards[0].per_s == 0


def test_the_command_prints_what_it_sees(tmp_path: Path) -> None:
    StateFolder(tmp_path).write(process(guard(), told_at=time.time()))
    shown = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "--once"], env={"COLUMNS": "140"})
    assert shown.exit_code == 0
    assert "crm" in shown.output
    assert "2/4" in shown.output
    assert POOL.label in shown.output
    assert CLIENT.label in shown.output
    assert "3/∞" in shown.output
    told = json.loads(CliRunner().invoke(app, ["--state-dir", str(tmp_path), "--json"]).output)
    assert told["guards"][0]["waiting"] == 4
    assert told["pools"][0]["wait_p95_s"] == BOUNDS_S[3]
    assert told["clients"] == [{**dataclasses.asdict(CLIENT), "workers": 1}]


def test_where_nobody_tells_anything_it_says_what_to_check(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "--once"])
    assert "SLUICE_STATE_DIR" in shown.output
