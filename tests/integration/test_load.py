from __future__ import annotations

import asyncio
import json
import math
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from langflow_sluice.load.command import load
from langflow_sluice.load.database import DatabaseLook
from langflow_sluice.postgres.url import read_database_url

from .load_server import FLOW_ID, KEY, Run, answered, failed, sent_on, serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from click.testing import Result
    from starlette.responses import Response

    from langflow_sluice.embedded.postgres import EmbeddedPostgres

TOO_MANY = "connection failed: FATAL:  sorry, too many clients already"
QUESTION = "How deep is the harbour basin at low tide?"

app = typer.Typer()
app.command()(load)


def run_load(*words: str, key: str = KEY, **variables: str) -> Result:
    given = {"LANGFLOW_API_KEY": key, "SLUICE_DATABASE_URL": "", "COLUMNS": "200", **variables}
    return CliRunner().invoke(app, [*words, "--pause", "0"], env=given)


@pytest.fixture
def database(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """As database_url, without Langflow's own check of addresses, which takes seconds to load."""
    url = postgres_server.create_database(vector=False)
    yield url
    postgres_server.drop_database(url.rsplit("/", 1)[1])


def figures(path: Path) -> list[dict[str, Any]]:
    flow: dict[str, Any]
    (flow,) = json.loads(path.read_text())["flows"]
    return flow["stages"]


async def right(_: Run) -> dict[str, Any]:
    return answered()


async def broken(_: Run) -> Response:
    return failed("KeyError: 'no_such_field'")


async def quick_up_to_three(run: Run) -> dict[str, Any] | Response:
    await asyncio.sleep(0.02)
    return answered() if run.at_once <= 3 else failed(TOO_MANY)


def capacity(slots: int, service_s: float) -> Any:
    gate = asyncio.Semaphore(slots)

    async def flow(_: Run) -> dict[str, Any]:
        async with gate:
            await asyncio.sleep(service_s)
        return answered()

    return flow


def by_rank(times: Sequence[float], share: int) -> float:
    return sorted(times)[math.ceil(share * len(times) / 100) - 1]


def test_percentiles_agree_with_those_that_the_server_has_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread = random.Random(7)  # noqa: S311 - no secret

    # So long that what the machine does meanwhile is little beside it.
    async def uneven(_: Run) -> dict[str, Any]:
        await asyncio.sleep(spread.uniform(0.7, 1.2))
        return answered()

    monkeypatch.setattr("langflow_sluice.load.plan.ALONE", 2)
    with serve({"uneven": uneven}) as (url, seen):
        words = ("--concurrency", "10", "--requests", "20", "--warm-up", "0", "--json", str(tmp_path / "r.json"))
        result = run_load("uneven", "--url", url, *words)
    assert result.exit_code == 0, result.output
    alone, loaded = figures(tmp_path / "r.json")
    assert (alone["requests"], loaded["requests"]) == (2, 20)
    for stage, measured in ((alone, seen.seconds[:2]), (loaded, seen.seconds[2:])):
        for share in (50, 90, 95, 99):
            assert stage["latency"][f"p{share}_s"] == pytest.approx(by_rank(measured, share), rel=0.05)
        assert stage["latency"]["mean_s"] == pytest.approx(sum(measured) / len(measured), rel=0.05)


def test_what_fails_one_at_a_time_is_a_bug_and_is_not_loaded_any_further(tmp_path: Path) -> None:
    with serve({"broken": broken}) as (url, seen):
        words = ("--concurrency", "1,5", "--requests", "6", "--warm-up", "2", "--json", str(tmp_path / "r.json"))
        result = run_load("broken", "--url", url, *words)
    assert result.exit_code == 1
    assert "broken: bug" in result.output
    assert "It fails one at a time too: 6 of 6 calls" in result.output
    (stage,) = figures(tmp_path / "r.json")
    assert (stage["requests"], stage["failed"]) == (6, 6)
    assert len(seen.runs) == 6 + 2
    assert max(run.at_once for run in seen.runs[2:]) == 1


def test_what_fails_only_with_more_than_three_at_once_is_a_scaling_problem_of_the_database(tmp_path: Path) -> None:
    with serve({"rag": quick_up_to_three}) as (url, seen):
        words = ("--concurrency", "1,3,8", "--requests", "24", "--json", str(tmp_path / "r.json"))
        result = run_load("rag", "--url", url, "--warm-up", "0", *words)
    alone, three, eight = figures(tmp_path / "r.json")
    assert result.exit_code == 1
    assert "rag: scaling problem (database)" in result.output
    assert (alone["failed"], three["failed"]) == (0, 0)
    assert eight["failed"] == seen.failures > 0
    (cause,) = eight["causes"]
    assert (cause["code"], cause["dependency"], cause["count"]) == ("too_many_clients", "database", seen.failures)
    assert "too many clients already" in cause["example"]
    assert max(run.at_once for run in seen.runs) == 8


def test_the_knee_is_where_the_servers_capacity_is(tmp_path: Path) -> None:
    with serve({"slow": capacity(4, 0.1)}) as (url, _):
        words = ("--concurrency", "4,16", "--requests", "16", "--warm-up", "0", "--json", str(tmp_path / "r.json"))
        assert run_load("slow", "--url", url, *words).exit_code == 0
    (flow,) = json.loads((tmp_path / "r.json").read_text())["flows"]
    assert (flow["knee"], flow["verdict"]) == (4, "holds")


def test_two_flows_are_compared(tmp_path: Path) -> None:
    with serve({"safe": right, "unsafe": quick_up_to_three}) as (url, _):
        words = ("--against", "unsafe", "--concurrency", "1,8", "--requests", "16", "--json", str(tmp_path / "r.json"))
        result = run_load("safe", "--url", url, *words)
    told = json.loads((tmp_path / "r.json").read_text())
    assert result.exit_code == 1
    assert [flow["flow"] for flow in told["flows"]] == ["safe", "unsafe"]
    assert told["comparison"].startswith("safe holds; unsafe: scaling problem in the database. With 8 at once: safe 16")
    assert told["server"] == "1.13.0"


def test_calls_that_the_time_did_not_allow_are_unsent_and_those_under_way_are_cut_off(tmp_path: Path) -> None:
    async def hangs_from_the_third_on(run: Run) -> dict[str, Any]:
        if run.number > 2:
            await asyncio.sleep(30)
        return answered()

    with serve({"hangs": hangs_from_the_third_on}) as (url, seen):
        words = ("--concurrency", "1,3", "--requests", "9", "--max-seconds", "0.5", "--warm-up", "0")
        result = run_load("hangs", "--url", url, *words, "--json", str(tmp_path / "r.json"))
    alone, three = figures(tmp_path / "r.json")
    assert (alone["requests"], alone["succeeded"], alone["unsent"]) == (3, 2, 6)
    assert (three["requests"], three["succeeded"], three["unsent"]) == (3, 0, 6)
    assert [cause["code"] for cause in three["causes"]] == ["cut_off"]
    assert len(seen.runs) == 6
    assert "scaling problem" in result.output


def test_calls_come_at_their_rate_whether_or_not_others_have_come_back(tmp_path: Path) -> None:
    async def all_come_back_together(run: Run) -> dict[str, Any]:
        # Of the eight that follow those made one at a time, none is answered before the last of them is there.
        if run.number == 8 + 8:
            all_there.set()
        elif run.number > 8:
            await all_there.wait()
        return answered()

    all_there = asyncio.Event()
    with serve({"chat": all_come_back_together}) as (url, _):
        words = ("--rate", "100", "--arrival", "even", "--requests", "8", "--warm-up", "0")
        result = run_load("chat", "--url", url, *words, "--json", str(tmp_path / "r.json"))
    alone, rated = figures(tmp_path / "r.json")
    assert result.exit_code == 0
    assert (rated["kind"], rated["rate_per_s"], rated["concurrency"]) == ("open loop", 100.0, 8)
    assert (alone["succeeded"], rated["succeeded"], rated["unsent"]) == (8, 8, 0)


def test_on_a_server_with_auto_login_a_key_is_made_for_the_run_and_removed_afterwards() -> None:
    with serve({"chat": right}) as (url, seen):
        assert run_load("chat", "--url", url, "--concurrency", "1", "--requests", "3", key="").exit_code == 0
    assert len(seen.keys_made) == 1
    assert seen.keys_removed == seen.keys_made


def test_flows_are_found_by_id_and_name_too_and_unknown_ones_are_answered_with_those_there_are() -> None:
    with serve({"chat": right, "rag": right}) as (url, seen):
        for name in (FLOW_ID, "Flow chat"):
            assert run_load(name, "--url", url, "--concurrency", "1", "--requests", "1").exit_code == 0
        before = len(seen.runs)
        result = run_load("chta", "--url", url)
    assert result.exit_code == 2
    assert "flow is 'chta'" in result.output
    assert "Use one of chat, rag." in result.output
    assert len(seen.runs) == before


def test_no_call_follows_a_redirect() -> None:
    with serve({"away": right}) as (other, seen):

        async def moved(_: Run) -> Response:
            return sent_on(f"{other}/api/v1/run/{FLOW_ID}")

        with serve({"here": moved}) as (url, _):
            assert run_load("here", "--url", url, "--concurrency", "1", "--requests", "2").exit_code == 1
    assert seen.runs == []


def test_inputs_are_used_in_turn_each_in_a_session_of_its_own_with_the_tweaks(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("one\n\ntwo\n")
    (tmp_path / "t.json").write_text('{"Model-1": {"temperature": 0}}')
    with serve({"chat": right}) as (url, seen):
        words = ("--inputs", str(tmp_path / "q.txt"), "--tweaks", str(tmp_path / "t.json"), "--requests", "4")
        assert run_load("chat", "--url", url, "--concurrency", "1", "--warm-up", "0", *words).exit_code == 0
    assert [run.payload["input_value"] for run in seen.runs] == ["one", "two", "one", "two"]
    assert len({run.payload["session_id"] for run in seen.runs}) == 4
    assert all(run.payload["tweaks"] == {"Model-1": {"temperature": 0}} for run in seen.runs)


def test_nothing_secret_and_nothing_asked_is_told(tmp_path: Path, database: str) -> None:
    password = read_database_url(database).password
    token = "canary-value-of-a-tweak"

    async def tells_all(run: Run) -> Response:
        return failed(f"ValueError: {run.payload} {KEY} {database} for {QUESTION!r}")

    (tmp_path / "t.json").write_text(json.dumps({"Model-1": {"api_key": token}}))
    with serve({"chat": tells_all}) as (url, _):
        words = ("--input", QUESTION, "--tweaks", str(tmp_path / "t.json"), "--concurrency", "1", "--requests", "2")
        out = ("--json", str(tmp_path / "r.json"))
        result = run_load("chat", "--url", url, *words, *out, SLUICE_DATABASE_URL=database)
    assert result.exit_code == 1
    told = result.output + (tmp_path / "r.json").read_text()
    assert "ValueError" in told
    for secret in (KEY, QUESTION, str(password), token):
        assert secret not in told


def test_connections_to_the_database_are_those_that_the_flow_holds(
    postgres_server: EmbeddedPostgres, database: str, tmp_path: Path
) -> None:
    import psycopg

    async def holds_one(_: Run) -> dict[str, Any]:
        connection = await psycopg.AsyncConnection.connect(database, autocommit=True)
        try:
            await connection.execute("SELECT pg_sleep(0.6)")
        finally:
            await connection.close()
        return answered()

    others = postgres_server.connections()
    with serve({"rag": holds_one}) as (url, _):
        words = ("--concurrency", "3", "--requests", "3", "--warm-up", "0", "--json", str(tmp_path / "r.json"))
        result = run_load("rag", "--url", url, *words, SLUICE_DATABASE_URL=database)
    told = json.loads((tmp_path / "r.json").read_text())
    alone, three = told["flows"][0]["stages"]
    assert result.exit_code == 0
    assert (alone["connections"], three["connections"]) == (others + 1, others + 3)
    assert told["max_connections"] == 97
    samples = told["flows"][0]["samples"]
    assert max(sample["active"] for sample in samples) == 3
    assert [sample["at_s"] for sample in samples] == sorted(sample["at_s"] for sample in samples)
    # PostgreSQL has slept 0.6 s for each call; a session tells its time as it ends, which may be after the stage.
    assert 0.3 < alone["split"]["database_s"] < 0.7


def test_a_databases_own_time_grows_by_what_its_sessions_have_worked(database: str) -> None:
    import psycopg

    look = DatabaseLook(read_database_url(database))
    try:
        before = look.worked_s()
        with psycopg.connect(database, autocommit=True) as other:
            other.execute("SELECT pg_sleep(0.2)")
        assert before is not None
        # It tells as it ends, a moment after its client has left.
        grown = next(more for _ in range(100_000) if (more := (look.worked_s() or 0.0) - before) > 0.1)
        assert grown == pytest.approx(0.2, rel=0.2)
    finally:
        look.close()


def test_a_database_that_goes_away_is_not_asked_in_vain_for_ever_and_asked_again_when_it_is_back(
    database: str,
) -> None:
    import psycopg

    look = DatabaseLook(read_database_url(database))
    try:
        assert look.connections() is not None
        with psycopg.connect(database, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name='sluice-load'")
        assert look.connections() is None
        assert look.connections() is not None
    finally:
        look.close()


def test_a_database_that_cannot_be_reached_is_named_before_any_call_without_its_password() -> None:
    with serve({"chat": right}) as (url, seen):
        result = run_load("chat", "--url", url, SLUICE_DATABASE_URL="postgresql://me:canary-password@127.0.0.1:9/db")
    assert result.exit_code == 2
    assert "database-url is '127.0.0.1:9/db'" in result.output
    assert "canary-password" not in result.output
    assert seen.runs == []


def test_ctrl_c_ends_the_run_with_what_was_measured_until_then(tmp_path: Path) -> None:
    async def hangs_under_load(run: Run) -> dict[str, Any]:
        if run.number > 6:
            await asyncio.sleep(30)
        return answered()

    program = "import typer; from langflow_sluice.load.command import load; typer.run(load)"
    with serve({"chat": hangs_under_load}) as (url, seen):
        words = ["chat", "--url", url, "--api-key", KEY, "--concurrency", "1,2", "--requests", "5", "--warm-up", "0"]
        command = [sys.executable, "-c", program, *words, "--pause", "0", "--json", str(tmp_path / "r.json")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert seen.wait_for_runs(7)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "Stopped; this is what was measured until then." in output
    alone, two = figures(tmp_path / "r.json")
    assert (alone["requests"], alone["succeeded"]) == (5, 5)
    # The sixth call came back; those in flight and those to come did not.
    assert (two["succeeded"], two["unsent"]) == (1, 5 - two["requests"])
    (flow,) = json.loads((tmp_path / "r.json").read_text())["flows"]
    # Nothing was seen under load that one could call holding.
    assert flow["verdict"] == "stopped"
    assert flow["explanation"].endswith("Stopped before anything could be said of it under load.")
