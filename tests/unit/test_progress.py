"""How far long work has come, said now and then."""

import pytest

from langflow_sluice.sections.fan_out import Outcome
from langflow_sluice.sections.progress import Progress
from langflow_sluice.testing import ManualClock

DONE = Outcome(0, 1, None, 1)
FAILED = Outcome(0, None, ValueError(), 1)


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
