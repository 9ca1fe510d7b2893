"""One guard in four processes while Redis is away, slow or forgetful: what its setting promises, and never more.

Calls are counted by their own journal. Where processes go on alone, calls are shorter than a lease, as promised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from langflow_sluice.cluster import exchange
from langflow_sluice.embedded import redis as embedded
from langflow_sluice.errors import SluiceError
from langflow_sluice.testing import Relay

from .cluster_processes import Journal, Processes, processes, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CAP = 16
LEASE_S = 1.0
LOSSES = ("fail_closed", "local_share")

pytestmark = pytest.mark.skipif(embedded.program() is None, reason=embedded.MISSING)


@pytest.fixture(scope="module")
def server() -> Iterator[embedded.EmbeddedRedis]:
    with embedded.EmbeddedRedis(password="of these tests") as server:
        yield server


@pytest.fixture(autouse=True)
def _as_found(server: embedded.EmbeddedRedis, relay: Relay) -> Iterator[None]:
    """Each test finds a server that runs, also after one that failed."""
    yield
    relay.delay_s = 0.0
    relay.release()
    server.resume()
    try:
        server.pid  # noqa: B018 - raises where it does not run
    except SluiceError:
        server.start()


@pytest.fixture(scope="module")
def relay(server: embedded.EmbeddedRedis) -> Iterator[Relay]:
    with Relay(server.port) as relay:
        yield relay


@pytest.fixture(scope="module")
def four(server: embedded.EmbeddedRedis, relay: Relay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with processes(4, tmp_path_factory.mktemp("four"), relay.through(server.url), LEASE_S) as workers:
        yield workers


def calling(four: Processes, journal: Journal, hold_s: float = 0.1) -> None:
    """Ten callers in each process; returns when each process has been one of four for longer than its lease."""
    four.do("call", callers=10, hold_s=hold_s, jitter=0.2)
    four.until("members", 4)
    four.until_calls(journal, round(2 * LEASE_S * CAP / hold_s / 4))


def turned_away(four: Processes, journal: Journal) -> None:
    """Returns when callers of all processes are turned away, and those under way have ended."""
    four.until("mode", "cut_off")
    before = journal.read().refusals
    until(lambda: all(journal.read().refusals[each.number] > before[each.number] for each in four), "refusals")
    until(lambda: not journal.read().total, "the end of the calls under way")
    assert all(set(refusals) == {"cluster_unavailable"} for refusals in four.tell("refusals"))


def alone(four: Processes, journal: Journal) -> None:
    """Returns when all processes have made calls with their part of the limit, and no others are under way."""
    four.until("mode", "local_share")
    four.until_calls(journal, 8)
    position = journal.position
    four.until_calls(journal, 8)
    told = journal.read()
    assert told.peak_from(position) == CAP
    assert {told.peak_of(each.number, position) for each in four} == {CAP // 4}


AWAY: dict[str, Callable[[Processes, Journal], None]] = {"fail_closed": turned_away, "local_share": alone}


def back(four: Processes, journal: Journal) -> None:
    """Returns when all share all of the limit again."""
    four.until("mode", "cluster")
    four.until("members", 4)
    four.until_calls(journal, 20)
    position = journal.position
    four.until_calls(journal, 10)
    assert journal.read().peak_from(position) == CAP


@pytest.mark.parametrize("loss", ["fail_closed", pytest.param("local_share", marks=pytest.mark.slow)])
def test_redis_that_ends_and_comes_back_empty(four: Processes, server: embedded.EmbeddedRedis, loss: str) -> None:
    with four.sharing(f"stopped {loss}", max_concurrency=CAP, scope="cluster", redis_loss=loss) as journal:
        calling(four, journal, 0.3 if loss == "local_share" else 0.1)
        server.stop()
        AWAY[loss](four, journal)
        server.start()
        back(four, journal)
        assert journal.read().peak == CAP
        assert set(four.tell("outages")) == {1}
        assert set(four.tell("restarts")) == {1}
        assert set(four.tell("leases_lost")) == {0}


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_redis_that_hangs_and_goes_on(four: Processes, server: embedded.EmbeddedRedis, loss: str) -> None:
    with four.sharing(f"paused {loss}", max_concurrency=CAP, scope="cluster", redis_loss=loss) as journal:
        calling(four, journal, 0.3 if loss == "local_share" else 0.1)
        server.pause()
        AWAY[loss](four, journal)
        server.resume()
        back(four, journal)
        assert journal.read().peak == CAP
        assert set(four.tell("outages")) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_calls_that_outlast_a_restart_of_redis_are_not_doubled(
    four: Processes, server: embedded.EmbeddedRedis, loss: str
) -> None:
    with four.sharing(f"outlasted {loss}", max_concurrency=CAP, scope="cluster", redis_loss=loss) as journal:
        calling(four, journal, 0.4)
        for _ in range(3):
            server.restart()
            four.until_calls(journal, 6)
        assert journal.read().peak == CAP
        assert set(four.tell("restarts")) == {3}
        assert not any(four.tell("refusals"))


@pytest.mark.slow
def test_a_slow_way_to_redis_slows_callers_down_and_does_nothing_else(four: Processes, relay: Relay) -> None:
    with four.sharing("slow", max_concurrency=CAP, scope="cluster") as journal:
        calling(four, journal, 0.05)
        before = four.tell("outages")
        relay.delay_s = 0.3
        try:
            four.until_calls(journal, 8)
        finally:
            relay.delay_s = 0.0
        back(four, journal)
        assert journal.read().peak == CAP
        assert not any(four.tell("refusals"))
        assert (four.tell("outages"), four.tell("leases_lost")) == (before, [0] * 4)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_connections_cut_again_and_again(four: Processes, relay: Relay, loss: str) -> None:
    with four.sharing(f"cut {loss}", max_concurrency=CAP, scope="cluster", redis_loss=loss) as journal:
        calling(four, journal, 0.05)
        for _ in range(20):
            relay.cut()
            four.until_calls(journal, 5)
        back(four, journal)
        assert journal.read().peak == CAP
        assert not any(four.tell("refusals"))
        assert all(1 <= outages <= 20 for outages in four.tell("outages"))


@pytest.mark.slow
def test_a_network_that_is_gone_without_a_word(four: Processes, relay: Relay) -> None:
    with four.sharing("silent", max_concurrency=CAP, scope="cluster", redis_loss="fail_closed") as journal:
        calling(four, journal, 0.05)
        relay.hold()
        try:
            turned_away(four, journal)
        finally:
            relay.release()
        back(four, journal)
        assert journal.read().peak == CAP


@pytest.mark.slow
def test_all_data_removed_under_load(four: Processes, server: embedded.EmbeddedRedis) -> None:
    with four.sharing("flushed", max_concurrency=CAP, scope="cluster") as journal, server.client() as client:
        calling(four, journal, 0.3)
        client.flushall()
        four.until("restarts", 1)
        back(four, journal)
        assert journal.read().peak == CAP
        assert set(four.tell("outages")) == set(four.tell("leases_lost")) == {0}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(exchange.NUMBER_OF_KEYS))
def test_a_key_that_is_evicted_under_load(four: Processes, server: embedded.EmbeddedRedis, part: int) -> None:
    name = f"evicted {part}"
    with four.sharing(name, max_concurrency=CAP, scope="cluster") as journal, server.client() as client:
        calling(four, journal, 0.1)
        client.delete(exchange.keys("sluice", exchange.digest(name))[part])
        four.until_calls(journal, 20)
        back(four, journal)
        assert journal.read().peak == CAP


def test_scripts_that_are_flushed_are_loaded_again_and_nobody_notices(
    four: Processes, server: embedded.EmbeddedRedis
) -> None:
    with four.sharing("forgotten", max_concurrency=CAP, scope="cluster") as journal, server.client() as client:
        calling(four, journal, 0.05)
        for _ in range(3):
            client.script_flush()
            four.until_calls(journal, 5)
        assert journal.read().peak == CAP
        assert set(four.tell("outages")) == {0}


@pytest.mark.slow
def test_a_server_that_became_a_replica_is_told_by_its_own_word(
    four: Processes, server: embedded.EmbeddedRedis
) -> None:
    with four.sharing("replica", max_concurrency=CAP, scope="cluster") as journal, server.client() as client:
        calling(four, journal, 0.05)
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        turned_away(four, journal)
        assert set(four.tell("reason")) == {"it answers READONLY"}
        client.execute_command("REPLICAOF", "NO", "ONE")
        back(four, journal)
        assert journal.read().peak == CAP


@pytest.mark.slow
def test_a_server_without_memory_for_more_is_told_by_its_own_word(
    four: Processes, server: embedded.EmbeddedRedis
) -> None:
    with four.sharing("memory", max_concurrency=CAP, scope="cluster") as journal, server.client() as client:
        calling(four, journal, 0.05)
        try:
            client.config_set("maxmemory", 1)
            # A script that begins by removing something is carried out all the same: so one or the other gets through.
            until(lambda: set(four.tell("reason")) == {"it answers OOM"}, "Redis to refuse")
        finally:
            client.config_set("maxmemory", "64mb")
        back(four, journal)
        assert journal.read().peak == CAP


@pytest.mark.slow
def test_a_password_that_is_changed_cuts_off_until_it_is_right_again(
    four: Processes, server: embedded.EmbeddedRedis, relay: Relay
) -> None:
    with four.sharing("password", max_concurrency=CAP, scope="cluster") as journal, server.client() as client:
        calling(four, journal, 0.05)
        try:
            client.config_set("requirepass", "another one")
            relay.cut()
            turned_away(four, journal)
            assert set(four.tell("reason")) == {"it refuses the login"}
        finally:
            client.config_set("requirepass", "of these tests")
        back(four, journal)
        assert journal.read().peak == CAP
        assert not any("of these tests" in worker.log for worker in four)


@pytest.mark.slow
def test_a_worker_that_alone_loses_redis_turns_callers_away_and_the_others_have_its_slots(
    server: embedded.EmbeddedRedis, tmp_path: Path
) -> None:
    with (
        Relay(server.port) as relay,
        processes(1, tmp_path, relay.through(server.url), LEASE_S) as (cut_off,),
        processes(1, tmp_path, server.url, LEASE_S, first=1) as (other,),
    ):
        both = Processes([cut_off, other], tmp_path)
        with both.sharing("one of two", max_concurrency=4, scope="cluster") as journal:
            both.do("call", callers=4, hold_s=0.1)
            both.until("members", 2)
            both.until_calls(journal, 4)
            relay.hold()
            until(lambda: cut_off.do("tell")["mode"] == "cut_off", "the one cut off")
            until(lambda: journal.read().in_flight == {1: 4}, "all slots for the other")
            relay.release()
            until(lambda: cut_off.do("tell")["mode"] == "cluster", "the way back")
            both.until_calls(journal, 4)
            assert journal.read().peak == 4
            assert cut_off.do("tell")["leases_lost"] == 1
