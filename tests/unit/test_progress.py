"""How far long work has come, said now and then."""

import pytest

from langflow_sluice.sections.fan_out import Outcome
from langflow_sluice.sections.progress import Progress
from langflow_sluice.testing import ManualClock

DONE = Outcome(0, 1, None, 1)
FAILED = Outcome(0, None, "ValueError", 1)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def said():
    return []


def test_a_thousand_rows_in_a_moment_say_nothing_on_the_way(clock, said):
    progress = Progress(1000, clock, said.append)
    for _ in range(1000):
        progress.count(DONE)
    assert said == []
    assert (progress.done, progress.failed) == (1000, 0)


def test_it_speaks_at_most_once_a_second(clock, said):
    progress = Progress(1000, clock, said.append)
    for _ in range(100):
        clock.step(0.1)
        progress.count(DONE)
    assert len(said) == 9 or len(said) == 10


def test_a_line_tells_count_failures_rate_and_time_left(clock, said):
    progress = Progress(40, clock, said.append)
    clock.step(2)
    progress.count(FAILED)
    for _ in range(9):
        progress.count(DONE)
    assert said == ["1 of 40 rows, 1 failed, 0.5 rows/s, about 78 s left"]
    assert progress.line() == "10 of 40 rows, 1 failed, 5 rows/s, about 6 s left"


def test_the_last_line_tells_how_long_it_took(clock, said):
    progress = Progress(2, clock, said.append)
    clock.step(4)
    progress.count(DONE)
    progress.count(DONE)
    assert progress.line() == "2 of 2 rows, 0.5 rows/s, in 4.00 s"
    assert len(said) == 1


def test_no_rows_in_no_time_divide_by_nothing(clock, said):
    assert Progress(0, clock, said.append).line() == "0 of 0 rows, in 0.00 s"
    assert Progress(3, clock, said.append).line() == "0 of 3 rows"


def test_in_long_work_it_speaks_less_and_less(clock, said):
    progress = Progress(36000, clock, said.append)
    for _ in range(3600):
        clock.step(1)
        progress.count(DONE)
    assert 150 < len(said) < 250
    assert progress.line() == "3600 of 36000 rows, 1 rows/s, about 9 h 0 min left"


def test_it_speaks_while_nothing_finishes(clock, said):
    progress = Progress(3, clock, said.append, "calls")
    clock.step(0.9)
    progress.tick()
    clock.step(0.1)
    progress.tick()
    progress.tick()
    assert said == ["0 of 3 calls"]


def test_work_may_finish_many_at_a_time(clock, said):
    progress = Progress(100, clock, said.append)
    clock.step(2)
    progress.add(50, failed=2)
    assert said == ["50 of 100 rows, 2 failed, 25 rows/s, about 2 s left"]


def test_the_bar_shows_what_is_done_what_failed_and_what_is_left(clock, said):
    progress = Progress(240, clock, said.append)
    assert progress.bar() == "░" * 24
    progress.add(120, failed=1)
    assert progress.bar() == "█" * 11 + "▒" + "░" * 12
    progress.add(120, failed=119)
    assert progress.bar() == "█" * 12 + "▒" * 12
    assert Progress(0, clock, said.append).bar() == "░" * 24


def test_figures_are_for_programs(clock, said):
    progress = Progress(10, clock, said.append)
    assert progress.figures()["left_s"] is None
    clock.step(2)
    progress.add(4, failed=1)
    assert progress.figures() == {
        "done": 4,
        "total": 10,
        "failed": 1,
        "per_s": 2.0,
        "elapsed_s": 2.0,
        "left_s": 3.0,
    }
