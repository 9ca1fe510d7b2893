"""The command ``sluice explain``: what it takes, what it prints, how it ends, and what it never shows."""

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from langflow_sluice.explain.command import explain
from langflow_sluice.explain.masking import MASK, masked
from langflow_sluice.explain.scan import explain_text

POOL = (
    "sqlalchemy.exc.TimeoutError: QueuePool limit of size 20 overflow 30 reached, connection timed out, timeout 30.00"
)


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(explain)
    return lambda *args, **kwargs: CliRunner().invoke(app, list(args), **kwargs)


def test_an_error_is_taken_as_argument_from_a_file_and_from_standard_input(run, tmp_path):
    log = tmp_path / "langflow.log"
    log.write_text(f"INFO start\n{POOL}\n", "utf-8")
    by_argument, by_words, by_file = run(POOL), run(*POOL.split()), run("--file", str(log))
    by_input = run(input=POOL)
    for result in (by_argument, by_words, by_file, by_input):
        assert result.exit_code == 0, result.output
        flat = " ".join(result.output.replace("│", " ").split())
        assert "SQLAlchemy's pool of database connections" in flat
        assert "Raise pool_size, max_overflow or pool_timeout." in flat
        assert "LANGFLOW_DB_CONNECTION_SETTINGS" in flat


def test_several_causes_are_a_table_and_the_root_is_told_in_full(run):
    log = f"{POOL}\n[CRITICAL] WORKER TIMEOUT (pid:7)\n[CRITICAL] WORKER TIMEOUT (pid:8)\n"
    result = run(input=log, env={"COLUMNS": "160"})
    assert result.exit_code == 0
    flat = " ".join(result.output.replace("│", " ").split())
    assert "likely the root" in flat
    assert "follows from sqlalchemy_pool_timeout" in flat
    assert result.output.index("worker_timeout") < result.output.index("(sqlalchemy_pool_timeout)")


def test_json_holds_all_of_it(run):
    result = run("--json", input=f"{POOL}\n[CRITICAL] WORKER TIMEOUT (pid:7)\n")
    told = json.loads(result.output)
    assert result.exit_code == 0
    assert (told["recognised"], told["lines"]) == (True, 2)
    pool, worker = told["causes"]
    assert pool["cause"] == "sqlalchemy_pool_timeout"
    assert pool["code"] == "pool_timeout"
    assert (pool["count"], pool["first_line"], pool["likely_root"], pool["follows"]) == (1, 1, True, "")
    assert (worker["likely_root"], worker["follows"]) == (False, "sqlalchemy_pool_timeout")
    assert all(pool[name] for name in ("dependency", "happened", "fix", "where", "excerpt"))


def test_an_unknown_text_is_said_to_be_unknown_and_what_to_do_next(run):
    result = run("KeyError: 'text'")
    assert result.exit_code == 1
    assert "Unknown" in result.output
    assert "sluice doctor" in result.output
    told = json.loads(run("--json", "KeyError: 'text'").output)
    assert (told["recognised"], told["causes"]) == (False, [])
    assert told["next_steps"]


def test_without_text_it_says_what_to_give_it(run, tmp_path):
    empty = tmp_path / "empty.log"
    empty.write_bytes(b"")
    for result in (run(input=""), run("--file", str(empty))):
        assert result.exit_code == 2
        assert "no text" in result.output
    assert run("--file", str(tmp_path / "missing.log")).exit_code == 2
    assert run("x", "--file", str(empty)).exit_code == 2


def test_a_log_that_is_no_text_is_read_all_the_same(run, tmp_path):
    log = tmp_path / "binary.log"
    log.write_bytes(b"\xff\xfe\x00\x1b[31m[red]" + POOL.encode() + b"[/nothing]\r\n\x00")
    result = run("--json", "--file", str(log))
    (cause,) = json.loads(result.output)["causes"]
    assert cause["cause"] == "sqlalchemy_pool_timeout"
    assert cause["excerpt"].isprintable()
    assert run("--file", str(log)).exit_code == 0


SECRETS = [
    "postgresql://joe:canary@db:5432/x",
    "postgresql+psycopg://joe:can/ary@canary@db:5432/x",
    "redis://:canary@cache:6379/0",
    "Authorization: Bearer canary-token-123",
    "authorization='Basic Y2FuYXJ5OmNhbmFyeQ=='",
    "api_key=canary-123",
    "'api_key': 'canary-123'",
    '"x-api-key": "canary-123"',
    "password=canary host=db",
    "PGPASSWORD=canary",
    "https://x.example.com/v1?key=canary&alt=sse",
    "Incorrect API key provided: canary-1234567.",
    "sk-proj-canary0123456789canary",
    "sk-ant-api03-canary_0123456789",
    "AIzaSycanary0123456789canary0123456789",
    "hf_canary0123456789canary",
    "AKIACANARY0123456789",
    "eyJhbGciOiJcanary.eyJzdWIiOiJcanary.c2lnbmF0canary",
    "token canary0canary1canary2canary3canary4canary5canary6",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_an_excerpt_holds_no_credential(run, secret):
    assert "canary" not in masked(secret).lower()
    assert MASK in masked(secret)
    for text in (f"{secret} {POOL}", f"{POOL} {secret}", f"{'a ' * 300}{POOL} {secret}", f"{POOL}{' ' * 150}{secret}"):
        for result in (run(input=text), run("--json", input=text)):
            assert result.exit_code == 0
            assert "canary" not in result.output.lower()
    assert "QueuePool limit of size 20" in explain_text(f"{secret} {POOL}").root.excerpt


def test_an_excerpt_does_not_quote_statements_and_their_parameters():
    text = f"{POOL} [SQL: SELECT secret canary] [parameters: ('canary question',)]"
    assert "canary" not in explain_text(text).root.excerpt


def test_an_excerpt_shows_the_error_and_not_the_page_around_it():
    excerpt = explain_text(f"{'before ' * 500}{POOL}{' after' * 500}").root.excerpt
    assert "QueuePool limit of size 20" in excerpt
    assert len(excerpt) < 260


@pytest.mark.parametrize(
    "text", ["timeout 30.00", "model gpt-4o", "pid:11556", "size=20", "http://localhost:7860/flow"]
)
def test_what_is_no_credential_stays(text):
    assert masked(text) == text


def test_importing_the_command_is_quick_since_it_imports_nothing_heavy():
    heavy = ("rich.table", "httpx", "sqlalchemy", "psycopg", "langflow_sluice.failures")
    code = f"import sys, langflow_sluice.explain.command; print([n for n in {heavy!r} if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
