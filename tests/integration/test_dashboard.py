"""The dashboard against what a live guard, pool and client export: every name it asks for, and every name there is."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from langflow_sluice import http_clients
from langflow_sluice.guard import GuardSettings
from langflow_sluice.guard.registry import guard_registry
from langflow_sluice.http_clients import ClientCache, HttpTimeouts
from langflow_sluice.metrics.dashboard import dashboard_json
from langflow_sluice.metrics.figures import figures
from langflow_sluice.metrics.loop_lag import loop_lags
from langflow_sluice.metrics.prometheus import SluiceCollector
from langflow_sluice.postgres.engines import connection, engine_for
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import parse_database_url
from langflow_sluice.simulator import ProviderSettings, serve_in_thread
from langflow_sluice.testing import ManualClock, isolated_guards

if TYPE_CHECKING:
    from prometheus_client import Metric

_LABELS = re.compile(r"\bby \(([^)]*)\)")
_SELECTOR = re.compile(r"(sluice_\w+)\{([^}]*)\}")
_VARIABLE = re.compile(r"label_values\((sluice_\w+), (\w+)\)")


@pytest.fixture
async def exported(database_url: str, monkeypatch: pytest.MonkeyPatch) -> list[Metric]:
    """What the collector exports while a guard, a pool and a client are in use."""
    cache = ClientCache()
    monkeypatch.setattr(http_clients, "_cache", cache)
    loop_lags.watch_running_loop()
    loop_lags.look()
    await asyncio.sleep(0)
    with isolated_guards(ManualClock()), serve_in_thread(ProviderSettings(service_s=0.0)) as provider:
        guard = guard_registry().guard("crm", GuardSettings(max_concurrency=2, adaptive=True), asked_by="test")
        engine = engine_for(parse_database_url(database_url), PoolSettings())
        client = cache.clients("", provider.base_url, "key", HttpTimeouts()).asynchronous
        async with guard.slot(), connection(engine), client.stream("GET", f"{provider.base_url}/models"):
            told = figures()
        await client.aclose()
    cache.close()
    registry = CollectorRegistry()
    registry.register(SluiceCollector(lambda: [told]))
    return list(text_string_to_metric_families(generate_latest(registry).decode()))


async def test_the_dashboard_and_the_metrics_are_about_the_same_things(exported: list[Metric]) -> None:
    labels = {sample.name: set(sample.labels) for family in exported for sample in family.samples}
    families = {sample.name: family.name for family in exported for sample in family.samples}
    assert {family.name for family in exported} == set(families.values()), "a metric without a sample proves nothing"
    board = json.loads(dashboard_json())
    shown: set[str] = set()
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            named = _SELECTOR.findall(query)
            assert set(re.findall(r"\bsluice_\w+", query)) == {name for name, _ in named}
            for name, selector in named:
                assert name in labels, panel["title"]
                assert set(re.findall(r"(\w+)=~", selector)) <= labels[name], panel["title"]
                for kept in _LABELS.findall(query):
                    assert set(re.split(r", ?", kept)) <= labels[name], panel["title"]
            shown |= {families[name] for name, _ in named}
    assert shown == set(families.values())
    for name, label in _VARIABLE.findall(dashboard_json()):
        assert label in labels[name]
