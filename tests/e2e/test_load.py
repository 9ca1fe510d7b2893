"""``sluice load`` on a real Langflow: the flow on a shared pool and its unsafe twin, with few connections to be had."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.load.command import load

from .callers import tell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .conftest import Stack

# More than ten calls of the unsafe flow leave open one after the other, and fewer than twenty at once need.
MAX_CONNECTIONS, RESERVED = 30, 3
REQUESTS, LEVELS = 60, "5,20"
SHARES = {"p50_s": 50, "p90_s": 90, "p95_s": 95, "p99_s": 99, "max_s": 100}
SECRET_QUESTION = "What is kept in shed 7?"
NOTES = [f"In shed {number} they keep {number} coils of rope." for number in range(30)]
ARTIFACTS = Path(__file__).parents[2] / "test-artifacts"

app = typer.Typer()
app.command()(load)


class Relay:
    """Stands between the command and the server, and measures each run by the bytes that pass.

    Args:
        port: The server's.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._runs: list[tuple[float, float]] = []
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._server.close)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def runs(self) -> list[float]:
        """How long each run took, in the order of their ends."""
        return [ended - began for began, ended in sorted(self._runs, key=lambda run: run[1])]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._to)
        under_way: list[float] = []

        def note() -> None:
            if len(under_way) == 2:
                self._runs.append((under_way[0], under_way[1]))
            under_way.clear()

        async def requests() -> None:
            while data := await reader.read(65536):
                if len(under_way) == 2:
                    note()
                if not under_way and data.startswith(b"POST /api/v1/run/"):
                    under_way.append(time.perf_counter())
                forth.write(data)
            note()
            forth.close()

        async def answers() -> None:
            while data := await back.read(65536):
                if under_way:
                    under_way[1:] = [time.perf_counter()]
                writer.write(data)
            writer.close()

        await asyncio.gather(requests(), answers(), return_exceptions=True)


@pytest.fixture
def few_connections(running: Stack) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(max_connections=MAX_CONNECTIONS) as postgres:
        running.client.set_variable("SLUICE_DATABASE_URL", postgres.url)
        yield postgres
        running.client.set_variable("SLUICE_DATABASE_URL", running.postgres.url)


def by_rank(times: Sequence[float], share: int) -> float:
    return sorted(times)[math.ceil(share * len(times) / 100) - 1]


@pytest.mark.slow
def test_load_tells_the_pooled_flow_from_its_unsafe_twin_and_names_the_database_with_percentiles_that_a_relay_confirms(
    stack: Stack, few_connections: EmbeddedPostgres, tmp_path: Path
) -> None:
    stack.provider.configure(slots=100)
    stack.run("ingest_documents", "\n".join(NOTES))
    assert stack.run("rag_pooled_postgres", SECRET_QUESTION) == NOTES[7]
    stack.run("rag_pgvector", SECRET_QUESTION)
    (tmp_path / "tweaks.json").write_text(json.dumps(stack.tweaks))
    (tmp_path / "questions.txt").write_text("\n".join(f"What is kept in shed {number}?" for number in range(30)))
    relay = Relay(stack.langflow.port)
    out = ARTIFACTS if ARTIFACTS.is_dir() else tmp_path
    with relay.running():
        options = {
            "--against": "rag_pgvector",
            "--url": f"http://127.0.0.1:{relay.port}",
            "--concurrency": LEVELS,
            "--requests": str(REQUESTS),
            "--warm-up": "0",
            "--inputs": str(tmp_path / "questions.txt"),
            "--tweaks": str(tmp_path / "tweaks.json"),
            "--state-dir": str(stack.langflow.folder / "state"),
            "--json": str(out / "load.json"),
            "--html": str(out / "load.html"),
            "--png": str(out / "load.png"),
        }
        variables = {"LANGFLOW_API_KEY": stack.langflow.api_key, "SLUICE_DATABASE_URL": few_connections.url}
        words = [word for option in options.items() for word in option]
        result = CliRunner().invoke(app, ["rag_pooled_postgres", *words], env=variables)
    tell(result.output)
    told = json.loads((out / "load.json").read_text())
    safe, unsafe = told["flows"]

    assert result.exit_code == 1
    assert (safe["verdict"], safe["dependency"]) == ("holds", "")
    assert (unsafe["verdict"], unsafe["dependency"]) == ("scaling problem", "database")
    assert sum(stage["failed"] for stage in safe["stages"]) == 0 == unsafe["stages"][0]["failed"]
    assert "PGVector" in unsafe["explanation"]
    assert "rag_pooled_postgres holds; rag_pgvector: scaling problem in the database" in told["comparison"]
    assert told["max_connections"] == MAX_CONNECTIONS - RESERVED
    assert safe["stages"][-1]["connections"] <= 10 < unsafe["stages"][-1]["connections"]
    # The flow's models stand behind guards, and its pool asks the database: all parts are known.
    assert all(part is not None for part in safe["stages"][-1]["split"].values())

    runs = relay.runs()
    stages: list[dict[str, Any]] = [*safe["stages"], *unsafe["stages"]]
    assert len(runs) == sum(stage["requests"] for stage in stages)
    for stage in stages:
        of_stage, runs = runs[: stage["requests"]], runs[stage["requests"] :]
        for name, share in SHARES.items():
            seen, measured = by_rank(of_stage, share), stage["latency"][name]
            tell(f"{stage['kind']} {stage['concurrency']} {name}: {measured:.3f} s, the relay {seen:.3f} s")
            assert measured == pytest.approx(seen, rel=0.05)

    everything = result.output + (out / "load.json").read_text()
    for secret in (
        stack.langflow.api_key,
        stack.key,
        few_connections.url.split("@")[0].split(":")[-1],
        SECRET_QUESTION,
    ):
        assert secret not in everything
