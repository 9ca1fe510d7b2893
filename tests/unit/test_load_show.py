from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.load_reports import THROTTLED, stage

from langflow_sluice.load.results import FlowResult, Latency, LoadReport
from langflow_sluice.load.show import LiveProgress, Screen, show

if TYPE_CHECKING:
    import pytest

    from langflow_sluice.load.results import Stage


def shown(capsys: pytest.CaptureFixture[str], *stages: Stage) -> str:
    flow = FlowResult("rag", stages, (), None, "scaling problem", "It gave way.", "provider")
    show(Screen(), LoadReport("http://localhost:7860", "", "", None, (flow,), ""))
    return capsys.readouterr().out


def test_how_long_calls_took_is_told_of_those_that_were_answered(capsys: pytest.CaptureFixture[str]) -> None:
    # The failed ones came back at once, as those that are turned away do.
    quick, slow = Latency(*[0.011] * 6), Latency(*[1.25] * 6)
    failing = replace(stage(5, 10, 1.0, THROTTLED), latency=quick, success_latency=slow)
    output = shown(capsys, failing)
    assert output.count("1.25 s") == 4
    assert "11 ms" not in output
    assert "p50 to max: of the calls that were answered" in output
    with LiveProgress(Screen()) as progress:
        progress.ends("rag", "5 at once", failing)
    assert "p95 1.25 s" in capsys.readouterr().out


def test_where_no_call_was_answered_there_is_nothing_to_tell_of_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    none = replace(stage(5, 4, 1.0, THROTTLED, split=(None,) * 4), success_latency=Latency())
    assert none.succeeded == 0
    output = shown(capsys, none)
    assert re.search(r"5 at once[^0-9]+4[^0-9]+4[^0-9]+0[^0-9]+0.00(?:[^0-9a-z]+-){4}", output)
    assert "0 ms" not in output


def test_words_of_a_server_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    cause = replace(THROTTLED, example="odd \x1b[2J\x1b]0;owned\x07 \x9b31m")
    output = shown(capsys, stage(5, 10, 1.0, cause))
    assert "odd" in output
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", output)
