"""What ``sluice top`` prints."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from langflow_sluice.metrics.state_folder import StateFolder
    from langflow_sluice.top.rates import GuardLine, Look

_EVERY_S = 1.0
_LAG_TO_WORRY_S = 0.2


def top(
    state_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="SLUICE_STATE_DIR",
            help="The server's state folder; by default the one of the same user and Langflow database settings.",
        ),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One look as JSON, and then end.")] = False,
    once: Annotated[bool, typer.Option("--once", help="One look, and then end.")] = False,
) -> None:
    """Shows the guards, pools and HTTP connections of a running server, live; ends with Ctrl+C."""
    from langflow_sluice.errors import SluiceError
    from langflow_sluice.metrics.state_folder import StateFolder, state_folder

    try:
        folder = StateFolder(state_dir) if state_dir else state_folder()
    except SluiceError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    if not (as_json or once):
        _live(folder)
        return
    from langflow_sluice.top.rates import look

    seen = look(folder.read())
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(seen), indent=2))
    else:
        from rich.console import Console

        Console().print(_screen(seen, folder))


def _live(folder: StateFolder) -> None:
    import contextlib

    from rich.live import Live

    from langflow_sluice.top.rates import History

    history = History()
    with contextlib.suppress(KeyboardInterrupt), Live(screen=True) as live:
        while True:
            live.update(_screen(history.look(folder.read()), folder))
            time.sleep(_EVERY_S)


def _screen(seen: Look, folder: StateFolder) -> Group:
    from rich.console import Group
    from rich.text import Text

    if not seen.workers:
        missing = (
            f"No process tells anything in {folder.path}.\n"
            "A server begins when the first guarded node runs. Run this as the same user and with the same"
            " LANGFLOW_DATABASE_URL and LANGFLOW_CONFIG_DIR as the server, or set SLUICE_STATE_DIR for both."
        )
        return Group(Text(missing))
    lag = f"event loop lag {seen.loop_lag_s * 1000:.0f} ms"
    head = Text(f"{len(seen.workers)} workers: {', '.join(seen.workers)}   ")
    head.append(lag, style="bold red" if seen.loop_lag_s > _LAG_TO_WORRY_S else "")
    parts: list[RenderableType] = [head, _guards(seen)]
    if seen.pools:
        parts.append(_pools(seen))
    if seen.clients:
        parts.append(_clients(seen))
    return Group(*parts)


def _guards(seen: Look) -> Table:
    from rich.table import Table

    table = Table(title="guards", title_justify="left", expand=True)
    table.add_column("guard", overflow="fold", ratio=1)
    for name in ("in flight", "waiting", "calls/s", "wait p95", "held p95", "turned away", "retries"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for line in seen.guards:
        table.add_row(
            line.name,
            f"{line.in_flight}/{line.limit or '∞'}",
            str(line.waiting),
            f"{line.per_s:.1f}",
            _seconds(line.wait_p95_s),
            _seconds(line.service_p95_s),
            str(line.turned_away),
            str(line.retries),
            _state(line),
            style="yellow" if line.waiting else None,
        )
    return table


def _pools(seen: Look) -> Table:
    from rich.table import Table

    table = Table(title="database pools", title_justify="left", expand=True)
    table.add_column("database", overflow="fold", ratio=1)
    for name in ("workers", "in use", "idle", "waiting", "wait p95", "turned away"):
        table.add_column(name, justify="right")
    for pool in seen.pools:
        in_use = f"{pool.checked_out}/{pool.capacity}"
        counts = (pool.label, str(pool.workers), in_use, str(pool.idle), str(pool.waiting))
        table.add_row(*counts, _seconds(pool.wait_p95_s), str(pool.turned_away))
    return table


def _clients(seen: Look) -> Table:
    from rich.table import Table

    table = Table(title="HTTP connections", title_justify="left", expand=True)
    table.add_column("upstream", overflow="fold", ratio=1)
    for name in ("workers", "in use", "open", "opening"):
        table.add_column(name, justify="right")
    for client in seen.clients:
        in_use = f"{client.in_use}/{client.limit or '∞'}"
        table.add_row(client.label, str(client.workers), in_use, str(client.open), str(client.waiting))
    return table


def _state(line: GuardLine) -> str:
    if line.breaker != "closed":
        return f"[red]{line.breaker.replace('_', ' ')}[/]"
    return f"[yellow]paused {line.paused_s:.0f} s[/]" if line.paused_s > 0 else "ok"


def _seconds(bound: float) -> str:
    if not bound:
        return "-"
    return f"≤{bound * 1000:g} ms" if bound < 1 else f"≤{bound:g} s"
