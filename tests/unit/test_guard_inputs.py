"""What the inputs of guarded nodes mean."""

import types
import warnings

import pytest

from langflow_sluice.errors import InvalidInput
from langflow_sluice.guard import PRIORITIES, Guard, GuardRegistry, GuardSettings
from langflow_sluice.guard.retry import CallPolicy, Tally
from langflow_sluice.testing import ManualClock

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing lfx warns of its own dependencies
    from langflow_sluice.nodes import guard_inputs as module
    from langflow_sluice.nodes.guard_inputs import guard_inputs, guard_of, guard_settings, node_identity, report
    from langflow_sluice.nodes.upstream_inputs import call_policy, guard_of_upstream, upstream_inputs, upstream_of

DEFAULTS = {each.name: each.value for each in guard_inputs(blank_name="x", model=True)} | {
    each.name: each.value for each in upstream_inputs(read_timeout=120, total_timeout=300)
}
BLANKS = ["", None]


class Node:
    """What the functions use of a component."""

    def __init__(self, node_id="node-1", flow="flow-1", user="user-1", **inputs):
        self.__dict__.update({**DEFAULTS, "api_key": "canary-key", **inputs})
        self._node_id = node_id
        self._user = user
        self._vertex = types.SimpleNamespace(graph=types.SimpleNamespace(flow_id=flow)) if flow else None
        self.logged = []

    def __getattr__(self, name):
        if name not in self.__dict__:
            raise AttributeError(name)
        return self.__dict__[name]

    @property
    def user_id(self):
        if self._user is None:
            msg = "no user"
            raise ValueError(msg)
        return self._user

    def get_id(self):
        return self._node_id

    def log(self, message, name):
        self.logged.append((name, message))


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    made = GuardRegistry(ManualClock())
    monkeypatch.setattr(module, "guard_registry", lambda: made)
    return made


def test_every_guarded_node_has_the_same_inputs_all_of_them_advanced():
    names = [each.name for each in guard_inputs(blank_name="x", model=True)]
    assert {"guard_name", "max_concurrency", "requests_per_minute", "tokens_per_minute", "max_queue"} <= set(names)
    assert {"queue_timeout", "priority"} <= set(names)
    assert not {"tokens_per_minute", "adaptive"} & {each.name for each in guard_inputs(blank_name="x")}
    assert all(each.advanced for each in guard_inputs(blank_name="x"))
    made = {each.name: each for each in guard_inputs(blank_name="it is shared", max_concurrency=5, queue_timeout=7)}
    assert (made["max_concurrency"].value, made["queue_timeout"].value) == (5, 7)
    assert "it is shared" in made["guard_name"].info
    assert made["priority"].options == list(PRIORITIES)


def test_inputs_left_alone_are_the_default_limits():
    assert guard_settings(Node()) == GuardSettings()
    assert call_policy(Node()) == CallPolicy()


@pytest.mark.parametrize("blank", BLANKS)
def test_an_emptied_field_turns_its_limit_off(blank):
    names = ("max_concurrency", "requests_per_minute", "tokens_per_minute", "max_queue", "queue_timeout")
    settings = guard_settings(Node(**dict.fromkeys(names, blank)))
    assert settings == GuardSettings(0, 0, 0, 0, 0)
    policy = call_policy(Node(max_retries=blank, total_timeout=blank, priority=blank))
    assert policy == CallPolicy(max_retries=0, total_timeout_s=0, priority="normal")
    upstream = upstream_of(Node(connect_timeout=blank, read_timeout=blank, base_url=blank))
    assert (upstream.timeouts.connect_s, upstream.timeouts.read_s, upstream.base_url) == (0, 0, "")


def test_a_node_that_calls_no_model_has_no_limit_of_tokens_and_is_not_adaptive():
    node = Node()
    del node.tokens_per_minute, node.adaptive
    settings = guard_settings(node)
    assert (settings.tokens_per_minute, settings.adaptive) == (0, False)
    assert guard_settings(Node(adaptive=True)).adaptive is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_concurrency", -1),
        ("max_concurrency", 1.5),
        ("max_concurrency", "eight"),
        ("requests_per_minute", -0.1),
        ("tokens_per_minute", float("nan")),
        ("max_queue", True),
        ("queue_timeout", float("inf")),
    ],
)
def test_a_wrong_limit_is_refused_by_name_and_value(name, value):
    with pytest.raises(InvalidInput, match=f"{name}.* is {value!r}"):
        guard_settings(Node(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_retries", -1), ("max_retries", "two"), ("total_timeout", -1), ("total_timeout", "soon")],
)
def test_a_wrong_policy_is_refused_by_name_and_value(name, value):
    with pytest.raises(InvalidInput, match=f"{name} is {value!r}"):
        call_policy(Node(**{name: value}))


@pytest.mark.parametrize(("name", "value"), [("connect_timeout", -1), ("read_timeout", "soon")])
def test_a_wrong_timeout_is_refused_by_name_and_value(name, value):
    with pytest.raises(InvalidInput, match=f"{name} is {value!r}"):
        upstream_of(Node(**{name: value}))


@pytest.mark.parametrize("key", BLANKS)
def test_an_empty_key_is_refused(key):
    with pytest.raises(InvalidInput, match="api_key is empty"):
        upstream_of(Node(api_key=key))


def test_a_blank_name_is_the_guard_of_all_who_use_the_service_and_credential():
    one = guard_of_upstream(Node(), upstream_of(Node()))
    assert guard_of_upstream(Node("node-2", "flow-2", "user-2"), upstream_of(Node())) is one
    assert guard_of_upstream(Node(), upstream_of(Node(api_key="other"))) is not one
    assert "canary" not in one.name


def test_a_name_is_private_to_its_user():
    ours = guard_of(Node(guard_name=" shared "), "blank")
    assert ours.name == "shared"
    assert guard_of(Node("node-2", guard_name="shared"), "blank") is ours
    assert guard_of(Node(user="user-2", guard_name="shared"), "blank") is not ours
    assert guard_of(Node(user=None, guard_name="shared"), "blank") is not ours
    assert guard_of(Node(guard_name="  "), "blank") is guard_of(Node(guard_name=None), "blank")


def test_a_node_is_warned_where_another_one_asks_for_less():
    strict, node = Node("strict", max_concurrency=2), Node()
    guard_of(strict, "blank")
    assert guard_of(node, "blank").settings.max_concurrency == 2
    assert strict.logged == []
    assert node.logged[0][0] == "Guard"
    assert "max_concurrency 2 instead of 8" in node.logged[0][1]


def test_an_edited_node_replaces_what_it_asked_for():
    guard = guard_of(Node(max_concurrency=2), "blank")
    guard_of(Node(max_concurrency=6), "blank")
    assert guard.settings.max_concurrency == 6
    guard_of(Node(flow="flow-2", max_concurrency=3), "blank")
    assert guard.settings.max_concurrency == 3


def test_a_node_is_known_by_its_flow_and_its_place():
    names = {node_identity(node) for node in (Node(), Node("node-2"), Node(flow="flow-2"), Node(flow=None))}
    assert len(names) == 4
    assert node_identity(Node()) == node_identity(Node())


def test_the_report_tells_what_the_calls_went_through():
    guard = Guard("api", GuardSettings(max_concurrency=4), ManualClock())
    line = report(guard, Tally(calls=3, retries=1, waited_s=1.234))
    assert line.startswith("Guard api: 3 calls, waited 1.23 s, 1 retries, 0 of 4 in flight, 0 waiting")
    assert "0 in flight" in report(Guard("api", GuardSettings(max_concurrency=0), ManualClock()))


def test_a_name_that_the_operator_declares_shared_is_one_guard_for_all_users(tmp_path, monkeypatch):
    rules = tmp_path / "limits.toml"
    rules.write_text('[[guard]]\nname = "crm"\nshared = true\n', "utf-8")
    monkeypatch.setenv("SLUICE_LIMITS_FILE", str(rules))
    ours = guard_of(Node(user="user-1", guard_name="crm"), "blank")
    assert guard_of(Node("node-2", user="user-2", guard_name="crm"), "blank") is ours
    assert guard_of(Node("node-2", user="user-2", guard_name="other"), "blank") is not ours


def test_the_status_of_nodes_that_disagree_on_one_guard_warns_of_it():
    guard = guard_of(Node("node-1", guard_name="crm", max_concurrency=4), "blank")
    assert "Warning" not in report(guard)
    assert guard_of(Node("node-2", guard_name="crm", max_concurrency=9), "blank") is guard
    assert guard.settings.max_concurrency == 4
    assert "different limits of it (max_concurrency); the tightest count" in report(guard)
    guard_of(Node("node-2", guard_name="crm", max_concurrency=4), "blank")
    assert "Warning" not in report(guard)
