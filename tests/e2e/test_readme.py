"""Every command in the README is run, here or by a test that is named here."""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from langflow_sluice.canvas.bundled import bundled_flows

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BIN = Path(sys.executable).parent

# Commands that other tests or `.ci/run` run, since they take long or are what runs this very test.
ELSEWHERE = {
    "pip install uv && uv run sluice demo": "test_demo.py",
    "pip install uv && uv run pytest": "this run",
    "pip install langflow-sluice": "tests/packaging, from the wheel",
    "uv run sluice doctor --env-file .env": "test_doctor.py, on deployments that are right and wrong",
    "uv run sluice dashboard sluice.json": "test_dashboard.py",
    "uv run sluice load rag_pooled_postgres --against rag_pgvector --concurrency 1,5,20 --requests 60 --out report": (
        "test_load.py, on the running server"
    ),
    "uv run sluice flows install rag_pooled_postgres ingest_documents rag_pgvector --url $LANGFLOW_URL": (
        "test_flows_install.py, on the running server"
    ),
    "uv run sluice flows install --url $LANGFLOW_URL": "test_flows_install.py, on the running server",
}


def commands():
    found = []
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        found += [line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    return found


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options)


def test_the_readme_has_the_two_commands_that_set_everything_up():
    assert "pip install uv && uv run sluice demo" in commands()
    assert "pip install uv && uv run pytest" in commands()


@pytest.mark.parametrize(
    "command", [each for each in commands() if each not in ELSEWHERE and not each.startswith("curl")]
)
def test_a_command_of_the_readme_runs(command):
    assert command.startswith("uv run ")
    program, *arguments = shlex.split(command.removeprefix("uv run "))
    # What `uv run` would start, without another resolution of the environment while others use it.
    done = run([str(BIN / program), *arguments], cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


SLUG = "readme_rows"


@pytest.fixture(scope="module")
def flow(running):
    """The flow that the README calls, with its model at the simulated provider, under a name of its own."""
    (bundled,) = [each for each in bundled_flows() if each.slug == "fan_out_rows"]
    content = bundled.load()
    (model,) = [node for node in content["data"]["nodes"] if node["id"] == "RateLimitedLLMComponent-llm"]
    model["data"]["node"]["template"]["base_url"]["value"] = running.provider.base_url
    del content["id"]
    return running.client.upload_flow({**content, "name": "README", "endpoint_name": SLUG})


def with_values(text, stack):
    values = {
        "$LANGFLOW_URL": stack.langflow.base_url,
        "$LANGFLOW_API_KEY": stack.langflow.api_key,
        "fan_out_rows": SLUG,
    }
    for name, value in values.items():
        text = text.replace(name, value)
    return text


@pytest.mark.usefixtures("flow")
def test_the_curl_call_of_the_readme_runs_a_flow(stack):
    (command,) = [each for each in commands() if each.startswith("curl")]
    answer = curl(with_values(command, stack))
    assert "first row" in answer
    assert "second row" in answer


def curl(command):
    """What the command prints; on a machine without curl, what it would print."""
    if shutil.which("curl"):
        done = run(["sh", "-c", command])
        assert done.returncode == 0, done.stderr
        return done.stdout
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="headers", action="append")
    parser.add_argument("-d", dest="body")
    told = parser.parse_args(shlex.split(command)[1:])
    headers = dict(header.split(": ", 1) for header in told.headers)
    return httpx.request(told.method, told.url, headers=headers, content=told.body, timeout=300).text


@pytest.mark.usefixtures("flow")
def test_the_python_call_of_the_readme_runs_a_flow(stack, capsys):
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    names = {"LANGFLOW_URL": stack.langflow.base_url, "LANGFLOW_API_KEY": stack.langflow.api_key}
    exec(compile(with_values(code, stack), "README.md", "exec"), names)  # noqa: S102 - our own README
    printed = capsys.readouterr().out
    assert "first row" in printed
    assert "second row" in printed


async def test_the_test_of_the_readme_passes():
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[1]
    names = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - our own README
    await names["test_the_second_call_a_second_later_need_not_wait"]()
