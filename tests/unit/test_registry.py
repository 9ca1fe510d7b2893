"""One guard for each name, whatever its users ask for."""

import copy
import subprocess
import sys
import textwrap

import pytest

from langflow_sluice.guard import GuardRegistry, GuardSettings, disagreement, guard_registry
from langflow_sluice.guard import registry as module
from langflow_sluice.guard.registry import FORGET_AFTER_S
from langflow_sluice.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def registry(clock):
    return GuardRegistry(clock)


def ask(registry, key="guard", asked_by="node", **limits):
    return registry.guard(key, GuardSettings(**limits), asked_by=asked_by)


def test_a_key_names_one_guard_and_another_key_another(registry):
    assert ask(registry) is ask(registry, asked_by="other node")
    assert ask(registry) is not ask(registry, key="other")
    assert registry.guard("user/name", GuardSettings(), asked_by="node", name="name").name == "name"
    assert ask(registry, key="plain").name == "plain"


def test_of_several_wishes_each_limit_is_the_tightest(registry):
    ask(registry, asked_by="a", max_concurrency=8, requests_per_minute=0, queue_timeout_s=60)
    guard = ask(registry, asked_by="b", max_concurrency=0, requests_per_minute=100, queue_timeout_s=10)
    ask(registry, asked_by="c", max_concurrency=3, requests_per_minute=200, queue_timeout_s=0)
    settings = guard.settings
    assert (settings.max_concurrency, settings.requests_per_minute, settings.queue_timeout_s) == (3, 100, 10)


def test_a_node_that_is_edited_replaces_what_it_asked_for(registry):
    guard = ask(registry, asked_by="a", max_concurrency=2)
    ask(registry, asked_by="b", max_concurrency=5)
    assert guard.settings.max_concurrency == 2
    ask(registry, asked_by="a", max_concurrency=9)
    assert guard.settings.max_concurrency == 5


def test_a_node_that_has_not_asked_for_ten_minutes_no_longer_counts(registry, clock):
    guard = ask(registry, asked_by="deleted", max_concurrency=2)
    clock.step(1)
    ask(registry, asked_by="alive", max_concurrency=5)
    clock.step(FORGET_AFTER_S - 2)
    ask(registry, asked_by="alive", max_concurrency=5)
    assert guard.settings.max_concurrency == 2
    clock.step(1)
    ask(registry, asked_by="alive", max_concurrency=5)
    assert guard.settings.max_concurrency == 5


def test_a_node_that_keeps_asking_is_not_forgotten(registry, clock):
    guard = ask(registry, asked_by="a", max_concurrency=2)
    for _ in range(5):
        clock.step(FORGET_AFTER_S / 2)
        ask(registry, asked_by="a", max_concurrency=2)
        ask(registry, asked_by="b", max_concurrency=5)
    assert guard.settings.max_concurrency == 2


def test_a_disagreement_names_the_guard_and_both_limits(registry):
    ask(registry, asked_by="strict", max_concurrency=2, requests_per_minute=90)
    wanted = GuardSettings(max_concurrency=8)
    guard = registry.guard("guard", wanted, asked_by="node")
    text = disagreement(guard, wanted)
    assert "'guard'" in text
    assert "max_concurrency 2 instead of 8" in text
    assert "requests_per_minute 90 instead of no limit" in text
    assert "max_queue" not in text
    assert disagreement(guard, guard.settings) == ""


def test_guards_without_work_are_dropped_beyond_the_bound_the_longest_unasked_first(registry, monkeypatch):
    monkeypatch.setattr(module, "MAX_IDLE_GUARDS", 3)
    first, second = ask(registry, key="1"), ask(registry, key="2")
    ask(registry, key="3")
    assert ask(registry, key="1") is first
    ask(registry, key="4")
    assert [guard.name for guard in registry.guards()] == ["3", "1", "4"]
    assert ask(registry, key="2") is not second


def test_a_guard_with_work_is_never_dropped(registry, monkeypatch):
    monkeypatch.setattr(module, "MAX_IDLE_GUARDS", 1)
    busy = ask(registry, key="busy", max_concurrency=1)
    with busy.slot():
        for number in range(5):
            ask(registry, key=str(number))
        assert ask(registry, key="busy", max_concurrency=1) is busy
    ask(registry, key="new")
    assert [guard.name for guard in registry.guards()] == ["new"]


def test_the_process_has_one_registry_and_copies_of_its_guards_are_the_guards():
    guard = guard_registry().guard("one of a test", GuardSettings(), asked_by="node")
    assert guard_registry().guard("one of a test", GuardSettings(), asked_by="node") is copy.deepcopy(guard)


def test_a_forked_child_starts_with_no_guards_and_with_limits_of_its_own():
    source = """
        import os
        from langflow_sluice.guard import GuardSettings, guard_registry
        guard = guard_registry().guard("shared", GuardSettings(max_concurrency=1), asked_by="node")
        with guard.slot(), guard_registry()._lock:
            child = os.fork()
            if not child:
                empty = not guard_registry().guards()
                theirs = guard_registry().guard("shared", GuardSettings(max_concurrency=1), asked_by="node")
                with theirs.slot():
                    os._exit(0 if empty and theirs is not guard else 1)
        print(os.waitpid(child, 0)[1], guard_registry().guards() == [guard])
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("0 True\n", "")
