"""One guard in several processes: what holds while Redis is there."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from langflow_sluice.cluster import exchange
from langflow_sluice.embedded import redis as embedded

from .cluster_processes import Journal, Processes, processes, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from redis import Redis

CAP = 16
LEASE_S = 1.0

pytestmark = pytest.mark.skipif(embedded.program() is None, reason=embedded.MISSING)


@pytest.fixture(scope="module")
def server() -> Iterator[embedded.EmbeddedRedis]:
    with embedded.EmbeddedRedis() as server:
        yield server


@pytest.fixture(scope="module")
def four(server: embedded.EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with processes(4, tmp_path_factory.mktemp("four"), server.url, LEASE_S) as workers:
        yield workers


@pytest.fixture
def new(server: embedded.EmbeddedRedis, tmp_path: Path) -> Iterator[Processes]:
    """Two that a test may end."""
    with processes(2, tmp_path, server.url, LEASE_S) as workers:
        yield workers


def members(client: Redis, guard: str) -> set[str]:
    """The processes that Redis counts among those that use a guard."""
    key = exchange.keys("sluice", exchange.digest(guard))[0]
    return {name.decode() for name in client.hkeys(key) if name}


def report(text: str) -> None:
    print(text)  # noqa: T201 - figures, shown with -s


def work(workers: Processes, journal: Journal, calls: int, hold_s: float) -> None:
    """50 callers in each process, until all processes together have made so many calls."""
    workers.do("call", callers=50, hold_s=hold_s)
    workers.until_calls(journal, 1)
    until(lambda: journal.read().calls.total() >= calls, f"{calls} calls", within_s=180)


def test_four_processes_together_never_pass_the_cap_and_get_equal_shares(four: Processes) -> None:
    with four.sharing("equal shares", max_concurrency=CAP, scope="cluster") as journal:
        work(four, journal, 2500, 0.005)
        told = journal.read()
    assert told.peak == CAP
    assert all(abs(calls / told.calls.total() - 0.25) <= 0.05 for calls in told.calls.values())


def test_four_processes_that_do_not_share_pass_the_cap(four: Processes) -> None:
    with four.sharing("not shared", max_concurrency=CAP, scope="process") as journal:
        work(four, journal, 500, 0.005)
    assert journal.read().peak == 4 * CAP


@pytest.mark.slow
@pytest.mark.parametrize("hold_s", [0.02])
def test_20000_calls_never_pass_the_cap_in_equal_shares_with_the_slots_busy(four: Processes, hold_s: float) -> None:
    with four.sharing("many calls", max_concurrency=CAP, scope="cluster") as journal:
        work(four, journal, 20_000, hold_s)
        told = journal.read()
    report(f"peak {told.peak}, calls {sorted(told.calls.items())}, {told.busy() / CAP:.1%} of the slots busy")
    assert told.peak == CAP
    assert all(abs(calls / told.calls.total() - 0.25) <= 0.05 for calls in told.calls.values())
    assert told.busy() >= 0.9 * CAP


def test_slots_of_a_killed_process_are_free_again_and_nobody_elses_lease_is_touched(new: Processes) -> None:
    killed, other = new
    with new.sharing("killed", max_concurrency=4, scope="cluster") as journal:
        other.do("call", callers=2, hold_s=-1)
        until(lambda: journal.read().total == 2, "two calls of the other")
        killed.do("call", callers=2, hold_s=-1)
        until(lambda: journal.read().total == 4, "two calls of the one to be killed")
        other.do("call", callers=2, hold_s=-1)
        assert other.do("tell")["waiting"] == 2
        killed.kill()
        began = time.monotonic()
        until(lambda: journal.read().total == 4, "the slots of the killed one", within_s=LEASE_S + 5)
        report(f"free after {journal.read().records[-1][3] - began:.2f} s with a lease of {LEASE_S:g} s")
        told, replay = other.do("tell"), journal.read()
        # The first two calls went on all the time, and the process was a member all the time.
        assert replay.in_flight == {1: 4}
        assert replay.peak == 4
        assert (told["leases_lost"], told["outages"], told["members"], told["cluster_in_flight"]) == (0, 0, 1, 4)


def test_a_process_stopped_for_longer_than_its_lease_says_so_and_starts_nothing_on_old_permits(
    new: Processes, server: embedded.EmbeddedRedis
) -> None:
    stopped, other = new
    with new.sharing("stopped", max_concurrency=4, scope="cluster") as journal, server.client() as client:
        new.do("call", callers=4, hold_s=0.05)
        new.until_calls(journal, 2)
        before = stopped.do("tell")["process"]
        stopped.signal(signal.SIGSTOP)
        alive = {other.do("tell")["process"]}
        until(lambda: members(client, "stopped") == alive, "the lease to run out")
        new_calls = journal.read().calls[1]
        until(lambda: journal.read().calls[1] > new_calls + 4, "calls of the other")
        position = journal.position
        held = journal.read().in_flight.get(0, 0)
        stopped.signal(signal.SIGCONT)
        new.until_calls(journal, 3)
        told = stopped.do("tell")
        assert told["leases_lost"] == 1
        assert told["process"] == before
        assert "not heard of for longer than its lease of 1 s" in stopped.log
        assert other.do("tell")["leases_lost"] == 0
        replay = journal.read()
        # What it had under way when it was stopped ends beside the calls of the other; nothing comes on top of that.
        assert replay.peak_from(position) <= 4 + held
        after = next(
            at
            for at, (kind, process, *_) in enumerate(replay.records[position:], position)
            if (kind, process) == (b"+", 0)
        )
        assert replay.peak_from(after + held) <= 4


def test_a_process_that_ends_gives_its_slots_back_at_once(new: Processes, server: embedded.EmbeddedRedis) -> None:
    ends, other = new
    with new.sharing("ends", max_concurrency=2, scope="cluster") as journal, server.client() as client:
        ends.do("call", callers=2, hold_s=-1)
        until(lambda: journal.read().total == 2, "both slots in use")
        other.do("call", callers=1, hold_s=-1)
        ends.leave()
        # Not when its lease ends: by the time it is gone.
        assert members(client, "ends") == {other.do("tell")["process"]}
        until(lambda: journal.read().calls[1] == 1, "the slot for the other")


@pytest.mark.parametrize("handled", [True, False])
def test_sigterm_gives_slots_back_at_once_where_a_handler_ends_the_process_in_order(
    server: embedded.EmbeddedRedis,
    tmp_path: Path,
    handled: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    with processes(1, tmp_path, server.url, LEASE_S, exit_on_sigterm=handled) as (only,), server.client() as client:
        name = f"terminated {handled}"
        journal = Journal(tmp_path / "journal")
        only.use(journal, name, {"max_concurrency": 1, "scope": "cluster"})
        only.answer()
        only.do("call", callers=1, hold_s=-1)
        until(lambda: journal.read().total == 1, "a slot in use")
        assert len(members(client, name)) == 1
        only.signal(signal.SIGTERM)
        only.wait()
        # Without a handler the signal ends a process as kill -9 does: then its lease has to run out.
        assert len(members(client, name)) == (0 if handled else 1)
        journal.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_a_link_of_its_own(four: Processes) -> None:
    with four.sharing("forked", max_concurrency=4, scope="cluster") as journal:
        four.do("call", callers=1, hold_s=0.01)
        four.until_calls(journal, 1)
        parent = four[0].do("tell")
        child = four[0].do("fork")
        assert child["members"] == 5
        assert child["process"] not in four.tell("process")
        four.until_calls(journal, 1)
        assert four[0].do("tell")["process"] == parent["process"]


def test_a_process_has_two_connections_with_one_waiter_and_with_a_thousand(
    server: embedded.EmbeddedRedis, tmp_path: Path
) -> None:
    before = server.connections("sluice")
    sharing = {"max_concurrency": 1, "max_queue": 2000, "scope": "cluster"}
    with processes(2, tmp_path, server.url, LEASE_S) as workers, workers.sharing("connections", **sharing) as journal:
        workers.do("call", callers=1, hold_s=-1)
        workers.until("cluster_in_flight", 1)
        assert sorted(workers.tell("waiting")) == [0, 1]
        assert server.connections("sluice") == before + 4
        workers.do("call", callers=1000, hold_s=-1)
        assert sorted(workers.tell("waiting")) == [1000, 1001]
        workers.until_exchanged()
        assert server.connections("sluice") == before + 4
        assert journal.read().peak == 1


def test_those_who_wait_do_not_poll(new: Processes) -> None:
    with new.sharing("polls", max_concurrency=1, scope="cluster") as journal:
        new[0].do("call", callers=200, hold_s=-1)
        until(lambda: journal.read().total == 1, "the slot in use")
        new[1].do("call", callers=200, hold_s=-1)
        until(lambda: new[1].do("tell")["cluster_in_flight"] == 1, "the second to have joined")
        before = sum(new.tell("exchanges"))
        time.sleep(2)
        asked = sum(new.tell("exchanges")) - before
        report(f"{asked} exchanges of 2 processes with 399 waiters in 2 s")
        # Each process looks a third of a lease later again, for itself and not for its callers.
        assert asked <= 2 * (2 / (LEASE_S / 3) + 2)


def test_a_limit_changed_while_in_use_holds_as_soon_as_the_calls_beyond_it_have_ended(four: Processes) -> None:
    with four.sharing("changed", max_concurrency=8, scope="cluster") as journal:
        four.do("call", callers=5, hold_s=0.02)
        four.until_calls(journal, 3)
        assert journal.read().peak == 8
        four.do("change", max_concurrency=4, scope="cluster")
        until(lambda: journal.read().total <= 4, "four left")
        position = journal.position
        four.until_calls(journal, 5)
        assert journal.read().peak_from(position) <= 4
        four.do("change", max_concurrency=12, scope="cluster")
        until(lambda: journal.read().total == 12, "twelve at once")
        assert journal.read().peak == 12


def test_a_guard_that_leaves_the_cluster_and_comes_back_again_and_again_loses_and_doubles_nothing(
    four: Processes,
) -> None:
    with four.sharing("in and out", max_concurrency=8, scope="cluster") as journal:
        four.do("call", callers=5, hold_s=0.02)
        four.until_calls(journal, 2)
        for _ in range(20):
            four[0].do("change", max_concurrency=1, scope="process")
            four[0].do("change", max_concurrency=8, scope="cluster")
        four.until_calls(journal, 3)
        position = journal.position
        four.until_calls(journal, 5)
        assert journal.read().peak_from(position) == 8
        until(lambda: four[1].do("tell")["cluster_in_flight"] == 8, "all slots in use")
        four.do("stop")
        until(lambda: set(four.tell("cluster_in_flight")) == {0}, "all slots given back")
