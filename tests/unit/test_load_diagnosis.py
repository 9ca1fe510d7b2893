from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from langflow_sluice.load.call import CUT_OFF, Failure
from langflow_sluice.load.causes import Hidden, causes_of
from langflow_sluice.load.comparison import compared
from langflow_sluice.load.diagnosis import find, knee_of
from langflow_sluice.load.results import FlowResult, Latency, Sample, Split, Stage

SLOTS = Failure("error", "FATAL: sorry, too many clients already", 500)
THROTTLED = Failure("error", "Error code: 429 - {'error': {'message': 'Rate limit reached'}}", 500)
ODD = Failure("error", "KeyError: 'no_such_field'", 500)
TIMEOUT = Failure("client_timeout")
NOTHING = Split(None, None, None, None)


def stage(at_once: int, per_s: float, *failures: Failure, requests: int = 20, **more: Any) -> Stage:
    succeeded = requests - len(failures)
    values: dict[str, Any] = {
        "kind": "one at a time" if at_once == 1 else "closed loop",
        "concurrency": at_once,
        "rate_per_s": 0.0,
        "requests": requests,
        "succeeded": succeeded,
        "unsent": 0,
        "seconds": succeeded / per_s if per_s else 10.0,
        "latency": Latency(0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
        "success_latency": Latency(0.4, 0.4, 0.4, 0.4, 0.4, 0.4),
        "causes": causes_of(failures, Hidden(())),
        "split": NOTHING,
        "connections": None,
        "begins_s": at_once * 10.0,
    }
    return Stage(**{**values, **more})


def sample(at_s: float, **more: Any) -> Sample:
    values = dict.fromkeys(("connections", "active", "guard_in_flight", "guard_waiting", "loop_lag_s"))
    return Sample(at_s, 1, **{**values, **more})


def flow(name: str, *stages: Stage) -> FlowResult:
    finding = find(stages, (), 97)
    return FlowResult(name, stages, (), finding.knee, finding.verdict, finding.explanation, finding.dependency)


def test_the_knee_is_the_largest_level_that_grew_by_a_tenth() -> None:
    assert knee_of([stage(1, 2), stage(5, 8), stage(20, 8.5), stage(50, 8.7)]) == 5
    assert knee_of([stage(1, 2), stage(5, 8), stage(20, 9), stage(50, 5)]) == 20
    assert knee_of([stage(1, 2), stage(5, 8), stage(20, 12)]) is None
    assert knee_of([stage(1, 2)]) is None
    assert knee_of([stage(1, 2), stage(5, 1)]) == 1


def test_what_answers_all_calls_at_all_levels_holds() -> None:
    finding = find([stage(1, 2), stage(20, 8)], (), None)
    assert (finding.verdict, finding.dependency) == ("holds", "")
    assert "20 of 20 calls answered" in finding.explanation


def test_what_fails_one_at_a_time_is_a_bug_whatever_it_does_under_load() -> None:
    finding = find([stage(1, 2, ODD), stage(20, 1, *[SLOTS] * 9)], (), None)
    assert finding.verdict == "bug"
    assert "1 of 20 calls, so it is not the load" in finding.explanation


def test_a_bug_of_a_cause_that_load_brings_about_says_so() -> None:
    finding = find([stage(1, 2, *[SLOTS] * 3)], (), None)
    assert (finding.verdict, finding.dependency) == ("bug", "database")
    assert "Other load of the same service" in finding.explanation


def test_calls_that_were_given_up_for_want_of_time_are_no_failures_of_the_flow() -> None:
    assert find([stage(1, 2, CUT_OFF), stage(20, 8, CUT_OFF)], (), None).verdict == "holds"


def test_where_nobody_answers_there_is_no_verdict_on_the_flow() -> None:
    finding = find([stage(1, 0, *[TIMEOUT] * 20)], (), None)
    assert (finding.verdict, finding.dependency) == ("no answer", "langflow")


def test_what_fails_only_under_load_is_a_scaling_problem_of_the_dependency_that_most_errors_name() -> None:
    finding = find([stage(1, 2), stage(5, 6), stage(20, 3, *[SLOTS] * 7, THROTTLED, ODD)], (), 97)
    assert (finding.verdict, finding.dependency, finding.knee) == ("scaling problem", "database", 5)
    for words in ("With 20 at once 9 of 20 calls failed (7 too_many_clients", "7 of 9", "stock PGVector nodes"):
        assert words in finding.explanation


def test_a_database_without_a_connection_left_is_named_even_where_no_error_says_so() -> None:
    loaded = stage(20, 3, *[ODD] * 5, connections=96)
    assert find([stage(1, 2), loaded], (), 97).dependency == "database"
    assert find([stage(1, 2), replace(loaded, causes=causes_of([TIMEOUT] * 5, Hidden(())))], (), 97).dependency == (
        "database"
    )
    assert find([stage(1, 2), replace(loaded, connections=50)], (), 97).dependency == ""


def test_a_full_database_is_not_blamed_for_what_the_provider_says() -> None:
    finding = find([stage(1, 2), stage(20, 3, *[THROTTLED] * 5, connections=96)], (), 97)
    assert finding.dependency == "provider"
    assert "96 of 97 connections" in finding.explanation


def test_a_full_database_is_blamed_where_few_of_the_errors_say_something_else() -> None:
    for few in ((SLOTS, THROTTLED, THROTTLED), (THROTTLED, ODD, ODD)):
        assert find([stage(1, 2), stage(20, 3, *few, connections=96)], (), 97).dependency == "database"


def test_a_blocked_event_loop_is_named_where_calls_get_no_answer() -> None:
    loaded = stage(20, 3, *[TIMEOUT] * 5)
    finding = find([stage(1, 2), loaded], [sample(205.0, loop_lag_s=3.5)], None)
    assert finding.dependency == "langflow"
    assert "3.5 s" in finding.explanation
    earlier = find([stage(1, 2), loaded], [sample(5.0, loop_lag_s=3.5)], None)
    assert "no error says why" in earlier.explanation


def test_throughput_that_falls_to_less_than_half_is_a_collapse() -> None:
    split = Split(0.1, 4.0, 0.1, 0.3)
    finding = find([stage(1, 2), stage(5, 8), stage(20, 3, split=split)], (), None)
    assert (finding.verdict, finding.dependency) == ("scaling problem", "provider")
    assert "collapses to 3 answers a second" in finding.explanation
    assert find([stage(1, 2), stage(5, 8), stage(20, 4.1)], (), None).verdict == "holds"


def test_an_open_loop_that_falls_behind_is_a_scaling_problem() -> None:
    def at(rate: float, seconds: float) -> Stage:
        return stage(7, 1, kind="open loop", rate_per_s=rate, seconds=seconds, begins_s=rate * 100)

    finding = find([stage(1, 2), at(5, 4.2), at(10, 9.0)], (), None)
    assert finding.verdict == "scaling problem"
    assert "At 10 calls a second it falls behind" in finding.explanation
    assert "at 5 calls a second: 20 of 20" in finding.explanation
    assert find([stage(1, 2), at(5, 4.2)], (), None).verdict == "holds"


def test_a_stage_for_which_the_time_did_not_suffice_does_not_hold() -> None:
    ended = stage(50, 0.33, *[CUT_OFF] * 50, requests=90, unsent=10, seconds=120.0)
    finding = find([stage(1, 0.2), stage(20, 0.4), ended], (), None)
    assert (finding.verdict, finding.dependency) == ("not finished", "")
    assert "At most with 20 at once: 20 of 20 calls answered" in finding.explanation
    told = "With 50 at once it did not finish: of 100 calls 40 were answered, 50 given up and 10 not sent. Raise --max-"
    assert told in finding.explanation


@pytest.mark.parametrize(
    ("alone", "loaded", "verdict"),
    [
        (stage(1, 2), stage(20, 8, unsent=1), "not finished"),
        (stage(1, 2), stage(20, 8, CUT_OFF, CUT_OFF), "not finished"),
        (stage(1, 2), stage(20, 8, CUT_OFF), "holds"),
        # A server that is slow at all levels is not brought down by any.
        (stage(1, 2, unsent=3), stage(20, 8), "not finished"),
        (stage(1, 2), stage(7, 1, kind="open loop", rate_per_s=5.0, seconds=4.0, unsent=30), "not finished"),
        # What gives way besides is worse.
        (stage(1, 2), stage(20, 8, ODD, unsent=30), "scaling problem"),
        (stage(1, 2), stage(20, 0.5, CUT_OFF, unsent=30), "scaling problem"),
        (stage(1, 2), stage(20, 0, *[CUT_OFF] * 20, unsent=30), "scaling problem"),
        (stage(1, 2), stage(7, 1, kind="open loop", rate_per_s=5.0, seconds=9.0, unsent=30), "scaling problem"),
        (stage(1, 2, ODD, unsent=5), stage(20, 8), "bug"),
    ],
)
def test_what_is_left_undone_counts_unless_something_else_gives_way(alone: Stage, loaded: Stage, verdict: str) -> None:
    assert find([alone, loaded], (), None).verdict == verdict


def test_a_stage_that_failed_tells_also_what_it_left_undone_and_one_before_it_is_not_called_right() -> None:
    stages = [stage(1, 2), stage(5, 6), stage(10, 6, unsent=4), stage(20, 5, ODD, CUT_OFF, unsent=70)]
    told = find(stages, (), None).explanation
    assert "Still right with 5 at once" in told
    assert "With 10 at once it did not finish: of 24 calls 20 were answered, 4 not sent." in told
    assert "With 20 at once 1 of 20 calls failed (1 unknown), 1 given up and 70 not sent." in told


def test_an_open_loop_has_until_its_last_call_is_due_and_no_longer() -> None:
    def at(seconds: float) -> str:
        # Two calls at one a second: the second is due after 1 s, and one call takes 0.5 s.
        loaded = stage(2, 1, requests=2, kind="open loop", rate_per_s=1.0, seconds=seconds)
        return find([stage(1, 2), loaded], (), None).verdict

    assert (at(1.8), at(2.0)) == ("holds", "scaling problem")


def left_open(*connections: int) -> bool:
    looks = [sample(10.0 + number, connections=each) for number, each in enumerate(connections)]
    # The next stage's are not those of calls made one at a time.
    looks.append(sample(205.0, connections=90))
    told = find([stage(1, 2), stage(20, 8)], looks, 97).explanation
    assert "PGVector" not in told
    left = f"These 20 calls alone left {connections[-1] - connections[0]} more connections to the database open"
    assert (left in told) == ("more connections" in told)
    return left in told


def test_connections_that_outlast_their_calls_are_told_of() -> None:
    assert left_open(2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert not left_open(6, 6, 6, 6)
    # Opened for each call and closed after it.
    assert not left_open(2, 12, 2, 14, 3)
    # A pool that fills and is full.
    assert not left_open(2, 12, 12, 12, 12, 12)
    # Somebody else's, in the end.
    assert not left_open(2, 2, 2, 2, 2, 30)


def test_two_flows_are_set_against_each_other_at_the_highest_level_that_both_had() -> None:
    safe = flow("safe", stage(1, 2), stage(5, 6, connections=9), stage(20, 8))
    unsafe = flow("unsafe", stage(1, 2), stage(5, 3, *[SLOTS] * 8, connections=96))
    text = compared(safe, unsafe)
    assert text.startswith("safe holds; unsafe: scaling problem in the database. With 5 at once: safe 20 of 20")
    assert "unsafe 12 of 20 calls answered" in text
    assert "at most: 9 with safe, 96 with unsafe." in text
    assert compared(safe, safe).startswith("Of both the verdict is the same: holds.")
    assert compared(unsafe, unsafe).startswith("Of both the verdict is the same: scaling problem (database).")


def test_how_long_calls_took_is_told_of_those_that_were_answered() -> None:
    slow = {"latency": Latency(9.0, 9.0, 9.0, 9.0, 9.0, 9.0)}
    safe, unsafe = flow("safe", stage(1, 2), stage(5, 6)), flow("unsafe", stage(1, 2), stage(5, 3, SLOTS, **slow))
    text = compared(safe, unsafe)
    assert "unsafe 19 of 20 calls answered, 3 a second, p95 of these 0.4 s" in text
    none = flow("none", stage(1, 2), stage(5, 0, *[SLOTS] * 20, **slow))
    assert "none 0 of 20 calls answered." in compared(safe, none)


@pytest.mark.parametrize("failures", [(), (SLOTS,), (TIMEOUT,) * 20, (ODD,) * 20, (CUT_OFF,) * 20])
def test_any_outcome_has_a_verdict_and_sentences(failures: tuple[Failure, ...]) -> None:
    for stages in ([stage(1, 2, *failures)], [stage(1, 2), stage(5, 2, *failures)]):
        finding = find(stages, (), None)
        assert finding.verdict in {"holds", "scaling problem", "bug", "no answer"}
        assert finding.explanation.endswith(".")
