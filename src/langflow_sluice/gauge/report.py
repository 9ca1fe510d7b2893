"""What the gauge says in a chat."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from langflow_sluice.gauge.bars import as_table, bars_of
from langflow_sluice.gauge.diagnosis import diagnose
from langflow_sluice.gauge.pressure import Severity
from langflow_sluice.gauge.words import amount, duration, name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langflow_sluice.gauge.pressure import Pressure
    from langflow_sluice.gauge.reading import Reading

CALM = "Nothing is under pressure."
_MOST = 10


def headline(found: Sequence[Pressure]) -> str:
    """The worst of what was found, in one line."""
    pressing = [each for each in found if each.severity > Severity.NOTE]
    if not pressing:
        return CALM
    more = f", and {len(pressing) - 1} more" if len(pressing) > 1 else ""
    return f"Under pressure: {pressing[0].where}{more}."


def written(reading: Reading, now: float | None = None) -> str:
    """The report in Markdown: the diagnosis with the settings to change, a table of bars, and what was not seen.

    Args:
        reading: Workers and database at one moment.
        now: In seconds since the epoch; the machine's clock unless given.
    """
    found, bars = diagnose(reading), bars_of(reading)
    parts = [f"**{headline(found)}**"]
    pressing = [each for each in found if each.severity > Severity.NOTE]
    asides = [each for each in found if each.severity is Severity.NOTE]
    if pressing:
        parts.append("\n".join(f"{place}. {_line(each)}" for place, each in enumerate(pressing[:_MOST], 1)))
    if asides:
        parts.append("For the record:\n\n" + "\n".join(f"- {_line(each)}" for each in asides[:_MOST]))
    left_out = max(0, len(pressing) - _MOST) + max(0, len(asides) - _MOST)
    if left_out:
        parts.append(f"{left_out} more of that kind.")
    parts.append(as_table(bars) if bars else "No guard, pool or client has been used so far.")
    if reading.database is not None and not reading.database.problem:
        parts.append(_states(reading))
    parts.append(" ".join([_seen(reading, now), *reading.notes]))
    return "\n\n".join(parts)


def _line(pressure: Pressure) -> str:
    return f"{pressure.where}: {pressure.observed}. **{pressure.change}.**"


def _states(reading: Reading) -> str:
    database = reading.database
    if database is None:
        return ""
    states = ", ".join(f"{count} {state}" for state, count in database.by_state().items())
    return (
        f"Connections of {name(database.where)}: {states} (one of them this gauge's); {name(database.user)} could open"
        f" {database.free} more."
    )


def _seen(reading: Reading, now: float | None) -> str:
    now = time.time() if now is None else now
    oldest_s = max((now - process.told_at for process in reading.processes), default=0.0)
    workers = amount(len(reading.processes), "worker")
    age = f", told within the last {duration(max(1.0, oldest_s))}" if len(reading.processes) > 1 else ""
    return f"Seen: {workers}{age}. Waits and counts are since the workers' start."
