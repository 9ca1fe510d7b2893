"""Every command in the README is run, here or by a test that is named here."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

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
    program, *arguments = command.removeprefix("uv run ").split()
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
    assert shutil.which("curl"), "curl is not installed"
    (command,) = [each for each in commands() if each.startswith("curl")]
    done = run(["sh", "-c", with_values(command, stack)])
    assert done.returncode == 0, done.stderr
    assert "first row" in done.stdout
    assert "second row" in done.stdout


@pytest.mark.usefixtures("flow")
def test_the_python_call_of_the_readme_runs_a_flow(stack, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"LANGFLOW_URL": stack.langflow.base_url, "LANGFLOW_API_KEY": stack.langflow.api_key}
    exec(compile(with_values(code, stack), "README.md", "exec"), names)  # noqa: S102 - our own README
    printed = capsys.readouterr().out
    assert "first row" in printed
    assert "second row" in printed
