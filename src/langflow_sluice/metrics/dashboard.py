"""The command ``sluice dashboard``: the panels for Grafana that show all of our metrics."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import Annotated

import typer

_FILE = "grafana.json"


def dashboard_json() -> str:
    """The dashboard as Grafana imports it; it asks for the Prometheus to read from."""
    from importlib import resources

    return resources.files("langflow_sluice.metrics").joinpath(_FILE).read_text("utf-8")


def dashboard(
    file: Annotated[Path | None, typer.Argument(help="Where to write it; by default it is printed.")] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite that file.")] = False,
) -> None:
    """Writes the Grafana dashboard for the metrics of SLUICE_METRICS_ADDRESS (or of Langflow's own endpoint).

    Import it in Grafana under Dashboards > New > Import, and choose a Prometheus data source.
    """
    text = dashboard_json()
    if file is None:
        typer.echo(text, nl=False)
        return
    try:
        with file.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as exc:
        problem = "is there already; name another, or add --force" if isinstance(exc, FileExistsError) else exc.strerror
        typer.echo(f"{file}: {problem}.", err=True)
        raise typer.Exit(2) from None
