"""What a guard in front of a database learns from its use."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from langflow_sluice.errors import DatabaseError, PoolTimeout
from langflow_sluice.guard.waiter import Outcome
from langflow_sluice.postgres.failures import DatabaseUnavailable, StatementTimeout, TooManyClients

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from langflow_sluice.guard import Slot
    from langflow_sluice.nodes.database_inputs import Database

# A database that restarts is back within seconds, and a refused connection costs it next to nothing.
PROBE_EVERY_S = 1.0


@asynccontextmanager
async def guarded(database: Database) -> AsyncIterator[Slot]:
    """A slot of the database's guard for one use of a connection, whose outcome the guard is told.

    The body raises errors of ours, as ``failures.translate`` makes them; a foreign one tells the guard nothing.

    Raises:
        Rejected: The guard turned the caller away.
    """
    guard = database.guard
    guard.admission.breaker.longest_s = PROBE_EVERY_S
    async with guard.slot(priority=database.priority) as slot:
        try:
            yield slot
        except Exception as error:
            outcome = outcome_of(error)
            if outcome is not None:
                slot.report(outcome)
            raise
        slot.report(Outcome.OK)


def outcome_of(error: Exception) -> Outcome | None:
    """What an error says about the database's health; None if nothing, since the database was not asked.

    A server that is away is a fault, which opens the breaker. One that has no connection left, or takes too long for a
    statement, is overloaded: the statement may be to blame, so that leaves the breaker alone and only lowers an
    adaptive limit. Everything else that the server has answered shows that it works.
    """
    if isinstance(error, DatabaseUnavailable):
        return Outcome.FAULT
    if isinstance(error, (TooManyClients, StatementTimeout)):
        return Outcome.OVERLOADED
    answered = isinstance(error, DatabaseError) and not isinstance(error, PoolTimeout)
    return Outcome.OK if answered else None
