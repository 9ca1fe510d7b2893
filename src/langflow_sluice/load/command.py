"""The command ``sluice load``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from langflow_sluice.load.database import DatabaseLook
    from langflow_sluice.load.guards import GuardsLook
    from langflow_sluice.load.plan import Asked
    from langflow_sluice.load.results import LoadReport

_WRONG = 2
_INTERRUPTED = 130


class Arrivals(str, Enum):
    """How the calls of an open loop are spread."""

    poisson = "poisson"
    even = "even"


def load(
    ctx: typer.Context,
    flow: Annotated[str, typer.Argument(metavar="FLOW", help="Endpoint name, name or id of a flow on the server.")],
    against: Annotated[
        str, typer.Option(help="A second flow to compare with; it runs after the first, so name the safer one first.")
    ] = "",
    url: Annotated[str, typer.Option(envvar="LANGFLOW_URL", help="Langflow's address.")] = "http://localhost:7860",
    api_key: Annotated[
        str, typer.Option(envvar="LANGFLOW_API_KEY", help="A Langflow API key; not needed with auto login.")
    ] = "",
    concurrency: Annotated[
        str | None,
        typer.Option(help="Calls at once, in levels that rise; one at a time always comes first. Default: 1,5,20,50."),
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Instead: calls a second, in levels, whether or not the server keeps up.")
    ] = None,
    arrival: Annotated[Arrivals, typer.Option(help="How the calls of --rate are spread.")] = Arrivals.poisson,
    max_in_flight: Annotated[int, typer.Option(help="Calls in flight at once at most with --rate.")] = 200,
    requests: Annotated[int, typer.Option(help="Calls of each level.")] = 100,
    warm_up: Annotated[int, typer.Option(help="Calls before each level that do not count.", min=0, max=1000)] = 2,
    max_seconds: Annotated[
        float, typer.Option(help="For each level; calls then under way are given up.", min=0.1, max=86400)
    ] = 120.0,
    timeout: Annotated[float, typer.Option(help="Seconds for one call.", min=0.1, max=3600)] = 60.0,
    pause: Annotated[float, typer.Option(help="Seconds between levels.", min=0, max=3600)] = 1.0,
    input_text: Annotated[str | None, typer.Option("--input", help="What to ask.")] = None,
    inputs: Annotated[Path | None, typer.Option(help="A file of questions, one a line, used in turn.")] = None,
    tweaks: Annotated[Path | None, typer.Option(help="A JSON file with values for nodes.")] = None,
    database_url: Annotated[
        str,
        typer.Option(
            envvar="SLUICE_DATABASE_URL",
            help="Count this database's connections. Better in the variable, where no list of processes shows it.",
        ),
    ] = "",
    state_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="SLUICE_STATE_DIR",
            help="The server's state folder; by default the one of the same user and Langflow database settings. Of a"
            " server on another machine it counts only if given here.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write report.html, report.png and report.json to this folder.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page with plots to this file.")] = None,
    png_file: Annotated[Path | None, typer.Option("--png", help="Write a picture to this file.")] = None,
    *,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="The server is on another machine.")] = False,
) -> None:
    """Loads a flow through Langflow's API and says whether it holds, and if not, what gives way and what to change.

    Exits with 0 if every flow holds, 1 if one does not, 2 if something is wrong with what was asked for or a file could
    not be written, and 130 if Ctrl-C or SIGTERM has ended it; what was measured until then is written and shown.
    """
    import contextlib

    from langflow_sluice.errors import SluiceError
    from langflow_sluice.load.diagnosis import HOLDS
    from langflow_sluice.load.plan import asked, stages_of
    from langflow_sluice.load.printable import printable
    from langflow_sluice.load.run import LoadOptions, run_load
    from langflow_sluice.load.show import LiveProgress, Screen, show
    from langflow_sluice.load.target import checked_address

    console = Screen()
    if concurrency is None and rate is None:
        concurrency = ",".join(level for level in ("1", "5", "20", "50") if int(level) <= requests)
    try:
        with contextlib.ExitStack() as stack:
            files = _files(out, {"json": json_file, "html": html_file, "png": png_file})
            stages = stages_of(concurrency, rate, requests=requests, max_in_flight=max_in_flight, arrival=arrival.value)
            what = asked(input_text, inputs, tweaks)
            _check_sendable(what, api_key)
            address = checked_address(url, allow_remote=allow_remote)
            source = ctx.get_parameter_source("state_dir")
            named = state_dir if source is not None and source.name == "COMMANDLINE" else None
            # A server elsewhere leaves its figures there; what lies in the folder here is another one's.
            guards = _guards(named) if address.is_local or named is not None else None
            database = _database(database_url)
            if database is not None:
                stack.callback(database.close)
            options = LoadOptions(
                address=address,
                api_key=api_key or None,
                flows=(flow, against) if against else (flow,),
                stages=stages,
                what=what,
                warm_up=warm_up,
                max_seconds=max_seconds,
                timeout_s=timeout,
                pause_s=pause,
                database=database,
                guards=guards,
            )
            with LiveProgress(console) as progress:
                report, stopped = run_load(options, progress)
    except SluiceError as error:
        typer.echo(printable(str(error)), err=True)
        raise typer.Exit(_WRONG) from None
    # First what lasts: nobody can say what becomes of a terminal or a pipe.
    written = _write(report, files) if report.flows else {}
    show(console, report, stopped=stopped)
    with contextlib.suppress(OSError):
        for path, problem in written.items():
            typer.echo(f"Not written: {path} ({problem})" if problem else f"Written: {path}", err=True)
    if stopped:
        raise typer.Exit(_INTERRUPTED)
    if any(written.values()):
        raise typer.Exit(_WRONG)
    raise typer.Exit(0 if all(each.verdict == HOLDS for each in report.flows) else 1)


def _check_sendable(what: Asked, api_key: str) -> None:
    import json

    from langflow_sluice.errors import InvalidInput

    option = "tweaks"
    try:
        json.dumps(what.tweaks, allow_nan=False, ensure_ascii=False).encode()
        option = "input"
        json.dumps(what.inputs, ensure_ascii=False).encode()
    except ValueError:  # also that of the encoding; its words would quote the value
        problem = "it holds what JSON cannot carry: NaN, Infinity or half of a character"
        fix = "Leave it out, or write it in another way."
        raise InvalidInput.of(option, "(not shown)", problem, fix=fix) from None
    if not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
        problem = "it holds characters that no key has"
        raise InvalidInput.of("api-key", "(not shown)", problem, fix="Copy it once more, without spaces.")


def _guards(state_dir: Path | None) -> GuardsLook:
    from langflow_sluice.load.guards import GuardsLook
    from langflow_sluice.metrics.state_folder import StateFolder, state_folder

    return GuardsLook(StateFolder(state_dir) if state_dir is not None else state_folder())


def _database(url: str) -> DatabaseLook | None:
    if not url:
        return None
    from langflow_sluice.errors import DatabaseError, InvalidInput
    from langflow_sluice.load.database import DatabaseLook
    from langflow_sluice.postgres.url import read_database_url, redacted

    parsed = read_database_url(url)
    try:
        return DatabaseLook(parsed)
    except DatabaseError as error:
        problem = f"it cannot be asked: {error.message.rstrip('.')}"
        raise InvalidInput.of("database-url", redacted(parsed), problem, fix=error.hint) from None


def _files(out: Path | None, files: dict[str, Path | None]) -> dict[str, Path]:
    """Where to write what; looked at before the load, since nobody wants to lose a run to a missing folder."""
    from langflow_sluice.errors import InvalidInput

    chosen = {kind: path for kind, path in files.items() if path is not None}
    for kind, path in chosen.items():
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise InvalidInput.of(kind, str(path), "there is no folder for such a file", fix="Name a file in a folder.")
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"no folder can be made there ({error.strerror})"
            raise InvalidInput.of("out", str(out), problem, fix="Name a folder, or a new one.") from None
        chosen = {kind: out / f"report.{kind}" for kind in files} | chosen
    return chosen


def _write(report: LoadReport, files: dict[str, Path]) -> dict[Path, str]:
    """Writes each file whatever becomes of the others, first the one that holds all; returns what went wrong with each.

    That is empty where nothing did.
    """
    return {path: _problem_with(_WRITERS[kind], report, path) for kind, path in files.items()}


def _problem_with(write: Callable[[LoadReport, Path], None], report: LoadReport, path: Path) -> str:
    try:
        write(report, path)
    except Exception as error:  # noqa: BLE001 - what was measured is worth more than a picture of it
        return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return ""


def _write_json(report: LoadReport, path: Path) -> None:
    import json

    path.write_text(json.dumps(report.to_dict(), indent=2) + "\n", "utf-8")


def _write_html(report: LoadReport, path: Path) -> None:
    from langflow_sluice.load.page import write_page

    write_page(report, path)


def _write_png(report: LoadReport, path: Path) -> None:
    from langflow_sluice.load.pictures import write_png

    write_png(report, path)


_WRITERS = {"json": _write_json, "html": _write_html, "png": _write_png}
