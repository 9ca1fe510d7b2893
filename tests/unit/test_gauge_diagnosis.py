"""The written diagnosis: which dependency, what is seen of it, which setting to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from langflow_sluice.gauge.diagnosis import diagnose
from langflow_sluice.gauge.pressure import Pressure, Severity

from .gauge_readings import LABEL, client, database, group, guard, pool, process, reading, session, times

if TYPE_CHECKING:
    from langflow_sluice.gauge.database import DatabaseFigures
    from langflow_sluice.gauge.sessions import SessionGroup


def found(*parts, database: DatabaseFigures | None = None, **more) -> list[Pressure]:
    return diagnose(reading(process(*parts, **more), database=database))


def the_one(*parts, database: DatabaseFigures | None = None, **more) -> Pressure:
    [only] = found(*parts, database=database, **more)
    return only


def test_nothing_is_said_where_nothing_waits() -> None:
    calm = database(group(5, "idle"), group(1))
    assert found(guard(in_flight=8), pool(checked_out=10), client(), database=calm) == []


class TestGuards:
    def test_a_full_guard_whose_provider_refuses_nothing_may_have_more(self) -> None:
        told = the_one(guard(in_flight=8, waiting=37, wait=times(*[4.0] * 20)))
        assert "37 waiting, limit 8 busy, p95 wait 5 s" in told.observed
        assert told.change == "Raise max_concurrency: the provider has not refused anything"
        assert told.severity is Severity.PRESSURE

    def test_limits_count_for_each_worker(self) -> None:
        both = [process(guard(in_flight=8, waiting=2)), process(guard(in_flight=8), worker="host:2")]
        [told] = diagnose(reading(*both))
        assert "limit 16 busy" in told.observed
        assert "in each of 2 workers" in told.change

    def test_limits_of_a_cluster_count_once(self) -> None:
        parts = {"in_flight": 4, "limit": 4, "max_concurrency": 4, "waiting": 2, "standing": "cluster"}
        [told] = diagnose(reading(process(guard(**parts)), process(guard(**parts), worker="host:2")))
        assert "limit 8 busy" in told.observed
        assert told.change == "Raise max_concurrency: the provider has not refused anything"

    def test_a_full_worker_is_full_though_another_has_room(self) -> None:
        full = process(guard(in_flight=4, limit=4, max_concurrency=4, waiting=10))
        idle = process(guard(limit=4, max_concurrency=4, requests_per_minute=60.0), worker="host:2")
        [told] = diagnose(reading(full, idle))
        assert "10 waiting, full in 1 of 2 workers, 4 of 8 in flight in all" in told.observed
        assert "rate" not in told.observed
        assert told.change.startswith("Raise max_concurrency in each of 2 workers")
        assert "scope to cluster" in told.change

    def test_a_full_worker_in_which_nobody_waits_does_not_explain_who_waits_elsewhere(self) -> None:
        full = process(guard(in_flight=8, requests_per_minute=60.0))
        held = process(guard(in_flight=1, waiting=5, requests_per_minute=60.0), worker="host:2")
        [told] = diagnose(reading(full, held))
        assert "9 of 16 in flight" in told.observed
        assert "the rate holds them" in told.observed
        assert "requests_per_minute 120" in told.observed

    def test_most_of_those_who_wait_decide_what_to_change(self) -> None:
        full = process(guard(in_flight=8, waiting=1, requests_per_minute=60.0))
        held = process(guard(in_flight=1, waiting=5, requests_per_minute=60.0), worker="host:2")
        assert "Raise requests_per_minute" in diagnose(reading(full, held))[0].change

    def test_a_full_guard_of_one_user_is_full_though_another_user_has_room(self) -> None:
        told = the_one(guard(in_flight=8, waiting=3), guard())
        assert "full where they wait, 8 of 16 in flight in all" in told.observed
        assert told.change.startswith("Raise max_concurrency:")

    def test_a_cluster_is_full_when_all_its_slots_are_in_use_wherever(self) -> None:
        parts = {"limit": 2, "max_concurrency": 2, "standing": "cluster"}
        uneven = [process(guard(in_flight=4, **parts)), process(guard(waiting=6, **parts), worker="host:2")]
        [told] = diagnose(reading(*uneven))
        assert "6 waiting, limit 4 busy" in told.observed
        room = [process(guard(in_flight=2, waiting=6, **parts)), process(guard(**parts), worker="host:2")]
        [told] = diagnose(reading(*room))
        assert "full" not in told.observed
        assert told.severity is Severity.NOTE

    def test_a_cluster_of_more_workers_than_slots_is_limited_all_the_same(self) -> None:
        parts = [
            process(
                guard(in_flight=part, limit=part, max_concurrency=part, waiting=1, standing="cluster"),
                worker=f"host:{worker}",
            )
            for worker, part in enumerate((1, 1, 0))
        ]
        [told] = diagnose(reading(*parts))
        assert "3 waiting, limit 2 busy" in told.observed

    def test_a_worker_that_holds_its_part_alone_is_full_by_itself(self) -> None:
        alone = guard(in_flight=4, limit=4, max_concurrency=4, waiting=3, standing="local_share")
        idle = guard(limit=4, max_concurrency=4, standing="local_share")
        told = diagnose(reading(process(alone), process(idle, worker="host:2")))
        assert "full in 1 of 2 workers" in told[1].observed

    @pytest.mark.parametrize(
        ("figures", "seen", "severity"),
        [
            ({}, "no limit holds them at this moment", Severity.NOTE),
            ({"tokens_per_minute": 5000.0}, "tokens_per_minute 5000", Severity.PRESSURE),
            ({"breaker": "half_open"}, "the breaker holds them", Severity.PRESSURE),
            ({"standing": "unreached"}, "Redis holds them", Severity.PRESSURE),
        ],
    )
    def test_a_rate_holds_nobody_where_none_is_set(
        self, figures: dict[str, object], seen: str, severity: Severity
    ) -> None:
        [told] = [each for each in found(guard(in_flight=2, waiting=5, **figures)) if "2 of 8" in each.observed]
        assert seen in told.observed
        assert told.severity is severity
        assert ("rate holds" in told.observed) == ("tokens_per_minute" in figures)

    @pytest.mark.parametrize(
        ("standing", "seen"),
        [("unreached", "calls wait"), ("cut_off", "are turned away"), ("local_share", "holds its part")],
    )
    def test_a_redis_that_is_away_for_one_worker_is_said(self, standing: str, seen: str) -> None:
        both = [process(guard(standing="cluster")), process(guard(standing=standing), worker="host:2")]
        [told] = diagnose(reading(*both))
        assert told.severity is Severity.FAILING
        assert seen in told.observed
        assert "SLUICE_REDIS_URL" in told.change

    @pytest.mark.parametrize(
        ("figures", "seen", "advice"),
        [
            ({"retries": 9}, "9 attempts had to be repeated", "Do not raise max_concurrency"),
            ({"paused_s": 7.0}, "left alone for another 7 s", "set requests_per_minute and tokens_per_minute"),
            ({"limit": 3, "in_flight": 3}, "adaptive limit is down to 3 of 8", "Leave max_concurrency"),
            ({"in_flight": 2, "requests_per_minute": 60.0}, "the rate holds them", "Raise requests_per_minute"),
        ],
    )
    def test_a_provider_at_its_limit_is_not_asked_for_more(
        self, figures: dict[str, float], seen: str, advice: str
    ) -> None:
        told = the_one(guard(waiting=5, **{"in_flight": 8, **figures}))
        assert seen in told.observed
        assert told.change.startswith(advice) or advice in told.change
        assert not told.change.startswith("Raise max_concurrency")

    def test_callers_who_are_turned_away_make_it_worse(self) -> None:
        told = the_one(guard(in_flight=8, waiting=5, away={"timeout": 3}))
        assert told.severity is Severity.FAILING
        assert "3 by queue_timeout" in told.observed

    def test_what_is_over_is_a_note(self) -> None:
        for over in (guard(away={"full": 2}), guard(limit=4), guard(paused_s=3.0)):
            assert the_one(over).severity is Severity.NOTE

    def test_an_open_breaker_names_the_service_and_no_limit(self) -> None:
        told = the_one(guard(breaker="open", away={"open": 12}))
        assert told.severity is Severity.FAILING
        assert "breaker open" in told.observed
        assert "12 calls" in told.observed
        assert "Look at the service itself" in told.change

    def test_half_open_is_said_to_be_tried_again(self) -> None:
        assert "tried again" in the_one(guard(breaker="half_open")).observed

    def test_a_databases_guard_is_raised_with_its_pool(self) -> None:
        told = found(guard(f"{LABEL} (abc)", in_flight=8, waiting=5), pool())[0]
        assert "together with pool_size" in told.change


class TestPools:
    def test_a_full_pool_before_a_server_with_room_is_too_small(self) -> None:
        told = the_one(pool(checked_out=10, waiting=12), database=database(group(36)))
        assert told.observed == "all 10 lent and 12 waiting; the server has 61 free connections of 97"
        assert told.change == "Raise pool_size or max_overflow"

    def test_a_full_pool_before_a_full_server_stays_as_it_is(self) -> None:
        told = found(pool(checked_out=10, waiting=12), database=database(group(97)))
        [pools] = [each for each in told if each.where.startswith("Connection pool")]
        assert pools.change.startswith("Do not raise the pool")

    def test_without_a_look_at_the_server_it_says_on_what_it_depends(self) -> None:
        assert "if the server has connections to spare" in the_one(pool(checked_out=10, waiting=1)).change

    def test_of_another_database_nothing_is_claimed(self) -> None:
        told = the_one(pool("elsewhere:5432/x", checked_out=10, waiting=1), database=database(group(36)))
        assert "free" not in told.observed

    def test_behind_a_pooler_the_servers_room_is_not_the_clients(self) -> None:
        told = the_one(pool(checked_out=10, waiting=1), database=database(group(3), through_pooler=True))
        assert "free" not in told.observed
        assert "default_pool_size" in told.change

    def test_a_pool_with_room_in_which_somebody_waits_is_held_by_the_operator(self) -> None:
        assert "SLUICE_MAX_DB_CONNECTIONS" in the_one(pool(checked_out=4, waiting=2)).change

    def test_a_full_pool_is_full_though_another_worker_has_room(self) -> None:
        full = process(pool(capacity=4, checked_out=4, waiting=10))
        idle = process(pool(capacity=4), worker="host:2")
        [told] = diagnose(reading(full, idle, database=database(group(36))))
        assert told.observed.startswith("all lent in 1 of 2 workers, 4 of 8 lent in all, and 10 waiting")
        assert "61 free connections" in told.observed
        assert told.change == "Raise pool_size or max_overflow (they count for each of 2 workers)"

    def test_callers_who_got_none_are_told_of(self) -> None:
        assert the_one(pool(checked_out=10, waiting=1, turned_away=2)).severity is Severity.FAILING
        assert the_one(pool(turned_away=2)).severity is Severity.NOTE


class TestClients:
    def test_requests_that_queue_for_connections_belong_into_the_guards_queue(self) -> None:
        told = the_one(client(in_use=100, limit=100, waiting=7))
        assert "7 requests wait" in told.observed
        assert "max_concurrency" in told.change

    def test_one_connection_that_is_just_being_opened_is_nothing(self) -> None:
        assert found(client(in_use=3, waiting=1)) == []
        four = [process(client(in_use=0, waiting=1), worker=f"host:{number}") for number in range(4)]
        assert diagnose(reading(*four)) == []

    def test_full_connections_are_full_though_another_worker_has_room(self) -> None:
        full = process(client(in_use=5, limit=5, waiting=4))
        [told] = diagnose(reading(full, process(client(in_use=0, limit=5), worker="host:2")))
        assert told.change.startswith("Lower max_concurrency")


class TestLoops:
    def test_a_loop_that_does_not_come_round_is_blocked_by_sync_code(self) -> None:
        told = the_one(lag_s=0.8)
        assert "800 ms" in told.observed
        assert "synchronous code" in told.observed
        assert told.severity is Severity.PRESSURE
        assert the_one(lag_s=3.0).severity is Severity.FAILING


class TestDatabases:
    def test_a_full_server_names_whose_idle_connections_fill_it(self) -> None:
        told = the_one(database=database(group(60, "idle", "psycopg2"), group(37)))
        assert told.severity is Severity.FAILING
        assert "97 of 97 connections used" in told.observed
        assert "60 idle from application `psycopg2`" in told.observed
        assert "LANGFLOW_DB_CONNECTION_SETTINGS" in told.change

    def test_where_they_are_our_own_the_setting_is_ours(self) -> None:
        told = the_one(database=database(group(90, "idle", "sluice")))
        assert told.severity is Severity.PRESSURE
        assert told.change.startswith("Lower pool_size")

    @pytest.mark.parametrize("limit", ["user_limit", "database_limit"])
    def test_a_limit_of_the_role_or_the_database_counts(self, limit: str) -> None:
        told = the_one(database=database(group(5), **{limit: 5}))
        assert "leaves 0" in told.observed

    def test_idle_transactions_that_block_others_are_named_with_both_settings(self) -> None:
        idle = [session(pid, "idle in transaction", 90.0 - pid) for pid in (1, 2, 3)]
        waiting = [session(pid, "active", 5.0, 1) for pid in range(10, 15)]
        told = found(database=database(group(8), *idle, *waiting))
        assert [each.severity for each in told] == [Severity.FAILING, Severity.FAILING]
        assert "5 sessions wait for locks" in told[0].observed
        assert "held by process 1, idle in transaction" in told[0].observed
        assert "3 idle in transaction for more than 60 s block 5 sessions" in told[1].observed
        assert "idle_in_transaction_session_timeout" in told[1].change

    def test_a_queue_for_one_lock_is_one_finding_by_who_holds_it(self) -> None:
        queue = [session(2, "active", 9.0, 1), session(3, "active", 8.0, 2), session(4, "active", 7.0, 3, 1)]
        told = the_one(database=database(group(4), session(1, "active", 9.5), *queue))
        assert "3 sessions wait" in told.observed
        assert "process 1" in told.observed
        assert "pg_cancel_backend(1)" in told.change

    def test_two_that_wait_for_each_other_do_not_hold_up_the_gauge(self) -> None:
        told = found(database=database(group(2), session(1, "active", 1.0, 2), session(2, "active", 1.0, 1)))
        assert sum(each.affected for each in told) == 2

    def test_a_transaction_that_is_idle_for_a_moment_is_nothing(self) -> None:
        assert found(database=database(group(3), session(1, "idle in transaction", 59.0))) == []

    def test_a_long_query_is_shown_by_its_command_and_number(self) -> None:
        told = the_one(database=database(group(3), session(7, "active", 75.0, command="SELECT", query_id="42")))
        assert "1 query running for more than 10 s" in told.observed
        assert "(SELECT)" in told.observed
        assert "query_id 42" in told.observed

    def test_deadlocks_are_a_note(self) -> None:
        told = the_one(database=database(group(1), deadlocks=2, deadlocks_since="2026-01-01 00:00"))
        assert told.severity is Severity.NOTE
        assert told.observed == "2 deadlocks since 2026-01-01 00:00"

    def test_a_server_that_does_not_answer_comes_first(self) -> None:
        away = database(problem="It is not available.", fix="Start it.")
        told = found(guard(breaker="open", away={"open": 10**6}), database=away)
        assert told[0].observed == "It is not available"
        assert told[0].change == "Start it"


def test_the_worst_stands_first() -> None:
    groups: list[SessionGroup] = [group(97)]
    told = found(
        guard("quiet", away={"full": 5000}),
        guard("busy", in_flight=8, waiting=2),
        guard("busier", in_flight=8, waiting=20),
        database=database(*groups),
    )
    assert [each.severity for each in told] == sorted((each.severity for each in told), reverse=True)
    assert told[0].where.startswith("PostgreSQL")
    assert [each.where for each in told[1:]] == ["Guard `busier`", "Guard `busy`", "Guard `quiet`"]
