"""The command ``sluice explain``."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import Annotated

import typer

_UNKNOWN = 1
_UNUSABLE = 2


def explain(
    text: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="The error; without it and --file, standard input.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", exists=True, dir_okay=False, readable=True, help="A log, of any size."),
    ] = None,
    *,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Says of an error or a log: which dependency, what happened, what to do, which node or setting to change.

    Exits with 0 if it recognises something, with 1 if the text is unknown, with 2 if there is no text.
    """
    import io
    import json
    import sys

    from rich.console import Console

    from langflow_sluice.explain.scan import explain as explain_stream
    from langflow_sluice.explain.show import as_json, show

    if text and file:
        typer.echo("Give either the text or --file, not both.", err=True)
        raise typer.Exit(_UNUSABLE)
    if text:
        explanation = explain_stream(io.BytesIO(" ".join(text).encode("utf-8", "replace")))
    elif file:
        with file.open("rb") as stream:
            explanation = explain_stream(stream)
    else:
        if sys.stdin.isatty():
            typer.echo("Paste the error or log, then press Ctrl-D (Ctrl-Z and Enter on Windows).", err=True)
        explanation = explain_stream(sys.stdin.buffer)
    if not explanation.lines:
        typer.echo("There is no text to explain: paste the error, or name a log with --file.", err=True)
        raise typer.Exit(_UNUSABLE)
    if json_output:
        typer.echo(json.dumps(as_json(explanation), indent=2))
    else:
        show(Console(), explanation)
    raise typer.Exit(0 if explanation.recognised else _UNKNOWN)
