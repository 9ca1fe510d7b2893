"""For all tests."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

import pytest

from langflow_sluice.single_flight import clear_caches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langflow_sluice.simulator import ProviderControl


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps those together that share a server, and lets hypothesis look at all modules after the collection.

    Tests run in two processes. A Langflow takes most of a minute to start, so all that use it run in one of them, one
    after the other.

    Looking at langflow's aliases of lfx imports what they stand for; after ``lfx.io`` alone, lfx then fails in a circle
    of imports that ``lfx.custom`` enters from the right side.
    """
    for item in items:
        if item.path.parent.name == "e2e":
            item.add_marker(pytest.mark.xdist_group("the running server"))
    if "langflow" in sys.modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import lfx.custom  # noqa: F401
            from lfx.services.deps import get_settings_service

            # Langflow's settings are read once for the process: now, not within a test that sets variables for itself.
            get_settings_service()


@pytest.fixture(autouse=True, scope="session")
def _own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The figures of a test run are nobody else's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLUICE_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _empty_caches():
    """No test finds what another one has asked for: providers of tests come back on the same ports."""
    clear_caches()


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Langflow's own check lets nodes reach servers of this machine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lfx warns of its own code when its settings load
        from lfx.services.deps import get_settings_service

        get_settings_service()
    # Only now: settings that are loaded with it would allow it to all tests that follow.
    monkeypatch.setenv("LANGFLOW_SSRF_ALLOWED_HOSTS", "127.0.0.1,localhost")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def provider(reachable: None) -> Iterator[ProviderControl]:  # noqa: ARG001 - for its effect
    """A simulated provider of models; the connections to it are closed afterwards."""
    from langflow_sluice.http_clients import client_cache
    from langflow_sluice.simulator import ProviderSettings, serve_in_thread

    with serve_in_thread(ProviderSettings(slots=100, service_s=0.0)) as control:
        yield control
        client_cache().close()
