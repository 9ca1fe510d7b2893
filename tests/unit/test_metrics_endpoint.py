"""The endpoint of our own: where it opens, and what is said where it cannot."""

from __future__ import annotations

import logging
import socket
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from langflow_sluice.errors import InvalidInput
from langflow_sluice.guard import GuardSettings
from langflow_sluice.guard.registry import guard_registry
from langflow_sluice.metrics.endpoint import ADDRESS_VARIABLE, Endpoint, parsed
from langflow_sluice.metrics.figures import figures
from langflow_sluice.metrics.state_folder import FOLDER_VARIABLE, StateFolder
from langflow_sluice.testing import isolated_guards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from langflow_sluice.guard import Guard


@pytest.fixture
def guard() -> Iterator[Guard]:
    with isolated_guards():
        yield guard_registry().guard("crm", GuardSettings(), asked_by="test")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_it_answers_for_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int, guard: Guard
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv(ADDRESS_VARIABLE, str(free_port))
    with guard.slot():
        StateFolder(tmp_path).write(figures())
    first, second = Endpoint(), Endpoint()
    first._registered = second._registered = True  # Langflow's registry belongs to the whole test run
    try:
        first.tend()
        second.tend()
        assert second._server is None
        first.close()
        second.tend()
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics", timeout=10) as answer:
            assert b'sluice_guard_admitted_total{guard="crm"' in answer.read()
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("address", ["here", "0", "70000", "host:", "-1", "1٣"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match=ADDRESS_VARIABLE):
        parsed(address)


def test_it_is_this_machines_own_unless_told_otherwise() -> None:
    assert parsed("9464") == ("127.0.0.1", 9464)
    assert parsed("0.0.0.0:9464") == ("0.0.0.0", 9464)  # noqa: S104 - an operator's wish
    assert parsed("[::]:9464") == ("::", 9464)


def test_it_answers_at_an_address_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
            port = listener.getsockname()[1]
    except OSError:
        pytest.skip("this machine has no IPv6")
    monkeypatch.setenv(ADDRESS_VARIABLE, f"[::1]:{port}")
    endpoint = Endpoint()
    endpoint._registered = True
    try:
        endpoint.tend()
        with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=10) as answer:
            assert answer.status == 200
    finally:
        endpoint.close()


# An address kept for documentation, one that is none, one that is too long for a name.
@pytest.mark.parametrize("host", ["192.0.2.1", "[::1", "x" * 80])
def test_an_address_that_cannot_be_had_is_said_once(
    host: str, monkeypatch: pytest.MonkeyPatch, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, f"{host}:{free_port}")
    endpoint = Endpoint()
    endpoint._registered = True
    with caplog.at_level(logging.WARNING, "langflow_sluice.metrics"):
        endpoint.tend()
        endpoint.tend()
    [record] = caplog.records
    assert f"{ADDRESS_VARIABLE}={host}:{free_port}" in record.getMessage()


def test_a_port_that_another_worker_has_is_nothing_to_speak_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = Endpoint()
    endpoint._registered = True
    with socket.create_server(("127.0.0.1", 0)) as other, caplog.at_level(logging.WARNING):
        monkeypatch.setenv(ADDRESS_VARIABLE, str(other.getsockname()[1]))
        endpoint.tend()
    assert endpoint._server is None
    assert not caplog.records


def test_an_address_without_a_port_does_not_cost_langflows_own_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    monkeypatch.setattr("prometheus_client.REGISTRY", registry)
    monkeypatch.setenv(ADDRESS_VARIABLE, "here")
    with pytest.raises(InvalidInput):
        Endpoint().tend()
    assert b"sluice_" in generate_latest(registry)
