"""Load runs that something comes in the way of: nothing that was measured is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from langflow_sluice.load.command import load
from langflow_sluice.load.database import _LIMIT, DatabaseLook, _answer
from langflow_sluice.load.plan import Asked, StagePlan
from langflow_sluice.load.run import LoadOptions, run_load
from langflow_sluice.load.target import Address
from langflow_sluice.metrics.figures import ProcessFigures
from langflow_sluice.metrics.state_folder import StateFolder
from langflow_sluice.postgres.url import read_database_url
from langflow_sluice.testing.relay import Relay

from .load_server import KEY, Run, Seen, answered, failed, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result
    from starlette.responses import Response

    from langflow_sluice.embedded.postgres import EmbeddedPostgres
    from langflow_sluice.load.drive import Drive
    from langflow_sluice.load.results import FlowResult, Stage

AGES_S = 60
TOO_MANY = "connection failed: FATAL:  sorry, too many clients already"
PROGRAM = "import typer; from langflow_sluice.load.command import load; typer.run(load)"

app = typer.Typer()
app.command()(load)


def run_command(*words: str, key: str = KEY, **variables: str) -> Result:
    given = {"LANGFLOW_API_KEY": key, "SLUICE_DATABASE_URL": "", "COLUMNS": "200", **variables}
    return CliRunner().invoke(app, [*words, "--pause", "0", "--warm-up", "0"], env=given)


def started(*words: str, key: str = KEY, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "LANGFLOW_API_KEY": key, "SLUICE_DATABASE_URL": "", **variables}
    command = [sys.executable, "-c", PROGRAM, *words, "--pause", "0", "--warm-up", "0"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(path: Path) -> dict[str, Any]:
    flow: dict[str, Any]
    (flow,) = json.loads(path.read_text())["flows"]
    return flow


async def right(_: Run) -> dict[str, Any]:
    return answered()


@pytest.fixture
def database(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    url = postgres_server.create_database(vector=False)
    yield url
    postgres_server.drop_database(url.rsplit("/", 1)[1])


def test_a_database_that_stops_answering_holds_up_no_run(database: str, tmp_path: Path) -> None:
    async def takes_the_network_along(run: Run) -> dict[str, Any]:
        if run.number == 3:
            await asyncio.to_thread(relay.hold)
        return answered()

    port = int(database.rsplit(":", 1)[1].partition("/")[0])
    with Relay(port) as relay, serve({"rag": takes_the_network_along}) as (url, _):
        words = ("rag", "--url", url, "--concurrency", "1,2", "--requests", "4", "--json", str(tmp_path / "r.json"))
        with started(*words, SLUICE_DATABASE_URL=relay.through(database)) as process:
            try:
                _, errors = process.communicate(timeout=AGES_S)
            finally:
                process.kill()
    assert process.returncode == 0, errors
    flow = told(tmp_path / "r.json")
    assert [stage["succeeded"] for stage in flow["stages"]] == [4, 4]
    assert flow["samples"][0]["connections"] >= 0
    assert flow["stages"][1]["connections"] is None


def test_a_look_at_a_database_that_is_silent_ends_and_a_later_one_finds_it_again(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_again_and_again() -> None:
        seen.append(look.connections())
        relay.hold()
        seen.append(look.connections())
        # It is left alone for a while then, so the second one does not even try.
        opened = relay.opened
        seen.append(look.worked_s())
        assert relay.opened == opened
        monkeypatch.setattr(look, "_not_before", 0.0)
        seen.append(look.connections())
        monkeypatch.setattr(look, "_not_before", 0.0)
        relay.release()
        seen.append(look.connections())
        look.close()

    seen: list[Any] = []
    port = int(database.rsplit(":", 1)[1].partition("/")[0])
    with Relay(port) as relay:
        look = DatabaseLook(read_database_url(relay.through(database)))
        looking = threading.Thread(target=look_again_and_again, daemon=True)
        looking.start()
        looking.join(AGES_S)
        assert not looking.is_alive()
    before, *silent, after = seen
    assert silent == [None, None, None]
    assert before is not None
    assert after is not None


def test_the_server_ends_a_look_too_and_a_session_that_is_lent_out_keeps_nothing_of_it(database: str) -> None:
    import psycopg

    with psycopg.connect(database, autocommit=True) as session:
        assert _answer(session.pgconn, "SELECT current_setting('statement_timeout')") == (b"2s",)
        assert session.execute("SHOW statement_timeout").fetchone() == ("0",)
        with pytest.raises(psycopg.errors.UndefinedTable, match="no_such_table"):
            _answer(session.pgconn, "SELECT * FROM no_such_table")
    with psycopg.connect(database, autocommit=True) as session:
        limit = _answer(session.pgconn, _LIMIT)
    assert limit is not None
    assert int(limit[0]) == 97


def stopped_by(number: int, words: list[str], seen: Seen, *, calls: int, key: str = KEY) -> str:
    """What the command tells if that signal is sent to it once so many calls have come."""
    with started(*words, key=key) as process:
        try:
            assert seen.wait_for_runs(calls)
            process.send_signal(number)
            output, errors = process.communicate(timeout=AGES_S)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    return output


def test_failures_count_although_their_stage_was_stopped(tmp_path: Path) -> None:
    async def gives_way_and_then_hangs(run: Run) -> dict[str, Any] | Response:
        if run.number > 8:
            await asyncio.sleep(AGES_S)
        return answered() if run.number <= 5 else failed(TOO_MANY)

    with serve({"rag": gives_way_and_then_hangs}) as (url, seen):
        words = ["rag", "--url", url, "--concurrency", "1,2", "--requests", "5", "--json", str(tmp_path / "r.json")]
        stopped_by(signal.SIGINT, words, seen, calls=10)
    flow = told(tmp_path / "r.json")
    assert (flow["verdict"], flow["dependency"]) == ("scaling problem", "database")
    assert "3 of 5 calls failed (3 too_many_clients)" in flow["explanation"]


def test_sigterm_ends_a_run_as_ctrl_c_does_and_the_key_made_for_it_is_removed(tmp_path: Path) -> None:
    async def hangs_from_the_third_on(run: Run) -> dict[str, Any]:
        if run.number > 2:
            await asyncio.sleep(AGES_S)
        return answered()

    with serve({"rag": hangs_from_the_third_on}) as (url, seen):
        words = ["rag", "--url", url, "--concurrency", "1,2", "--requests", "5", "--json", str(tmp_path / "r.json")]
        output = stopped_by(signal.SIGTERM, words, seen, calls=3, key="")
    assert seen.keys_removed == seen.keys_made == ["made-0"]
    flow = told(tmp_path / "r.json")
    assert flow["verdict"] == "stopped"
    assert "rag: stopped" in output
    assert "Stopped one at a time, after 2 of 5 calls were answered." in flow["explanation"]


class StopsAfter:
    """Presses Ctrl-C once a stage is done."""

    def __init__(self, what: str) -> None:
        self._what = what

    def begins(self, flow: str, what: str, drive: Drive) -> None:
        pass

    def ends(self, flow: str, what: str, stage: Stage) -> None:  # noqa: ARG002 - as in Progress
        if what == self._what:
            os.kill(os.getpid(), signal.SIGINT)


def run_until(what: str, url: str) -> FlowResult:
    alone = StagePlan("one at a time", 1, 3)
    options = LoadOptions(
        address=Address(url, is_local=True),
        api_key=KEY,
        flows=("rag",),
        stages=(alone, StagePlan("closed loop", 2, 4), StagePlan("closed loop", 4, 4)),
        what=Asked(("Hello",)),
        warm_up=0,
        max_seconds=AGES_S,
        timeout_s=AGES_S,
        pause_s=0.0,
    )
    report, stopped = run_load(options, StopsAfter(what))
    assert stopped
    (flow,) = report.flows
    return flow


def test_a_stage_that_was_whole_before_the_stop_counts() -> None:
    async def fails_with_two(run: Run) -> dict[str, Any] | Response:
        return answered() if run.number <= 3 else failed(TOO_MANY)

    with serve({"rag": right}) as (url, _):
        held = run_until("2 at once", url)
        alone = run_until("one at a time", url)
    with serve({"rag": fails_with_two}) as (url, _):
        gave_way = run_until("2 at once", url)
    assert held.verdict == "holds"
    assert "At most with 2 at once: 4 of 4 calls answered" in held.explanation
    assert held.explanation.endswith("Stopped before the end.")
    assert alone.verdict == "stopped"
    assert gave_way.verdict == "scaling problem"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_who_reads_no_further_stops_nothing(tmp_path: Path) -> None:
    with serve({"rag": right}) as (url, seen):
        words = ("rag", "--url", url, "--concurrency", "1,2", "--requests", "4", "--json", str(tmp_path / "r.json"))
        with started(*words) as process:
            try:
                assert process.stdout is not None
                process.stdout.close()
                process.stdout = None
                _, errors = process.communicate(timeout=AGES_S)
            finally:
                process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    assert len(seen.runs) == 8
    assert told(tmp_path / "r.json")["verdict"] == "holds"


def test_what_a_terminal_cannot_show_costs_nothing_but_the_sight_of_it(tmp_path: Path) -> None:
    async def speaks_oddly(_: Run) -> Response:
        return failed("\x1b[2J\x1b]0;owned\x07 \u6e2f \ud800 \x9b31m")

    with serve({"caf\u00e9 \x1b[31m": speaks_oddly}) as (url, _):
        words = ("11111111-2222-3333-4444-555555555550", "--url", url, "--concurrency", "1", "--requests", "1")
        files = ("--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html"))
        with started(*words, *files, PYTHONIOENCODING="ascii") as process:
            output, errors = process.communicate(timeout=AGES_S)
    assert process.returncode == 1, errors
    assert "caf\\xe9" in output
    assert "\\u6e2f" in output
    assert "\x1b" not in output + errors
    assert "\x9b" not in output
    assert told(tmp_path / "r.json")["verdict"] == "bug"
    assert "caf" in (tmp_path / "r.html").read_text()


def test_a_file_that_cannot_be_written_costs_no_other_one(tmp_path: Path) -> None:
    async def removes_a_folder(_: Run) -> dict[str, Any]:
        if away.exists():
            away.rmdir()
        return answered()

    away = tmp_path / "away"
    away.mkdir()
    with serve({"rag": removes_a_folder}) as (url, _):
        words = ("rag", "--url", url, "--concurrency", "1", "--requests", "1")
        files = ("--json", str(away / "r.json"), "--html", str(tmp_path / "r.html"))
        result = run_command(*words, *files)
    assert result.exit_code == 2
    assert f"Not written: {away / 'r.json'} (No such file or directory)" in result.output
    assert f"Written: {tmp_path / 'r.html'}" in result.output
    assert "rag: holds" in result.output
    assert (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("words", "key", "field"),
    [
        (("--tweaks", "t.json"), KEY, "tweaks"),
        (("--input", "canary \udcff"), KEY, "input"),
        ((), "sk-canary-\u00e9", "api-key"),
        ((), "sk-canary\n", "api-key"),
    ],
)
def test_what_cannot_be_sent_is_said_before_any_call(
    words: tuple[str, ...], key: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.json").write_text('{"Model-1": {"api_key": "canary", "temperature": NaN}}')
    with serve({"rag": right}) as (url, seen):
        result = run_command("rag", "--url", url, *words, "--concurrency", "1", "--requests", "1", "--api-key", key)
    assert result.exit_code == 2
    assert f"{field} is '(not shown)'" in result.output
    assert "canary" not in result.output
    assert seen.runs == []


def test_of_a_server_elsewhere_the_folder_of_the_one_here_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def guards_seen(*words: str) -> bool:
        command = ("rag", "--url", url, "--allow-remote", "--concurrency", "1", "--requests", "1", *words)
        result = run_command(*command, "--json", str(tmp_path / "r.json"), SLUICE_STATE_DIR=str(tmp_path / "state"))
        assert result.exit_code == 0
        return any(sample["guard_in_flight"] is not None for sample in told(tmp_path / "r.json")["samples"])

    StateFolder(tmp_path / "state").write(ProcessFigures("host:1", 900.0, time.time() + AGES_S, (), (), (), ()))
    with serve({"rag": right}) as (url, _):
        assert guards_seen()
        monkeypatch.setattr("langflow_sluice.load.target._leads_here", lambda _: False)
        assert not guards_seen()
        assert guards_seen("--state-dir", str(tmp_path / "state"))


def test_a_variable_that_names_no_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with serve({"rag": right}) as (url, _):
        result = run_command("rag", "--url", url, SLUICE_STATE_DIR=str(tmp_path / "file"))
    assert result.exit_code == 2
    assert "SLUICE_STATE_DIR" in result.output
