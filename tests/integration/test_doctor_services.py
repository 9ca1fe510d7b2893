"""The doctor at services whose answers are recorded: headers of a provider, the palette and the flows of Langflow."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from langflow_sluice.doctor import pack
from langflow_sluice.doctor.deployment import Expectations
from langflow_sluice.doctor.examination import Examination, Options, examine
from langflow_sluice.doctor.server import facts_of_flows, look_at_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

POOLED = "ext:sluice:PooledPGRetrieverComponent@official"
MODEL = "ext:sluice:RateLimitedLLMComponent@official"


@pytest.fixture
def answers() -> Iterator[Callable[[Mapping[str, Any]], str]]:
    """A server that gives each path its recorded answer, as JSON with headers; the others are 404."""
    servers = []

    def serve(recorded: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = recorded.get(self.path.split("?")[0])
                self.send_response(404 if body is None else 200)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def visit(*, environment: Mapping[str, str] | None = None, **options: Any) -> Examination:
    return examine(Options(with_import=False, **options), environment or {})


def codes(examination: Examination) -> dict[str, str]:
    return {finding.code: finding.severity for finding in examination.findings}


def node(kind: str, **values: Any) -> dict[str, Any]:
    template = {name: {"value": value} for name, value in values.items()}
    return {"data": {"type": kind, "node": {"template": {"_type": "Component", **template}}}}


def langflow(*types: str, flows: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "/api/v1/auto_login": {"access_token": "token"},
        "/api/v1/version": {"version": "1.13.0"},
        "/api/v1/all": {
            "sluice": {name: {"extension_version": "0.1.0"} for name in types},
            "inputs": {"ChatInput": {}},
        },
        "/api/v1/flows/": flows or [],
    }


def test_the_limit_in_a_providers_headers_is_held_against_all_workers(answers: Any) -> None:
    base_url = answers({"/v1/models": {"data": []}}, {"x-ratelimit-limit-requests": "500"})
    environment = {"SLUICE_REQUESTS_PER_MINUTE": "300", "LANGFLOW_WORKERS": "2"}
    seen = visit(environment=environment, provider_url=f"{base_url}/v1")
    limit = next(finding for finding in seen.findings if finding.code == "provider_limit")
    assert "2 x 300 = 600 requests a minute" in limit.observed
    assert limit.fixes[0].value == 250
    fitting = visit(environment={**environment, "SLUICE_REQUESTS_PER_MINUTE": "250"}, provider_url=f"{base_url}/v1")
    assert "provider_limit" not in codes(fitting)
    assert "provider_not_checked" not in codes(fitting)


def test_no_limit_of_requests_at_all_is_over_any_limit(answers: Any) -> None:
    base_url = answers({"/v1/models": {"data": []}}, {"x-ratelimit-limit-requests": "500"})
    seen = visit(provider_url=f"{base_url}/v1")
    assert "any number" in next(finding.observed for finding in seen.findings if finding.code == "provider_limit")


def test_a_running_langflow_with_the_pack_is_told_with_both_versions(answers: Any) -> None:
    seen = visit(langflow_url=answers(langflow(POOLED, MODEL)))
    found = next(finding for finding in seen.findings if finding.code == "pack_found")
    assert "Langflow 1.13.0" in found.observed
    assert "2 nodes of langflow-sluice 0.1.0" in found.observed
    assert "pack_missing" not in codes(seen)
    assert "pack_not_checked" not in codes(seen)


def test_a_running_langflow_without_the_pack_is_an_error_that_says_where_to_look(answers: Any) -> None:
    seen = visit(langflow_url=answers(langflow()))
    missing = next(finding for finding in seen.findings if finding.code == "pack_missing")
    assert missing.severity == "error"
    assert "is installed here" in missing.observed


def test_what_is_no_langflow_is_told_and_does_not_end_the_visit(answers: Any) -> None:
    for recorded in ({}, {"/api/v1/auto_login": ["a"]}, {**langflow(), "/api/v1/all": [1]}):
        assert codes(visit(langflow_url=answers(recorded)))["langflow_unreachable"] == "error"


def test_the_flows_of_a_server_say_how_large_our_pools_are_and_which_flows_open_engines(answers: Any) -> None:
    flows = [
        {
            "name": "rag",
            "data": {
                "nodes": [
                    node(POOLED, database_url="DB", pool_size=8, max_overflow=2),
                    node(POOLED, database_url="DB", pool_size=8, max_overflow=2),  # the same pool
                    node(POOLED, database_url="OTHER", pool_size=3, max_overflow=0),
                    node(MODEL, max_concurrency=12, requests_per_minute=40, total_timeout=450),
                ]
            },
        },
        {"name": "stock", "data": {"nodes": [node("ext:pgvector:PGVectorStoreComponent@official")]}},
        {"name": "empty", "data": None},
    ]
    seen = look_at_server(answers(langflow(POOLED, flows=flows)), "", timeout_s=5)
    assert seen.flows == facts_of_flows(flows)
    assert seen.flows is not None
    assert sorted(seen.flows.pools) == [3, 10]
    assert (seen.flows.model_concurrency, seen.flows.requests_per_minute, seen.flows.longest_s) == (12, 40, 450)
    checked = visit(langflow_url=answers(langflow(POOLED, flows=flows)), expected=Expectations(machines=2))
    assert codes(checked)["stock_pgvector"] == "warning"
    assert codes(checked)["worker_timeout"] == "warning"  # 300 s, and a node of the flows may take 450
    in_flight = next(one for one in checked.sums if one.title.startswith("Calls in flight"))
    assert in_flight.total == 2 * 12


def test_nodes_that_cannot_be_imported_are_told_by_name_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "broken" / "sluice"
    package.mkdir(parents=True)
    (package / "good.py").write_text("")
    (package / "bad.py").write_text("import something_that_is_not_here\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    failed, problem = pack._import("broken.sluice", 30)
    assert failed == {"bad": "ModuleNotFoundError: No module named 'something_that_is_not_here'"}
    assert not problem
    assert "something_that_is_not_here" not in pack._import("absent", 30)[1]
    assert "ModuleNotFoundError" in pack._import("absent", 30)[1]


@pytest.mark.slow
def test_the_pack_as_installed_here_is_found_and_its_nodes_import() -> None:
    found = pack.look_at_pack("", with_import=True, timeout_s=120)
    assert found.entry_point == "langflow_sluice.components"
    assert found.manifest
    assert (found.failed, found.problem) == ({}, "")


def test_a_folder_that_holds_the_pack_too_is_shadowed_and_one_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "extension.json").write_text('{"id": "langflow-sluice"}')
    seen = visit(environment={"LANGFLOW_COMPONENTS_PATH": f"{tmp_path}:/nowhere"})
    assert codes(seen)["pack_shadowed"] == "warning"
    assert codes(seen)["components_path_missing"] == "warning"
