import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from langflow_sluice.canvas import retype
from langflow_sluice.canvas.bundled import bundled_flows
from langflow_sluice.canvas.install import NodesMissing, chosen_flows, install_flows
from langflow_sluice.canvas.server import FlowsServer
from langflow_sluice.embedded.langflow_client import LangflowError
from langflow_sluice.errors import InvalidInput

KEY = "sk-canary-0123456789"
NODES = {data["type"]: data["node"] for flow in bundled_flows() for data in retype.nodes_of(flow.load())}


class _Answer(BaseHTTPRequestHandler):
    """What Langflow answers: a server with other nodes than these tests' own is none that can be started."""

    def do_GET(self):
        answers = {"/api/v1/all": {"all": self.server.nodes}, "/api/v1/flows/": [], "/api/v1/variables/": []}
        path = self.path.partition("?")[0]
        self.answer(answers.get(path), 200 if self.headers["x-api-key"] == KEY else 403)

    def do_POST(self):
        flow = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.created.append(flow)
        self.answer({**flow, "id": "1"}, 201)

    def answer(self, payload, status):
        body = json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def langflow_with(nodes, key=KEY):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    server.nodes, server.created = nodes, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with FlowsServer(f"http://127.0.0.1:{server.server_port}", key) as client:
            client.created = server.created
            yield client
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def without(*words):
    return {name: node for name, node in NODES.items() if not any(word in name for word in words)}


def test_a_server_without_the_pack_is_told_from_one_with_an_old_pack():
    with langflow_with(without("ext:sluice:")) as server:
        with pytest.raises(NodesMissing, match=r"has no nodes of Sluice.*LANGFLOW_COMPONENTS_PATH"):
            install_flows(server, chosen_flows())
        assert server.created == []

    with langflow_with(without("GuardedBatchRun")) as server:
        report = install_flows(server, chosen_flows())
        [failed] = [flow for flow in report.flows if flow.what == "failed"]
        assert failed.slug == "batch_classify"
        assert "no GuardedBatchRunComponent. Its Sluice is older" in failed.problem
        assert report.failed
        assert len(server.created) == len(report.flows) - 1


def test_a_node_of_another_package_is_missed_by_the_name_of_its_bundle():
    with langflow_with(without("PGVector")) as server:
        report = install_flows(server, chosen_flows(["rag_pgvector", "chat_rate_limited"]))

    assert [flow.what for flow in report.flows] == ["failed", "installed"]
    assert "bundles pgvector there (lfx-bundles)" in report.flows[0].problem


def test_nodes_that_the_server_has_in_another_version_and_variables_it_lacks_are_named():
    nodes = json.loads(json.dumps(NODES))
    nodes["ext:sluice:RateLimitedLLMComponent@official"]["template"]["code"]["value"] += "# newer"
    with langflow_with(nodes) as server:
        report = install_flows(server, chosen_flows(["chat_rate_limited"]))

    assert report.flows[0].outdated == ("Rate-Limited LLM",)
    assert report.missing_variables == ("OPENAI_API_KEY",)
    assert not report.failed


def test_a_wrong_key_no_key_and_no_server_end_the_work_with_what_to_do_and_without_the_key():
    for key, said in ((f"{KEY}x", "does not accept the API key"), (None, "wants an API key")):
        with pytest.raises(LangflowError) as caught, langflow_with(NODES, key) as server:
            install_flows(server, chosen_flows())
        assert said in str(caught.value)
        assert "LANGFLOW_API_KEY" in str(caught.value)
        assert KEY not in str(caught.value)
    with pytest.raises(LangflowError, match="--url"):
        FlowsServer("http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["localhost:7860", "ftp://x", "", "http://me:canary@langflow"])
def test_an_address_that_is_none_or_carries_a_password_is_refused(url):
    with pytest.raises(InvalidInput) as caught:
        FlowsServer(url, KEY)

    assert "canary" not in str(caught.value)


def test_a_flow_brings_the_flows_that_it_calls_and_the_unsafe_twins_come_only_when_asked_for():
    assert [flow.slug for flow in chosen_flows(["fan_out_subflows"])] == ["chat_rate_limited", "fan_out_subflows"]
    assert not any(flow.unsafe for flow in chosen_flows())
    assert [flow for flow in chosen_flows(unsafe=True) if flow.unsafe]
    with pytest.raises(InvalidInput, match="no such bundled flow"):
        chosen_flows(["nothing"])
