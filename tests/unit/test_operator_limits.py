"""The operator's own limits: a ceiling for every flow."""

import os

import pytest

from langflow_sluice.errors import InvalidInput
from langflow_sluice.guard import GuardRegistry, GuardSettings, disagreement
from langflow_sluice.guard.operator_limits import max_db_connections, operator_limits
from langflow_sluice.testing import ManualClock

RULES = """
[limits]
max_queue = 500

[[guard]]
name = "api.openai.com*"
max_concurrency = 32
queue_timeout = 5

[[guard]]
name = "crm"
shared = true
"""


@pytest.fixture(autouse=True)
def _no_limits_of_this_machine(monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLUICE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def rules(tmp_path, monkeypatch):
    path = tmp_path / "limits.toml"
    monkeypatch.setenv("SLUICE_LIMITS_FILE", str(path))

    def write(text):
        path.write_text(text, "utf-8")
        # Written twice within one tick of the file system's clock, a file looks unchanged.
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + write.times))
        write.times += 1_000_000

    write.times = 0
    write(RULES)
    return write


def asked(registry, name, **limits):
    return registry.guard(name, GuardSettings(**limits), asked_by="node")


@pytest.mark.usefixtures("rules")
def test_a_flow_can_lower_a_ceiling_but_not_raise_it():
    registry = GuardRegistry(ManualClock())
    guard = asked(registry, "api.openai.com (key 12)", max_concurrency=100, queue_timeout_s=0)
    assert (guard.settings.max_concurrency, guard.settings.max_queue) == (32, 500)
    assert guard.settings.queue_timeout_s == 5
    assert asked(registry, "api.openai.com (key 12)", max_concurrency=3).settings.max_concurrency == 3
    assert asked(registry, "elsewhere", max_concurrency=100).settings.max_concurrency == 100


@pytest.mark.usefixtures("rules")
def test_the_warning_says_that_it_is_the_operator_who_limits():
    wanted = GuardSettings(max_concurrency=100, max_queue=10, queue_timeout_s=1)
    guard = GuardRegistry(ManualClock()).guard("api.openai.com", wanted, asked_by="node")
    assert "the operator of this server" in disagreement(guard, wanted)
    assert "max_concurrency 32 instead of 100" in disagreement(guard, wanted)


def test_a_limit_turned_off_by_a_flow_is_still_the_operators(monkeypatch):
    monkeypatch.setenv("SLUICE_MAX_CONCURRENCY", "7")
    assert asked(GuardRegistry(ManualClock()), "any", max_concurrency=0).settings.max_concurrency == 7


def test_a_changed_file_counts_from_the_next_run_on(rules):
    registry = GuardRegistry(ManualClock())
    guard = asked(registry, "api.openai.com", max_concurrency=100)
    rules(RULES.replace("32", "16"))
    assert asked(registry, "api.openai.com", max_concurrency=100) is guard
    assert guard.settings.max_concurrency == 16
    rules("")
    asked(registry, "api.openai.com", max_concurrency=100)
    assert guard.settings.max_concurrency == 100


@pytest.mark.usefixtures("rules")
def test_only_declared_names_are_shared():
    assert operator_limits().is_shared("crm")
    assert not operator_limits().is_shared("crm2")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_concurrency = 3", "there is no such table"),
        ("[limits]\nmax_concurency = 3", "max_concurency is 3: there is no such limit"),
        ("[limits]\nmax_queue = -1", "max_queue is -1"),
        ("[[guard]]\nmax_queue = 1", r"a \[\[guard\]\] needs one"),
        ("[[guard]]\nname = 'a'\nshared = 'yes'", "it is a switch"),
        ("[limits]\nmax_db_connections = 2.5", "max_db_connections is 2.5: it counts connections"),
        ("[[guard]]\nname = 'a'\nmax_db_connections = 2", "there is no such limit"),
        ("[limits", "it is no TOML file"),
    ],
)
def test_a_wrong_file_is_an_error_and_not_a_lifted_limit(rules, text, told):
    rules(text)
    with pytest.raises(InvalidInput, match=told):
        asked(GuardRegistry(ManualClock()), "any")


def test_the_connections_of_the_process_are_the_lower_of_file_and_variable(rules, monkeypatch):
    assert max_db_connections() == 0
    rules("[limits]\nmax_db_connections = 40")
    assert max_db_connections() == operator_limits().db_connections == 40
    monkeypatch.setenv("SLUICE_MAX_DB_CONNECTIONS", "12")
    assert max_db_connections() == 12
    rules("[limits]\nmax_db_connections = 5")
    assert max_db_connections() == 5
    monkeypatch.delenv("SLUICE_LIMITS_FILE")
    assert max_db_connections() == 12


@pytest.mark.parametrize("text", ["many", "-1", "2.5"])
def test_a_wrong_number_of_connections_is_named(monkeypatch, text):
    monkeypatch.setenv("SLUICE_MAX_DB_CONNECTIONS", text)
    with pytest.raises(InvalidInput, match="SLUICE_MAX_DB_CONNECTIONS"):
        max_db_connections()


def test_a_missing_file_and_a_wrong_variable_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SLUICE_LIMITS_FILE", str(tmp_path / "none.toml"))
    with pytest.raises(InvalidInput, match=r"SLUICE_LIMITS_FILE is .*cannot be read"):
        operator_limits()
    monkeypatch.delenv("SLUICE_LIMITS_FILE")
    monkeypatch.setenv("SLUICE_MAX_QUEUE", "many")
    with pytest.raises(InvalidInput, match="SLUICE_MAX_QUEUE is 'many'"):
        operator_limits()


@pytest.mark.parametrize(
    ("operator", "node", "held"),
    [
        ({}, ("process", "fail_closed"), ("process", "fail_closed")),
        ({}, ("cluster", "local_share"), ("cluster", "local_share")),
        ({"SLUICE_SCOPE": "cluster"}, ("process", "fail_closed"), ("cluster", "fail_closed")),
        ({"SLUICE_SCOPE": "cluster"}, ("cluster", "local_share"), ("cluster", "local_share")),
        ({"SLUICE_SCOPE": "process"}, ("cluster", "fail_closed"), ("process", "fail_closed")),
        ({"SLUICE_REDIS_LOSS": "fail_closed"}, ("cluster", "local_share"), ("cluster", "fail_closed")),
        (
            {"SLUICE_SCOPE": "cluster", "SLUICE_REDIS_LOSS": "local_share"},
            ("process", "fail_closed"),
            ("cluster", "local_share"),
        ),
    ],
)
def test_scope_and_loss_are_as_the_operator_says_and_the_nodes_where_he_says_nothing(monkeypatch, operator, node, held):
    for name, value in operator.items():
        monkeypatch.setenv(name, value)
    scope, loss = node
    settings = GuardSettings(scope=scope, redis_loss=loss).under(operator_limits().ceiling("any"))
    assert (settings.scope, settings.redis_loss) == held


def test_a_rule_may_make_one_guard_the_clusters(rules):
    rules('[[guard]]\nname = "crm"\nscope = "cluster"\nredis_loss = "local_share"\n')
    limits = operator_limits()
    held = {name: GuardSettings().under(limits.ceiling(name)) for name in ("crm", "other")}
    assert (held["crm"].scope, held["crm"].redis_loss) == ("cluster", "local_share")
    assert held["other"] == GuardSettings()


@pytest.mark.parametrize("variable", ["SLUICE_SCOPE", "SLUICE_REDIS_LOSS"])
def test_a_word_that_is_none_is_an_error_that_names_the_variable(monkeypatch, variable):
    monkeypatch.setenv(variable, "somewhere")
    with pytest.raises(InvalidInput, match=rf"^{variable} is 'somewhere'"):
        operator_limits()


@pytest.mark.parametrize("line", ['scope = "all"', 'redis_loss = ""', 'scope = ["cluster"]', "max_concurrency = -1"])
def test_a_wrong_line_of_the_file_is_named_with_the_file(rules, line):
    rules(f"[limits]\n{line}\n")
    with pytest.raises(InvalidInput, match=rf"limits\.toml: {line.split()[0]} is ") as told:
        operator_limits()
    assert told.value.hint


@pytest.mark.parametrize("text", ["inf", "nan", "-1"])
def test_a_number_that_is_no_limit_is_an_error_that_names_the_variable(monkeypatch, text):
    monkeypatch.setenv("SLUICE_MAX_CONCURRENCY", text)
    with pytest.raises(InvalidInput, match=r"^SLUICE_MAX_CONCURRENCY is "):
        operator_limits()


def test_nodes_of_one_process_do_not_disagree_on_what_redis_means():
    registry = GuardRegistry(ManualClock())
    registry.guard("key", GuardSettings(), asked_by="one")
    other = GuardSettings(redis_loss="local_share")
    guard = registry.guard("key", other, asked_by="other")
    assert guard.contested == frozenset()
    assert disagreement(guard, other) == ""


def test_a_wrong_lease_is_told_each_time_and_never_left_out(monkeypatch):
    monkeypatch.setenv("SLUICE_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("SLUICE_LEASE", "soon")
    registry = GuardRegistry(ManualClock())
    registry.guard("key", GuardSettings(), asked_by="one")
    for _ in range(2):
        with pytest.raises(InvalidInput, match="SLUICE_LEASE"):
            registry.guard("key", GuardSettings(scope="cluster"), asked_by="one")
