"""Workers and database at one moment."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langflow_sluice.gauge.workers import all_processes

if TYPE_CHECKING:
    from sqlalchemy import URL

    from langflow_sluice.gauge.database import DatabaseFigures
    from langflow_sluice.metrics.figures import ProcessFigures

NO_DATABASE = "No database_url is given, so PostgreSQL was not looked at."


@dataclass(frozen=True, slots=True)
class Reading:
    """What the gauge has seen; holds no credential and no prompt.

    Attributes:
        processes: Of all workers, the one that looked first.
        database: What PostgreSQL told; None where there was none to ask.
        notes: What could not be seen, in sentences.
    """

    processes: tuple[ProcessFigures, ...]
    database: DatabaseFigures | None = None
    notes: tuple[str, ...] = ()


async def read(url: URL | None, *, long_running_s: float) -> Reading:
    """Looks at the database, if there is one, and then at all workers.

    What is wrong with the database stands in the reading: a gauge shows it instead of failing. Cancelled, it gives its
    connection back.

    Args:
        url: From ``parse_database_url``.
        long_running_s: From when on a query is a long one.
    """
    database, notes = None, [NO_DATABASE]
    if url is not None:
        from langflow_sluice.gauge.database import look_at_database

        database = await look_at_database(url, long_running_s=long_running_s)
        notes = database.notes()
    processes, problem = await asyncio.to_thread(all_processes)
    return Reading(tuple(processes), database, tuple(filter(None, [*notes, problem])))
