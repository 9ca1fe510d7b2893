"""Graphs with sections, built in this process and run by Langflow's own scheduler."""

import asyncio
import contextlib
import importlib.util
import sys
import types
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent


class Probe(types.ModuleType):
    """What the nodes of a test tell; one object however often their source is executed."""

    def __init__(self):
        super().__init__("section_probe")
        self.rows = 5
        self.failing = set()
        self.runs = Counter()
        self.results = {}
        self.now = Counter()
        self.most = Counter()
        self.turns = lambda _: 3
        self.hold = asyncio.Event()
        self.hold.set()
        self.shared = []

    def ran(self, node):
        self.runs[node] += 1

    @contextlib.contextmanager
    def inside(self, node):
        self.now[node] += 1
        self.most[node] = max(self.most[node], self.now[node])
        try:
            yield
        finally:
            self.now[node] -= 1


@pytest.fixture
def probe(monkeypatch):
    module = Probe()
    monkeypatch.setitem(sys.modules, "section_probe", module)
    return module


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nodes(probe):  # noqa: ARG001 - the nodes' source imports it
    module = load(HERE / "section_nodes.py", "section_nodes_under_test")
    yield module
    sys.modules.pop("section_nodes_under_test")


@pytest.fixture
def sluice_nodes():
    folder = HERE.parents[1] / "components" / "sluice"
    return types.SimpleNamespace(
        fan_out=load(folder / "fan_out.py", "fan_out_under_test").FanOutComponent,
        gate=load(folder / "concurrency_gate.py", "gate_under_test").ConcurrencyGateComponent,
    )
