"""The inputs of nodes that use a PostgreSQL database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from lfx.io import BoolInput, DropdownInput, FloatInput, HandleInput, IntInput, SecretStrInput, StrInput
from lfx.utils.secrets import secret_value_to_str

from langflow_sluice.errors import InvalidInput
from langflow_sluice.nodes.guard_inputs import guard_of, number, priority_of
from langflow_sluice.postgres.settings import PoolSettings
from langflow_sluice.postgres.url import fingerprint, is_pooled, parse_database_url, redacted

if TYPE_CHECKING:
    from lfx.custom.custom_component.component import Component
    from lfx.inputs.inputs import InputTypes
    from sqlalchemy import URL

    from langflow_sluice.guard import Guard, Priority

_PGBOUNCER = ("auto", "on", "off")


def collection_inputs(*, needs_embedding: bool = True) -> list[InputTypes]:
    """Database, collection and embeddings.

    Args:
        needs_embedding: Whether the node can do nothing without embeddings.
    """
    inputs = [
        SecretStrInput(
            name="database_url",
            display_name="Database URL",
            value="SLUICE_DATABASE_URL",
            required=True,
            info="postgresql://user:password@host:port/database, or the global variable that holds it.",
        ),
        StrInput(
            name="collection_name",
            display_name="Collection",
            value="sluice_documents",
            required=True,
            info="Name of the collection; its table is named like it.",
        ),
        HandleInput(name="embedding", display_name="Embedding", input_types=["Embeddings"], required=needs_embedding),
    ]
    return cast("list[InputTypes]", inputs)


def pool_inputs() -> list[InputTypes]:
    """Size and timeouts of the shared pool."""
    inputs = [
        IntInput(
            name="pool_size",
            display_name="Pool Size",
            value=5,
            advanced=True,
            info="Connections kept open, shared by all flows of this server that use the same database and settings.",
        ),
        IntInput(
            name="max_overflow",
            display_name="Max Overflow",
            value=5,
            advanced=True,
            info="Further connections under load. The database never sees more than both together.",
        ),
        FloatInput(
            name="pool_timeout",
            display_name="Pool Timeout",
            value=30,
            advanced=True,
            info="Seconds to wait for a connection.",
        ),
        FloatInput(
            name="pool_recycle",
            display_name="Pool Recycle",
            value=1800,
            advanced=True,
            info="Age in seconds at which a connection is replaced. 0: never.",
        ),
        BoolInput(
            name="pool_pre_ping",
            display_name="Pool Pre-Ping",
            value=True,
            advanced=True,
            info="Test a connection that was idle for a while before it is used again.",
        ),
        FloatInput(
            name="statement_timeout",
            display_name="Statement Timeout",
            value=30,
            advanced=True,
            info="Seconds after which PostgreSQL ends a statement. 0: the server's setting.",
        ),
        DropdownInput(
            name="pgbouncer",
            display_name="PgBouncer Mode",
            options=list(_PGBOUNCER),
            value="auto",
            advanced=True,
            info="Nothing prepared, settings only inside transactions: for PgBouncer and other poolers that hand each "
            "transaction to another session. Auto: found out on the first connection.",
        ),
    ]
    return cast("list[InputTypes]", inputs)


@dataclass(frozen=True, slots=True)
class Database:
    """The database that a node's inputs name, and what stands in front of it.

    Attributes:
        url: Its address; shows no password.
        settings: Of the pool.
        guard: The gate that every use of a connection passes.
        priority: The lane in its queue.
    """

    url: URL = field(repr=False)
    settings: PoolSettings
    guard: Guard
    priority: Priority


def database_of(component: Component) -> Database:
    """The database, pool and guard that a node's inputs name.

    Raises:
        InvalidInput: One of the inputs is wrong; names it, never with the password.
    """
    url = parse_database_url(secret_value_to_str(component.database_url) or "")
    mode = component.pgbouncer or "auto"
    if mode not in _PGBOUNCER:
        fix = f"Choose one of {', '.join(_PGBOUNCER)}."
        raise InvalidInput.of("pgbouncer", mode, "there is no such mode", fix=fix)
    settings = PoolSettings(
        pool_size=number(component.pool_size),
        max_overflow=number(component.max_overflow),
        pool_timeout_s=number(component.pool_timeout),
        pool_recycle_s=number(component.pool_recycle),
        statement_timeout_s=number(component.statement_timeout),
        pre_ping=bool(component.pool_pre_ping),
        pgbouncer=mode == "on" or (mode == "auto" and is_pooled(url)),
        detect_pgbouncer=mode == "auto",
    )
    guard = guard_of(component, f"{redacted(url)} ({fingerprint(url)[:12]})")
    return Database(url, settings, guard, priority_of(component))
