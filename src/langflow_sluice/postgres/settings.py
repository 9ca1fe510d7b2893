"""What a pool of database connections is asked to hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from langflow_sluice.errors import InvalidInput

# More connections than any PostgreSQL takes without a pooler in front; a slip of the finger, not a wish.
MAX_CONNECTIONS = 1000
MAX_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Limits of one pool; the database never sees more than ``pool_size + max_overflow`` connections of it.

    Attributes:
        pool_size: Connections kept open, at least 1.
        max_overflow: Further connections under load; closed after some seconds without use.
        pool_timeout_s: Seconds a caller waits for a connection before it leaves with ``PoolTimeout``.
        pool_recycle_s: Age in seconds at which a connection is replaced before its next use; 0 never.
        statement_timeout_s: Seconds after which PostgreSQL ends a statement; 0 leaves it to the server.
        connect_timeout_s: Whole seconds that opening a connection may take.
        max_waiting: Callers that may wait at once; the next leaves at once with ``PoolTimeout``.
        pre_ping: Whether a connection that was idle for a while is tested before it is used again.
        pgbouncer: Whether a PgBouncer in transaction mode stands in front: no prepared statements, settings only
            inside transactions.
        detect_pgbouncer: Whether to look for a pooler on the first connection, where ``pgbouncer`` is off.

    Raises:
        InvalidInput: A limit is no number, negative, or absurd.
    """

    pool_size: int = 5
    max_overflow: int = 5
    pool_timeout_s: float = 30.0
    pool_recycle_s: float = 1800.0
    statement_timeout_s: float = 30.0
    connect_timeout_s: int = 10
    max_waiting: int = 1000
    pre_ping: bool = True
    pgbouncer: bool = False
    detect_pgbouncer: bool = True

    def __post_init__(self) -> None:
        for name, least in (("pool_size", 1), ("max_overflow", 0)):
            _check(name, getattr(self, name), least, MAX_CONNECTIONS, whole=True)
        _check("connect_timeout_s", self.connect_timeout_s, 1, MAX_SECONDS, whole=True)
        _check("max_waiting", self.max_waiting, 0, 1_000_000, whole=True)
        for name in ("pool_timeout_s", "pool_recycle_s", "statement_timeout_s"):
            _check(name, getattr(self, name), 0, MAX_SECONDS, whole=False)
        for name in ("pre_ping", "pgbouncer", "detect_pgbouncer"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInput.of(name, getattr(self, name), "it is a switch", fix=f"Set {name} to true or false.")

    @property
    def capacity(self) -> int:
        """The most connections the pool ever has open."""
        return self.pool_size + self.max_overflow

    @property
    def statement_timeout_ms(self) -> int:
        """The statement timeout in the unit PostgreSQL takes; a timeout below 1 ms counts as 1 ms, 0 is none."""
        return math.ceil(self.statement_timeout_s * 1000)


def _check(name: str, value: Any, least: float, most: float, *, whole: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        kind = "a whole number" if whole else "a number"
        raise InvalidInput.of(name, value, f"it is not {kind}", fix=f"Set {name} to {kind} from {least:g} on.")
    if not least <= value <= most:
        raise InvalidInput.of(
            name, value, f"it lies outside of {least:g} to {most:g}", fix=f"Set {name} to a number between them."
        )
