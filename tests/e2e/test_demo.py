"""The demo, run as the README says, and interrupted as people do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SLUICE = str(Path(sys.executable).with_name("sluice"))
# How long the parts of an interrupted demo may take to be gone; a bound against hanging, not a measure.
GONE_WITHIN_S = 60


def environment(tmp_path):
    # A temp folder of its own: what the demo leaves behind shows.
    (tmp_path / "tmp").mkdir()
    return {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "COLUMNS": "100"}


def heed_interrupts():
    """Between fork and exec: a shell that starts the tests in the background lets all of them ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def alive(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def started_in(folder):
    """Processes, of whatever parent, that were given this temp folder."""
    wanted = f"TMPDIR={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                variables = (entry / "environ").read_bytes()
            except OSError:
                continue
            if wanted in variables and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def wait_until_gone(folder):
    end = time.monotonic() + GONE_WITHIN_S
    while started_in(folder) and time.monotonic() < end:
        os.sched_yield()
    return started_in(folder)


def test_the_demo_keeps_its_claims_and_leaves_nothing_behind(tmp_path):
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [SLUICE, "demo", "--json", str(figures)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sides = {side["flow"]: side for side in json.loads(figures.read_text("utf-8"))["sides"]}
    rows, rag = sides["fan_out_rows"], sides["rag_pooled_postgres"]
    assert (rows["kept"], rows["requests"], rows["throttled"]) == (100, 100, 0)
    assert (rag["kept"], rag["failures"]) == (200, 0)
    assert 0 < rag["peak_connections"] <= 10
    # The unsafe side shows what it really did: more requests than rows, and most of them refused.
    assert sides["batch_run_unbounded"]["requests"] > 100
    assert sides["batch_run_unbounded"]["throttled"] > 0
    assert sides["rag_pgvector"]["peak_connections"] > 10
    assert "kept   fan_out_rows: all 100 kept: 100" in done.stdout
    assert wait_until_gone(tmp_path / "tmp") == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_interrupted_demo_leaves_no_process_and_no_folder_behind(tmp_path):
    process = subprocess.Popen(
        [SLUICE, "demo"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
        preexec_fn=heed_interrupts,  # noqa: PLW1509 - sets one signal, no more
    )
    with process:
        for line in process.stdout:
            # PostgreSQL and the provider are up and Langflow is starting.
            if "simulated provider" in line:
                break
        assert len(started_in(tmp_path / "tmp")) > 1
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert "nothing is left running" in rest
    assert wait_until_gone(tmp_path / "tmp") == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_real_provider_without_a_key_is_refused_before_langflow_starts(tmp_path):
    variables = {name: value for name, value in environment(tmp_path).items() if name != "OPENAI_API_KEY"}
    done = subprocess.run(
        [SLUICE, "demo", "--base-url", "http://127.0.0.1:9/v1"],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert "OPENAI_API_KEY is not set" in done.stdout
