"""The command ``sluice doctor``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from langflow_sluice.doctor.examination import Examination


_WIDTH = 120  # of what is not read on a terminal


class FailOn(str, Enum):
    """The least severity that makes the command fail."""

    error = "error"
    warning = "warning"
    info = "info"


def doctor(
    env_file: Annotated[Path | None, typer.Option(help="Langflow's .env file; it wins over the environment.")] = None,
    database_url: Annotated[
        str,
        typer.Option(help="The nodes' database. Better in SLUICE_DATABASE_URL, where no list of processes shows it."),
    ] = "",
    langflow_url: Annotated[str, typer.Option(help="A running Langflow, for its palette and its flows.")] = "",
    api_key: Annotated[
        str, typer.Option(envvar="LANGFLOW_API_KEY", help="A key for it; not needed with auto login.")
    ] = "",
    machines: Annotated[int, typer.Option(help="Machines or containers that run Langflow with these settings.")] = 1,
    calls: Annotated[int, typer.Option(help="Calls at once that it has to take.")] = 0,
    proxy_timeout: Annotated[
        float, typer.Option(help="Seconds that a proxy in front of it waits for an answer.")
    ] = 0.0,
    provider_url: Annotated[
        str, typer.Option(help="Ask this provider for its limits: one GET of /models, with OPENAI_API_KEY.")
    ] = "",
    provider_rpm: Annotated[float, typer.Option(help="Requests a minute that the provider allows.")] = 0.0,
    timeout: Annotated[float, typer.Option(help="Seconds for each thing that is asked.", min=0.1, max=600)] = 10.0,
    write_env: Annotated[Path | None, typer.Option(help="Write the recommended .env to this file.")] = None,
    fail_on: Annotated[FailOn, typer.Option(help="Exit with 1 at findings of this severity or worse.")] = FailOn.error,
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite that file.")] = False,
    no_import: Annotated[
        bool, typer.Option("--no-import", help="Do not import the pack's nodes (saves 10 s).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Checks a deployment of Langflow before it falls over; changes nothing.

    Exits with 0 if nothing is found at or above --fail-on, 1 if something is, 2 if an option is wrong.
    """
    import os

    from langflow_sluice.doctor.deployment import Expectations
    from langflow_sluice.doctor.examination import Options, examine
    from langflow_sluice.doctor.findings import SEVERITIES
    from langflow_sluice.errors import InvalidInput

    try:
        expected = Expectations(machines, calls, proxy_timeout, provider_rpm)
        options = Options(
            env_file, database_url, langflow_url, api_key, provider_url, expected, timeout, with_import=not no_import
        )
        examination = examine(options, os.environ)
        _print(examination, as_json=as_json)
        if write_env is not None:
            _write(examination, write_env, force=force)
    except InvalidInput as exc:
        typer.echo(str(exc), err=True)
        raise typer.Exit(2) from None
    failing = SEVERITIES[: SEVERITIES.index(fail_on.value) + 1]
    raise typer.Exit(1 if any(finding.severity in failing for finding in examination.findings) else 0)


def _print(examination: Examination, *, as_json: bool) -> None:
    from langflow_sluice.doctor import report

    if as_json:
        import json

        typer.echo(json.dumps(report.as_json(examination), indent=2, default=str))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    report.print_report(examination, console)


def _write(examination: Examination, path: Path, *, force: bool) -> None:
    from langflow_sluice.doctor.env_file import write_private
    from langflow_sluice.doctor.examination import recommended_env

    text, left = recommended_env(examination)
    write_private(path, text, force=force)
    more = sorted({finding.code for finding in left if finding.severity != "info"})
    # To the error stream: with --json the other one is for machines.
    note = f"Written: {path}, for its owner only, since your own lines (and secrets) are in it."
    typer.echo(note, err=True)
    if more:
        typer.echo(f"No setting in it mends: {', '.join(more)}.", err=True)
