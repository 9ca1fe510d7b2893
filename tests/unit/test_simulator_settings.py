from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from langflow_sluice.errors import InvalidInput
from langflow_sluice.simulator import ProviderSettings
from langflow_sluice.simulator.settings import FAULTS


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": -1},
        {"slots": 1.5},
        {"slots": True},
        {"service_s": -0.1},
        {"service_s": float("nan")},
        {"service_s": "fast"},
        {"dimensions": 0},
        {"dimensions": 100_000},
        {"fault": "explode"},
        {"fault": "status:200"},
        {"fault": "status:abc"},
        {"fault": "stream"},
    ],
)
def test_a_wrong_setting_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        ProviderSettings(**wrong)


def test_a_change_keeps_the_other_settings() -> None:
    changed = ProviderSettings(slots=3, keys=("k",)).changed({"fault": "status:503"})
    assert (changed.slots, changed.keys, changed.fault_status) == (3, ("k",), 503)


@pytest.mark.parametrize("fault", [*FAULTS, "status:400", "status:529", "status:599"])
def test_each_fault_that_is_documented_can_be_set(fault: str) -> None:
    assert ProviderSettings().changed({"fault": fault}).fault == fault
    assert fault.partition(":")[0] in str(ProviderSettings.__doc__)


@pytest.mark.parametrize("name", ["keys", "record_limit", "nonsense"])
def test_what_is_fixed_at_the_start_cannot_be_changed(name: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        ProviderSettings().changed({name: 1})


def test_keys_are_never_shown() -> None:
    settings = ProviderSettings(keys=("canary-key",))
    assert "canary" not in repr(settings)
    assert "canary" not in str(settings.public())


def test_the_command_says_what_is_wrong_with_its_arguments() -> None:
    command = [sys.executable, "-m", "langflow_sluice.simulator", "--fault", "explode"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "explode" in done.stderr


def test_using_a_provider_in_another_process_loads_no_web_framework() -> None:
    code = "import sys, langflow_sluice.simulator as s; s.ProviderProcess; s.ProviderSettings; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert {"starlette", "uvicorn", "httpx"}.isdisjoint(done.stdout.split())
