"""A deployment is read as Langflow reads it, and tells where each value comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from langflow_sluice.doctor.deployment import Deployment, Expectations, deployment_of
from langflow_sluice.doctor.env_file import parsed, read_env_file, recommended, write_private
from langflow_sluice.doctor.findings import Fix
from langflow_sluice.doctor.installed import defaults
from langflow_sluice.doctor.variables import Variables
from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

POOL = "LANGFLOW_DB_CONNECTION_SETTINGS"
URL = "postgresql://ann:canary-5@db.example.org/langflow"


def deployed(environment: Mapping[str, str] | None = None, file: str = "", **expected: Any) -> Deployment:
    env_file = parsed(Path("server.env"), file) if file else None
    return deployment_of(Variables.of(env_file, environment or {}), Expectations(**expected))


def test_what_is_not_set_is_the_installed_langflows_default() -> None:
    deployment = deployed()
    assert deployment.pool.in_force == {
        key: value for key, value in defaults()["db_connection_settings"].items() if key != "echo"
    }
    assert deployment.workers.value == defaults()["workers"]
    assert "default of Langflow 1." in deployment.workers.source
    assert not deployment.problems


def test_the_file_wins_over_the_environment_and_tells_its_line() -> None:
    deployment = deployed({"LANGFLOW_WORKERS": "2", "langflow_worker_timeout": "9"}, "# one\n\nLANGFLOW_WORKERS=3\n")
    assert str(deployment.workers) == "LANGFLOW_WORKERS=3 (server.env:3)"
    assert str(deployment.worker_timeout_s) == "LANGFLOW_WORKER_TIMEOUT=9 (environment)"


def test_what_a_file_names_in_other_variables_is_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCTOR_HOST", "db.example.org")
    deployment = deployed(file="NAME=shop\nLANGFLOW_DATABASE_URL=postgresql://u:p@${DOCTOR_HOST}/${NAME}\n")
    assert deployment.shown["LANGFLOW_DATABASE_URL"] == "db.example.org:5432/shop"


def test_a_file_is_never_executed(tmp_path: Path) -> None:
    deployed(file=f"LANGFLOW_WORKERS=$(touch {tmp_path}/here)\nOTHER=`touch {tmp_path}/there`\n")
    assert not list(tmp_path.iterdir())


def test_what_the_pools_setting_leaves_out_is_sqlalchemys_default() -> None:
    pool = deployed({POOL: '{"pool_size": 7}'}).pool
    assert pool.in_force == {
        "pool_size": 7,
        "max_overflow": 10,
        "pool_timeout": 30,
        "pool_pre_ping": False,
        "pool_recycle": -1,
    }
    assert pool.capacity == 17


def test_deprecated_names_win_over_the_pools_setting() -> None:
    pool = deployed({POOL: '{"pool_size": 7, "max_overflow": 1}', "LANGFLOW_POOL_SIZE": "30"}).pool
    assert pool.capacity == 31
    assert "LANGFLOW_POOL_SIZE (environment)" in pool.source


@pytest.mark.parametrize(
    "settings",
    ['{"pool_size": 0}', '{"max_overflow": -1}', '{"poolclass": "NullPool"}'],
    ids=["size", "overflow", "class"],
)
def test_pools_without_a_bound_are_known(settings: str) -> None:
    assert deployed({POOL: settings}).pool.capacity is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LANGFLOW_WORKERS", "many"),
        ("LANGFLOW_DISABLE_TRACK_APIKEY_USAGE", "maybe"),
        ("LANGFLOW_JOB_QUEUE_TYPE", "kafka"),
        (POOL, "pool_size=3"),
        (POOL, "[3]"),
        (POOL, '{"pool_size": "three"}'),
        ("LANGFLOW_DATABASE_URL", "mysql://u:canary-5@h/d"),
        ("SLUICE_MAX_CONCURRENCY", "lots"),
    ],
)
def test_what_cannot_be_understood_is_a_problem_and_the_default_stands_in(variable: str, value: str) -> None:
    deployment = deployed({variable: value})
    assert len(deployment.problems) == 1
    assert variable in next(iter(deployment.problems.values()))
    assert "canary" not in str(deployment.problems)
    assert deployment.worker_count == 1
    assert deployment.pool.capacity == (15 if "three" in value else 50)  # what is left out is SQLAlchemy's


def test_a_secret_in_the_wrong_line_is_not_shown() -> None:
    problems = deployed({"LANGFLOW_WORKERS": "sk-" + "x" * 50, POOL: f'{{"{URL}'}).problems
    assert "xxx" not in str(problems)
    assert "canary" not in str(problems)


def test_neither_repr_nor_what_is_shown_holds_a_password() -> None:
    variables = Variables.of(None, {"LANGFLOW_DATABASE_URL": URL, "LANGFLOW_REDIS_QUEUE_URL": "redis://:canary-5@h"})
    deployment = deployment_of(variables, Expectations(), nodes_database=URL)
    for shown in (repr(deployment), str(deployment.shown), repr(variables)):
        assert "canary" not in shown


def test_workers_of_minus_one_are_twice_the_cores_and_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert deployed({"LANGFLOW_WORKERS": "-1"}, machines=3).processes == 27


@pytest.mark.parametrize(
    ("environment", "drawn"),
    [
        ({}, True),
        ({"LANGFLOW_PRETTY_LOGS": "True"}, True),
        ({"LANGFLOW_PRETTY_LOGS": "false"}, False),
        ({"LANGFLOW_PRETTY_LOGS": "1"}, False),  # Langflow knows no word for it but "true"
        ({"LANGFLOW_LOG_ENV": "container"}, False),
        ({"LANGFLOW_LOG_FORMAT": "plain"}, False),
        ({"LANGFLOW_LOG_LEVEL": "CRITICAL"}, False),
        ({"LANGFLOW_LOG_LEVEL": "error"}, True),
    ],
)
def test_whether_tracebacks_are_drawn_is_told_as_langflow_decides_it(environment: dict[str, str], drawn: bool) -> None:  # noqa: FBT001 - a row of the table
    assert deployed(environment).rich_tracebacks.value is drawn


def test_the_limits_of_the_operator_are_those_of_the_file() -> None:
    limits = deployed({"SLUICE_MAX_DB_CONNECTIONS": "9"}, "SLUICE_MAX_DB_CONNECTIONS=4\n").limits
    assert limits.db_connections == 4


@pytest.mark.parametrize("wrong", [{"machines": 0}, {"calls": -1}, {"proxy_timeout_s": -1.0}])
def test_wrong_expectations_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Expectations(**wrong)


def test_lines_that_say_nothing_are_counted_and_the_others_read() -> None:
    file = parsed(Path("server.env"), "A=1\n\nsome words\nB=2\n")
    assert file.unreadable == (3,)
    assert file.values == {"A": "1", "B": "2"}


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "binary"):
        with pytest.raises(InvalidInput):
            read_env_file(path)


def test_a_recommended_file_changes_the_line_that_counts_and_keeps_the_rest() -> None:
    text = "# top\nA=1\nB='x\ny'\n\nexport A=2 # mine\nodd line\nC=${B}"
    fixes = [Fix("A", 3, "because"), Fix("N", "new", "as well")]
    assert recommended(parsed(Path(".env"), text), fixes, {}) == (
        "# top\nA=1\nB='x\ny'\n\n# because\nA=3\nodd line\nC=${B}\n"
        "\n# Recommended by sluice doctor:\n# as well\nN=new\n"
    )


def test_changes_of_one_json_setting_come_together_and_read_back_as_they_are() -> None:
    fixes = [Fix(POOL, 4, "few", "pool_size"), Fix(POOL, value=True, why="ping", key="pool_pre_ping")]
    text = recommended(None, fixes, {POOL: {"pool_size": 20, "echo": False}})
    assert text.count(POOL) == 1
    assert "# few\n# ping\n" in text
    read = parsed(Path(".env"), text).values[POOL]
    assert json.loads(read) == {"pool_size": 4, "echo": False, "pool_pre_ping": True}


def test_an_example_stands_beside_the_users_line_and_not_for_it() -> None:
    file = parsed(Path(".env"), "LANGFLOW_DATABASE_URL=sqlite:///mine.db\n")
    text = recommended(file, [Fix("LANGFLOW_DATABASE_URL", "postgresql://...", "why", example=True)], {})
    assert text == "# why\n# LANGFLOW_DATABASE_URL=postgresql://...\nLANGFLOW_DATABASE_URL=sqlite:///mine.db\n"


def test_a_written_file_is_never_one_that_a_link_points_to(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("kept")
    link.symlink_to(target)
    with pytest.raises(InvalidInput, match="is there already"):
        write_private(link, "new", force=False)
    write_private(link, "new", force=True)
    assert target.read_text() == "kept"
    assert not link.is_symlink()
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_private(tmp_path / "no" / "folder", "new", force=False)
