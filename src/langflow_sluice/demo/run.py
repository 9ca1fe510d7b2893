"""The whole demo: starts the parts, runs both sides, reports, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from langflow_sluice.canvas.bundled import bundled_flows
from langflow_sluice.demo import sides as jobs
from langflow_sluice.demo.measure import Side, as_json, claims
from langflow_sluice.demo.provider import open_provider
from langflow_sluice.demo.report import show
from langflow_sluice.errors import SluiceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from langflow_sluice.demo.provider import Provider
    from langflow_sluice.embedded.langflow import LangflowServer
    from langflow_sluice.embedded.postgres import EmbeddedPostgres

ROWS_JOB, RAG_JOB = "100 rows through a model", "200 questions, 20 at a time"
# What the flow's retriever asks for by default: pool_size 5 and max_overflow 5.
POOL_LIMIT = 10
ADDRESS_FIELDS = ("base_url", "openai_api_base")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line asks for.

    Attributes:
        json_file: Where to write the figures as JSON, if anywhere.
        keep: Whether Langflow stays open afterwards until Ctrl-C.
        strict: Whether claims about the clock decide on the exit code too.
        base_url: Root of a real provider's API; blank for the simulated one.
    """

    json_file: Path | None = None
    keep: bool = False
    strict: bool = False
    base_url: str = ""


def run_demo(options: DemoOptions, console: Console | None = None) -> int:
    """Runs the demo.

    Returns:
        The exit code: 0 where every claim holds, 1 where one does not, 2 where the demo could not run, 130 on Ctrl-C.
    """
    console = console or Console()
    try:
        with _terminated_like_interrupted():
            return _run(options, console)
    except KeyboardInterrupt:
        console.print("Stopped; nothing is left running.")
        return 130
    except SluiceError as error:
        console.print(f"[red]The demo could not run:[/red] {error}", highlight=False)
        return 2


def _run(options: DemoOptions, console: Console) -> int:
    from langflow_sluice.embedded.langflow import LangflowServer
    from langflow_sluice.embedded.postgres import EmbeddedPostgres

    with contextlib.ExitStack() as stack:
        status = stack.enter_context(console.status("Starting PostgreSQL"))

        def say(line: str) -> None:
            status.update(line)

        def done(line: str) -> None:
            console.print(f"[green]ok[/green] {line}", highlight=False)

        postgres = stack.enter_context(EmbeddedPostgres())
        done("PostgreSQL with pgvector")
        provider = stack.enter_context(open_provider(options.base_url, os.environ.get("OPENAI_API_KEY", "")))
        done("a real provider" if provider.simulated is None else "simulated provider: 8 slots of 0.2 s, 429 beyond")
        langflow = stack.enter_context(
            LangflowServer(
                ui=options.keep,
                on_progress=lambda seconds, step: say(f"Starting Langflow: {seconds:.0f} s, {step}"),
            )
        )
        done("Langflow with the pack")
        flows = _upload(langflow, provider, postgres)
        done(f"{len(flows)} flows uploaded")
        say("Ingesting documents")
        jobs.ingest(langflow, flows["ingest_documents"])
        jobs.ingest_stock(postgres, provider)
        done("documents ingested, for both sides")
        measured = _measure(langflow, flows, provider, postgres, say, done)
        status.stop()
        made = claims(measured, POOL_LIMIT)
        show(console, measured, made, strict=options.strict)
        if options.json_file is not None:
            options.json_file.write_text(json.dumps(as_json(measured, made), indent=2) + "\n", "utf-8")
        if options.keep:
            _keep_open(langflow, console)
    broken = [claim for claim in made if not claim.kept and (options.strict or not claim.timed)]
    return 1 if broken else 0


def _measure(
    langflow: LangflowServer,
    flows: dict[str, str],
    provider: Provider,
    postgres: EmbeddedPostgres,
    say: jobs.Say,
    done: jobs.Say,
) -> list[Side]:
    """Both jobs, the safe way first: what the unsafe one breaks must harm no one."""
    measured: list[Side] = []
    for flow, unsafe in (("fan_out_rows", False), ("rag_pooled_postgres", False), ("rag_pgvector", True)):
        side = Side(RAG_JOB if flow.startswith("rag") else ROWS_JOB, flow, unsafe, 0)
        side.wanted = jobs.QUESTIONS if side.job == RAG_JOB else jobs.ROWS
        measured.append(side)
    measured.append(Side(ROWS_JOB, "batch_run_unbounded", unsafe=True, wanted=jobs.ROWS))
    for side in measured:
        say(f"{side.flow}: {side.job}")
        if side.job == RAG_JOB:
            jobs.rag(langflow, flows[side.flow], side, provider, postgres, say)
        else:
            jobs.batch(langflow, flows[side.flow], side, provider)
        done(f"{side.flow}: {side.kept} of {side.wanted} kept in {side.seconds:.1f} s")
    return measured


def _upload(langflow: LangflowServer, provider: Provider, postgres: EmbeddedPostgres) -> dict[str, str]:
    with langflow.client() as client:
        client.set_variable("OPENAI_API_KEY", provider.key)
        client.set_variable("SLUICE_DATABASE_URL", postgres.url)
        return {flow.slug: client.upload_flow(_pointed_at(flow.load(), provider.base_url)) for flow in bundled_flows()}


def _pointed_at(flow: dict[str, Any], base_url: str) -> dict[str, Any]:
    """The flow with its models' addresses filled in, so that it also runs from the canvas that ``--keep`` leaves."""
    for node in flow["data"]["nodes"]:
        template = node["data"].get("node", {}).get("template", {})
        for name in ADDRESS_FIELDS:
            if name in template:
                template[name]["value"] = base_url
    return flow


def _keep_open(langflow: LangflowServer, console: Console) -> None:
    console.print(f"Langflow stays open at [bold]{langflow.base_url}[/bold]; Ctrl-C ends it.")
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """While entered, a request to terminate cleans up as Ctrl-C does."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
