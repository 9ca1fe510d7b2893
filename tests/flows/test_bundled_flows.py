import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations

import pytest

from langflow_sluice.canvas import files
from langflow_sluice.canvas.bundled import bundled_flows, bundled_folder
from langflow_sluice.canvas.library import FLOWS, find
from langflow_sluice.errors import InvalidInput


@pytest.fixture(params=[definition.slug for definition in FLOWS])
def fresh(request, catalog):
    return find(request.param).build(catalog).to_dict()


def test_the_file_is_what_the_definition_and_the_nodes_sources_give(fresh):
    path = bundled_folder() / find(fresh["endpoint_name"]).file

    assert path.read_text("utf-8") == files.render(fresh), "run: sluice flows build"


def test_langflow_builds_a_graph_with_every_node_and_edge(fresh):
    from lfx.graph.graph.base import Graph

    graph = Graph.from_payload(fresh["data"])

    nodes = [node for node in fresh["data"]["nodes"] if node["type"] == "genericNode"]
    assert {vertex.id for vertex in graph.vertices} == {node["id"] for node in nodes}
    assert len(graph.edges) == len(fresh["data"]["edges"])


def test_no_password_field_holds_anything_but_the_name_of_a_variable(fresh):
    fields = [
        field
        for node in fresh["data"]["nodes"]
        for field in node["data"]["node"]["template"].values()
        if isinstance(field, dict) and field.get("password") and field["value"]
    ]

    assert all(field["load_from_db"] for field in fields)
    assert {field["value"] for field in fields} <= {"OPENAI_API_KEY", "SLUICE_DATABASE_URL"}


def test_a_note_says_what_to_look_at_and_nothing_overlaps(fresh):
    nodes = fresh["data"]["nodes"]
    boxes = [(n["position"]["x"], n["position"]["y"], n["measured"]["width"], n["measured"]["height"]) for n in nodes]

    assert any(
        "**Look at**" in n["data"]["node"]["description"] or "**Use it.**" in n["data"]["node"]["description"]
        for n in nodes
    )
    for (x, y, width, height), (left, top, wide, high) in combinations(boxes, 2):
        assert x + width <= left or left + wide <= x or y + height <= top or top + high <= y


def test_every_node_outside_the_notes_is_reached_from_the_chat_input_or_feeds_another(fresh):
    edges = fresh["data"]["edges"]
    nodes = {node["id"] for node in fresh["data"]["nodes"] if node["type"] == "genericNode"}

    assert {edge["source"] for edge in edges} | {edge["target"] for edge in edges} == nodes
    assert {"ChatInput-in", "ChatOutput-out"} <= nodes


def test_a_build_writes_what_can_be_built_and_says_what_cannot_and_why(tmp_path, catalog, monkeypatch):
    monkeypatch.setattr(catalog, "_bundles", {**catalog._bundles, "sluice": {}})

    report = files.build_all(tmp_path, catalog=catalog, slugs=["batch_run_unbounded", "fan_out_rows"])

    assert report.written == [tmp_path / "unsafe" / "batch_run_unbounded.json"]
    assert "FanOutComponent" in report.failed["fan_out_rows"]
    with pytest.raises(InvalidInput, match="no such bundled flow"):
        files.build_all(tmp_path, catalog=catalog, slugs=["nothing"])


def test_a_check_names_the_changed_the_missing_and_the_stray(tmp_path, catalog, monkeypatch):
    only = (find("batch_run_unbounded"),)
    monkeypatch.setattr(files.library, "FLOWS", only)
    assert [str(item) for item in files.check_all(tmp_path, catalog=catalog)] == [
        "unsafe/batch_run_unbounded.json: the file is missing"
    ]
    files.build_all(tmp_path, catalog=catalog)
    assert files.check_all(tmp_path, catalog=catalog) == []

    path = tmp_path / "unsafe" / "batch_run_unbounded.json"
    flow = json.loads(path.read_text("utf-8"))
    flow["data"]["nodes"][0]["data"]["node"]["template"]["code"]["value"] += "# edited"
    del flow["data"]["edges"][0]
    path.write_text(files.render(flow), "utf-8")
    (tmp_path / "stray.json").write_text("{}")

    assert [str(item) for item in files.check_all(tmp_path, catalog=catalog)] == [
        "unsafe/batch_run_unbounded.json: edge ChatInput-in -> SplitText-lines is not in the file",
        "unsafe/batch_run_unbounded.json: node ChatInput-in differs in data.node.template.code.value",
        "stray.json: no definition makes this file",
    ]


def test_the_flows_on_disk_are_listed_without_langflow(tmp_path):
    code = (
        "import sys; from langflow_sluice.canvas.bundled import bundled_flows\n"
        "print([(flow.slug, flow.unsafe) for flow in bundled_flows()]); assert 'lfx' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)

    assert "('batch_run_unbounded', True)" in done.stdout
    assert all(flow.load()["endpoint_name"] == flow.slug for flow in bundled_flows())


class _Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = {"role": "assistant", "content": "heard " + request["messages"][-1]["content"]}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "x", "object": "chat.completion", "created": 1, "model": request["model"], "choices": [choice]}
        answer["usage"] = usage  # without it Batch Run answers one empty row and calls it a success
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


RUN = """
import asyncio, json, sys
from lfx.load import arun_flow_from_json

flow, text, base_url = json.loads(sys.stdin.read())
tweaks = {"OpenAIModelComponent-llm": {"openai_api_base": base_url}}
runs = asyncio.run(
    arun_flow_from_json(flow, text, input_type="chat", output_type="chat", tweaks=tweaks, session_id="test")
)
print("ANSWER", json.dumps(runs[0].outputs[0].results["message"].text))
"""


def test_batch_run_answers_with_every_row_when_the_provider_takes_them_all(tmp_path, catalog):
    flow = find("batch_run_unbounded").build(catalog).to_dict()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Provider)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", RUN],
            input=json.dumps([flow, "one apple\ntwo pears\n\nthree", f"http://127.0.0.1:{server.server_port}/v1"]),
            env={
                **os.environ,
                "DO_NOT_TRACK": "true",
                "LANGFLOW_CONFIG_DIR": str(tmp_path),
                "LANGFLOW_PROVIDER_CREDENTIAL_ALLOWED_HOSTS": "http://127.0.0.1",
                "LANGFLOW_SSRF_ALLOWED_HOSTS": "127.0.0.1",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "OPENAI_API_KEY": "not-a-key",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.rsplit("ANSWER ", 1)[1])
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in answer.splitlines()[2:]]
    assert rows == [["one apple", "heard one apple"], ["two pears", "heard two pears"], ["three", "heard three"]]
