"""Each check, from what was set and seen to what is said."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from langflow_sluice.doctor import examination
from langflow_sluice.doctor.command import doctor
from langflow_sluice.doctor.database import DatabaseFacts
from langflow_sluice.doctor.deployment import Expectations, deployment_of
from langflow_sluice.doctor.facts import Facts
from langflow_sluice.doctor.pack import PackFacts
from langflow_sluice.doctor.pooler import PoolerFacts
from langflow_sluice.doctor.server import FlowFacts, ServerFacts
from langflow_sluice.doctor.variables import Variables

URL = "postgresql://u:p@db.example.org/langflow?connect_timeout=10"
RIGHT = {
    "LANGFLOW_DATABASE_URL": URL,
    "SLUICE_DATABASE_URL": URL,
    "LANGFLOW_DISABLE_TRACK_APIKEY_USAGE": "true",
    "LANGFLOW_PRETTY_LOGS": "false",
}
DATABASE = DatabaseFacts(
    where="db.example.org:5432/langflow",
    key=("db.example.org", None, "u", "langflow"),
    server="one",
    version="18",
    max_connections=100,
    reserved=3,
    idle_timeout_ms=60_000,
    vector_available="0.8.5",
    vector_installed="0.8.5",
)
PACK = PackFacts("0.1.0", "langflow_sluice.components", manifest=True, failed={})
POOLER = PoolerFacts(
    "transaction", settings={"max_client_conn": "500", "query_wait_timeout": "120"}, server_connections=20
)


def checked(
    *, environment: dict[str, str] | None = None, facts: dict[str, Any] | None = None, **expected: Any
) -> dict[str, str]:
    variables = Variables.of(None, {**RIGHT, **(environment or {})})
    deployment = deployment_of(variables, Expectations(**{"proxy_timeout_s": 300, "calls": 20, **expected}))
    seen = Facts(**{"database": DATABASE, "nodes_database": DATABASE, "pack": PACK, **(facts or {})})
    return {finding.code: finding.severity for finding in examination._check(deployment, seen, None)}


def database(**changes: Any) -> dict[str, Any]:
    changed = dataclasses.replace(DATABASE, **changes)
    return {"database": changed, "nodes_database": changed}


def test_what_is_right_has_nothing_but_information() -> None:
    assert set(checked().values()) == {"info"}


@pytest.mark.parametrize(
    ("environment", "code", "severity"),
    [
        (
            {"LANGFLOW_DB_CONNECTION_SETTINGS": '{"pool_size": 0, "pool_pre_ping": true, "pool_recycle": 60}'},
            "pool_unbounded",
            "error",
        ),
        ({"LANGFLOW_LOG_TRACE_LOCALS": "true"}, "trace_locals", "warning"),
        ({"GUNICORN_CMD_ARGS": "--preload --max-requests 100"}, "gunicorn_args_ignored", "warning"),
        ({"GUNICORN_CMD_ARGS": "--keep-alive 5 -t 60"}, "gunicorn_args_ignored", "warning"),
        (
            {"LANGFLOW_WORKERS": "2", "LANGFLOW_DANGEROUSLY_ALLOW_MULTI_WORKER_WITHOUT_SHARED_QUEUE": "true"},
            "workers_queue_bypassed",
            "warning",
        ),
        ({"LANGFLOW_WORKER_TIMEOUT": "299"}, "worker_timeout", "warning"),
        ({"LANGFLOW_WORKFLOW_EXECUTION_TIMEOUT": "299"}, "execution_timeout", "warning"),
        ({"LANGFLOW_DATABASE_URL": URL.split("?", maxsplit=1)[0]}, "connect_timeout_missing", "warning"),
        ({"LANGFLOW_GUNICORN_PRELOAD": "true", "LANGFLOW_WORKERS": "2"}, "gunicorn_preload", "info"),
        ({"LANGFLOW_PROMETHEUS_ENABLED": "true", "LANGFLOW_WORKERS": "2"}, "prometheus_one_worker", "info"),
        ({"LANGFLOW_ALLOW_CUSTOM_COMPONENTS": "false"}, "restricted_mode", "info"),
    ],
)
def test_a_setting_is_found_by_its_code(environment: dict[str, str], code: str, severity: str) -> None:
    assert checked(environment=environment)[code] == severity
    assert code not in checked()


@pytest.mark.parametrize(
    "environment",
    [
        {"GUNICORN_CMD_ARGS": "--max-requests 100 --keep-alive 5"},
        {"LANGFLOW_WORKER_TIMEOUT": "0"},  # never
        {"LANGFLOW_DATABASE_URL": URL.split("?", maxsplit=1)[0], "PGCONNECT_TIMEOUT": "5"},
        {"LANGFLOW_GUNICORN_PRELOAD": "true"},
    ],
)
def test_settings_that_are_right_raise_no_alarm(environment: dict[str, str]) -> None:
    assert set(checked(environment=environment).values()) == {"info"}


@pytest.mark.parametrize(
    ("seen", "code", "severity"),
    [
        ({"vector_installed": "0.8.3"}, "pgvector_old", "warning"),
        ({"vector_installed": "0.8"}, "pgvector_old", "warning"),
        ({"vector_installed": ""}, "pgvector_missing", "warning"),
        ({"vector_installed": "", "vector_available": ""}, "pgvector_missing", "error"),
        ({"idle_in_transaction": 2, "longest_idle_s": 61.0}, "idle_in_transaction", "warning"),
        ({"idle_in_transaction": 2, "longest_idle_s": 3.0}, "idle_in_transaction", "info"),
        ({"idle_timeout_ms": 0}, "idle_in_transaction_timeout", "info"),
        ({"max_connections": 62}, "connections_exceeded", "error"),
        ({"max_connections": 64}, "connections_tight", "info"),
        ({"database_limit": 59}, "connections_exceeded", "error"),
        (
            {"pooler": dataclasses.replace(POOLER, settings={"query_wait_timeout": "0"})},
            "query_wait_timeout",
            "warning",
        ),
        (
            {"pooler": dataclasses.replace(POOLER, settings={"query_wait_timeout": "600"})},
            "query_wait_timeout",
            "warning",
        ),
        (
            {"pooler": dataclasses.replace(POOLER, settings={"max_client_conn": "59"})},
            "pgbouncer_clients_exceeded",
            "error",
        ),
        ({"pooler": dataclasses.replace(POOLER, mode="statement")}, "pgbouncer_statement_mode", "error"),
        ({"pooler": dataclasses.replace(POOLER, mode="")}, "pgbouncer_mode_not_checked", "info"),
        ({"pooler": dataclasses.replace(POOLER, refuses_options=True)}, "pgbouncer_refuses_options", "error"),
        ({"pooler": dataclasses.replace(POOLER, server_connections=98)}, "connections_exceeded", "error"),
    ],
)
def test_what_was_seen_of_a_database_is_found_by_its_code(seen: dict[str, Any], code: str, severity: str) -> None:
    found = checked(facts=database(**seen))
    assert found[code] == severity
    assert {other for other, worth in found.items() if worth != "info"} <= {code}


def test_pgvector_is_compared_as_a_version_and_not_as_a_text() -> None:
    for version in ("0.8.4", "0.8.10", "0.10.0", "1.0"):
        assert "pgvector_old" not in checked(facts=database(vector_installed=version))


def test_pools_on_two_servers_are_two_sums() -> None:
    elsewhere = dataclasses.replace(DATABASE, where="other:5432/docs", key=("other",), server="two", max_connections=14)
    assert set(checked(facts={"nodes_database": elsewhere}).values()) == {"info"}
    assert checked(facts={"nodes_database": dataclasses.replace(elsewhere, max_connections=12)})["connections_exceeded"]


def test_machines_multiply() -> None:
    assert "connections_exceeded" not in checked(facts=database(max_connections=130), machines=2)
    assert "connections_exceeded" in checked(facts=database(max_connections=130), machines=3)


def test_the_operators_ceiling_counts_instead_of_what_pools_ask_for() -> None:
    few = database(max_connections=58)
    assert "connections_exceeded" in checked(facts=few)
    assert "connections_exceeded" not in checked(environment={"SLUICE_MAX_DB_CONNECTIONS": "5"}, facts=few)


def test_where_langflow_is_behind_a_pooler_and_the_nodes_are_not_both_are_summed() -> None:
    behind = dataclasses.replace(DATABASE, where="pooler:6432/langflow", key=("pooler",), pooler=POOLER)
    assert "connections_exceeded" not in checked(facts={"database": behind, "nodes_database": DATABASE})
    tight = {"max_connections": 32}
    both = {
        "database": dataclasses.replace(behind, **tight),
        "nodes_database": dataclasses.replace(DATABASE, **tight),
    }
    assert "connections_exceeded" in checked(facts=both)  # 20 + 10 of 29


def test_calls_are_held_against_what_the_pools_of_all_workers_serve() -> None:
    shared = {"LANGFLOW_WORKERS": "2", "LANGFLOW_JOB_QUEUE_TYPE": "redis"}
    large = database(max_connections=500)
    assert "calls_over_pool" not in checked(environment=shared, facts=large, calls=100)
    assert checked(environment=shared, facts=large, calls=101)["calls_over_pool"] == "warning"
    assert "calls_not_told" in checked(calls=0)


def test_what_the_database_takes_has_the_last_word_over_what_the_calls_want() -> None:
    environment = {**RIGHT, "LANGFLOW_PRETTY_LOGS": "true"}
    expected = Expectations(calls=40)
    deployment = deployment_of(Variables.of(None, environment), expected)
    small = Facts(**database(max_connections=20), pack=PACK)
    findings = examination._check(deployment, small, None)
    options = examination.Options(expected=expected)
    text, left = examination.recommended_env(
        examination.Examination(options, environment, None, deployment, small, findings, [])
    )
    assert '"pool_size": 7, "max_overflow": 3' in text  # 17 less 2 to spare less 5 of ours
    assert "SLUICE_MAX_DB_CONNECTIONS=5" in text
    assert {finding.code for finding in left if finding.severity != "info"} == {"calls_over_pool"}


def test_a_proxy_is_held_against_the_longest_node() -> None:
    assert checked(proxy_timeout_s=60)["proxy_timeout"] == "warning"
    short = ServerFacts("url", version="1", pack_types=("a",), flows=FlowFacts(flows=1, longest_s=50))
    assert "proxy_timeout" not in checked(facts={"server": short}, proxy_timeout_s=60)
    assert checked(proxy_timeout_s=0)["proxy_not_checked"] == "info"


def test_prepared_statements_are_wrong_only_behind_a_pooler_that_hands_sessions_on() -> None:
    driver = {"LANGFLOW_DB_DRIVER_CONNECTION_SETTINGS": '{"connect_timeout": 5}'}
    behind = database(pooler=POOLER)
    assert "pgbouncer_prepared_statements" not in checked(environment=driver)
    assert checked(environment=driver, facts=behind)["pgbouncer_prepared_statements"] == "error"
    keeps = dataclasses.replace(POOLER, settings={**POOLER.settings, "max_prepared_statements": "200"})
    assert checked(environment=driver, facts=database(pooler=keeps))["pgbouncer_prepared_statements"] == "warning"
    right = {"LANGFLOW_DB_DRIVER_CONNECTION_SETTINGS": '{"prepare_threshold": null}'}
    assert "pgbouncer_prepared_statements" not in checked(environment=right, facts=behind)


def test_a_queue_on_each_machine_is_no_shared_queue() -> None:
    local = {"LANGFLOW_JOB_QUEUE_TYPE": "redis"}
    large = database(max_connections=500)
    assert checked(environment=local, facts=large, machines=2)["queue_local"] == "warning"
    far = {**local, "LANGFLOW_REDIS_QUEUE_URL": "redis://queue.example.org:6379/1"}
    assert "queue_local" not in checked(environment=far, facts=large, machines=2)


@pytest.mark.parametrize(
    ("pack", "environment", "code"),
    [
        (PackFacts(), {}, "pack_missing"),
        (PackFacts("0.1.0"), {}, "pack_missing"),
        (PackFacts("0.1.0", "langflow_sluice.components"), {}, "pack_broken"),
        (dataclasses.replace(PACK, failed={"gate": "ImportError: no"}), {}, "pack_broken"),
        (dataclasses.replace(PACK, failed=None, problem="it took too long"), {}, "pack_not_checked"),
        (PackFacts(on_path=("components",)), {}, "pack_found"),
        (PackFacts(on_path=("components",)), {"LANGFLOW_ALLOW_CUSTOM_COMPONENTS": "false"}, "restricted_types"),
        (
            PackFacts(on_path=("components",)),
            {
                "LANGFLOW_ALLOW_CUSTOM_COMPONENTS": "false",
                "LANGFLOW_ALLOW_COMPONENTS_PATHS_OVERRIDE": "false",
            },
            "restricted_path",
        ),
    ],
)
def test_why_the_pack_is_not_in_the_palette_is_told(pack: PackFacts, environment: dict[str, str], code: str) -> None:
    found = checked(environment=environment, facts={"pack": pack})
    assert code in found
    alarming = {"pack_missing", "pack_broken", "restricted_types", "restricted_path"}
    assert {other for other, severity in found.items() if severity != "info"} == {code} & alarming


def test_wrong_options_are_a_matter_of_usage(tmp_path: Any) -> None:
    app = typer.Typer()
    app.command()(doctor)
    for arguments in (
        ["--env-file", str(tmp_path / "none")],
        ["--machines", "0"],
        ["--database-url", "mysql://u:canary-5@h/d"],
        ["--provider-url", "ftp://u:canary-5@h"],
        ["--langflow-url", "http://u:canary-5@h"],
        ["--timeout", "0"],
        ["--fail-on", "nothing"],
    ):
        result = CliRunner().invoke(app, ["--no-import", *arguments])
        assert result.exit_code == 2, arguments
        assert "canary-5" not in result.output
