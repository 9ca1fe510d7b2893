from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from langflow_sluice.errors import InvalidInput
from langflow_sluice.load.plan import Asked, StagePlan, asked, stages_of
from langflow_sluice.load.target import _name, checked_address

if TYPE_CHECKING:
    from pathlib import Path

    from langflow_sluice.load.plan import Arrival


def test_one_call_at_a_time_comes_first_and_short_where_it_was_not_asked_for() -> None:
    asked_for = stages_of("1,5", None, requests=40, max_in_flight=9)
    added = stages_of("5,20", None, requests=40, max_in_flight=9)
    assert [(plan.kind, plan.concurrency, plan.requests) for plan in asked_for] == [
        ("one at a time", 1, 40),
        ("closed loop", 5, 40),
    ]
    assert [(plan.kind, plan.concurrency, plan.requests) for plan in added] == [
        ("one at a time", 1, 10),
        ("closed loop", 5, 40),
        ("closed loop", 20, 40),
    ]


def test_an_open_loop_has_its_calls_due_at_their_rate_and_the_same_each_time() -> None:
    alone, even = stages_of(None, "4", requests=5, max_in_flight=9, arrival="even")
    _, poisson = stages_of(None, "50", requests=2000, max_in_flight=9)
    assert alone.due_s() is None
    assert even.due_s() == [0.0, 0.25, 0.5, 0.75, 1.0]
    due = poisson.due_s()
    assert due is not None
    assert due == sorted(due) == poisson.due_s()
    # Of Poisson's gaps as many as 1 - 1/e are below the mean.
    assert sum(b - a < 1 / 50 for a, b in pairwise(due)) / 2000 == pytest.approx(0.632, abs=0.05)


@pytest.mark.parametrize("requests", [1, 2, 5, 100, 2000])
@pytest.mark.parametrize("arrival", ["poisson", "even"])
def test_so_many_calls_are_due_in_a_second_as_were_asked_for_however_few_they_are(
    requests: int, arrival: Arrival
) -> None:
    due = StagePlan("open loop", 9, requests, 50.0, arrival).due_s()
    assert due is not None
    assert (len(due), due[0]) == (requests, 0.0)
    assert due[-1] == pytest.approx((requests - 1) / 50)


@pytest.mark.parametrize(
    ("concurrency", "rate", "requests", "named"),
    [
        ("1,five", None, 100, "concurrency is '1,five': 'five' is not a whole number"),
        ("1.5", None, 100, "'1.5' is not a whole number"),
        ("", None, 100, "concurrency"),
        ("0,5", None, 100, "0 is out of range"),
        ("-1", None, 100, "-1 is out of range"),
        ("5,5", None, 100, "must lie above"),
        ("20,5", None, 100, "must lie above"),
        ("5000", None, 100, "out of range"),
        ("1,50", None, 20, "requests is 20: 50 calls at once need as many"),
        ("5", "3", 100, "rate is '3': --concurrency is given as well"),
        (None, "fast", 100, "rate is 'fast'"),
        (None, "nan", 100, "nan is out of range"),
        (None, "inf", 100, "inf is out of range"),
        (None, "0", 100, "0 is out of range"),
        ("1", None, 0, "requests is 0"),
    ],
)
def test_levels_that_are_none_are_named(concurrency: str | None, rate: str | None, requests: int, named: str) -> None:
    with pytest.raises(InvalidInput) as told:
        stages_of(concurrency, rate, requests=requests, max_in_flight=10)
    assert named in str(told.value)
    assert told.value.hint


def test_what_is_asked_comes_from_a_text_or_from_a_files_lines(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("one\n\n  two \n")
    assert asked("alone", None, None).inputs == ("alone",)
    assert asked(None, lines, None).inputs == ("one", "two")
    assert "alone" not in repr(Asked(("alone",), {"a": "key"}))


def test_files_that_cannot_be_used_are_named_without_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "list.json").write_text('["sk-canary-key"]')
    (tmp_path / "broken.json").write_text('{"api_key": "sk-canary-key"')
    cases = (
        (None, tmp_path / "empty.txt", None, "there is nothing in it"),
        (None, tmp_path / "missing.txt", None, "cannot be read"),
        ("text", tmp_path / "empty.txt", None, "--input is given as well"),
        (None, None, tmp_path / "list.json", "no JSON object"),
        (None, None, tmp_path / "broken.json", "it is no JSON"),
    )
    for text, inputs, tweaks, problem in cases:
        with pytest.raises(InvalidInput) as told:
            asked(text, inputs, tweaks)
        assert problem in str(told.value)
        assert "canary" not in str(told.value)


@pytest.mark.parametrize("url", ["http://localhost:7860", "http://127.0.0.2:1", "http://[::1]:7860", "http://127.1"])
def test_this_machine_may_be_loaded(url: str) -> None:
    assert checked_address(url, allow_remote=False).is_local


@pytest.mark.parametrize("url", ["http://192.0.2.1:7860", "http://no-such-host.invalid", "http://[2001:db8::1]"])
def test_another_machine_is_refused_unless_it_is_allowed(url: str) -> None:
    with pytest.raises(InvalidInput) as told:
        checked_address(f"{url}/?key=canary", allow_remote=False)
    assert url in str(told.value)
    assert "--allow-remote" in str(told.value)
    assert "canary" not in str(told.value)
    assert not checked_address(url, allow_remote=True).is_local


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:7860", "ftp://localhost", "http://", "http://h:x", "localhost:7860/?key=canary"),
        *("http://u:canary@localhost", "u:canary@localhost:7860", "//u:canary@localhost", "u:canary@localhost"),
        *("http://u:/canary@localhost", "http://u/canary@localhost", "http:///u:canary@localhost"),
    ],
)
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as told:
        checked_address(url, allow_remote=True)
    assert "canary" not in str(told.value)


def test_a_flows_name_cannot_steer_a_terminal() -> None:
    assert _name({"id": "1", "name": "rag\x1b[2J\x1b]0;owned\x07 of\nours\u202e\ud800 港"}) == "rag of ours? 港"
