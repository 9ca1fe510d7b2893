"""A deployment of Langflow as its settings describe it: what is set, and where each value comes from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langflow_sluice.doctor import installed
from langflow_sluice.doctor.variables import Setting, Variables
from langflow_sluice.errors import InvalidInput
from langflow_sluice.guard.operator_limits import OperatorLimits, operator_limits
from langflow_sluice.postgres.url import read_database_url, redacted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import URL

DB_SETTINGS = "LANGFLOW_DB_CONNECTION_SETTINGS"
DRIVER_SETTINGS = "LANGFLOW_DB_DRIVER_CONNECTION_SETTINGS"
DATABASE_URL = "LANGFLOW_DATABASE_URL"
NODES_DATABASE_URL = "SLUICE_DATABASE_URL"

_PRETTY_LOGS = "LANGFLOW_PRETTY_LOGS"
_PRELOAD = "LANGFLOW_GUNICORN_PRELOAD"
_QUIET_LEVELS = frozenset({"critical"})
_JSON_LOGS = frozenset({"container", "container_json", "container_csv"})


@dataclass(frozen=True, slots=True)
class LangflowPool:
    """Langflow's own pool of connections to its database, in each worker.

    Attributes:
        settings: All that is in force, by key, as Langflow hands it to SQLAlchemy.
        is_set: Whether LANGFLOW_DB_CONNECTION_SETTINGS is set, so that what it leaves out is SQLAlchemy's default.
        source: Where it comes from.
    """

    settings: Mapping[str, Any]
    is_set: bool
    source: str

    @property
    def in_force(self) -> dict[str, Any]:
        """The five that matter, with SQLAlchemy's defaults for those left out."""
        return installed.SQLALCHEMY_POOL | {
            key: value for key, value in self.settings.items() if key in installed.SQLALCHEMY_POOL
        }

    @property
    def capacity(self) -> int | None:
        """The most connections that one worker opens; ``None`` for any number."""
        size, overflow = self.in_force["pool_size"], self.in_force["max_overflow"]
        if self.settings.get("poolclass") == "NullPool" or not size or overflow < 0:
            return None
        return int(size) + int(overflow)


@dataclass(frozen=True, slots=True)
class Expectations:
    """What is asked of the deployment, which no setting tells.

    Attributes:
        machines: Machines (or containers) that run Langflow with these settings.
        calls: Calls at once that it has to take; 0 where nobody has told.
        proxy_timeout_s: Seconds after which what stands in front of Langflow gives up; 0 where nobody has told.
        provider_requests_per_minute: What the provider allows; 0 where nobody has told.
    """

    machines: int = 1
    calls: int = 0
    proxy_timeout_s: float = 0.0
    provider_requests_per_minute: float = 0.0

    def __post_init__(self) -> None:
        if self.machines < 1:
            name = "machines"
            raise InvalidInput.of(name, self.machines, "somebody has to run Langflow", fix="Give 1 or more.")
        for name in ("calls", "proxy_timeout_s", "provider_requests_per_minute"):
            if getattr(self, name) < 0:
                raise InvalidInput.of(name, getattr(self, name), "it cannot be negative", fix="Give 0 or more.")


@dataclass(frozen=True, slots=True)
class Deployment:
    """Everything that the checks look at and that is set somewhere.

    Attributes:
        expected: What is asked of it.
        database: Langflow's own; ``None`` for SQLite (or none).
        nodes_database: That of Sluice's nodes; ``None`` where nobody has told.
        pool: Langflow's own pool.
        driver_settings: What Langflow tells the driver instead of its own choice; ``None`` for its own.
        limits: The operator's limits for Sluice.
        problems: Variables that cannot be understood.
    """

    expected: Expectations
    database: URL | None = field(repr=False)
    nodes_database: URL | None = field(repr=False)
    database_source: str
    pool: LangflowPool
    driver_settings: Setting[dict[str, Any] | None] = field(repr=False)
    pg_connect_timeout: Setting[str]
    workers: Setting[float]
    worker_timeout_s: Setting[float]
    execution_timeout_s: Setting[float]
    job_queue: Setting[str]
    queue_url: Setting[str] = field(repr=False)
    queue_bypassed: Setting[bool]
    event_delivery: Setting[str]
    preload: Setting[bool]
    gunicorn_args: Setting[str] = field(repr=False)
    rich_tracebacks: Setting[bool]
    trace_locals: Setting[bool]
    untracked_keys: Setting[bool]
    custom_components: Setting[bool]
    paths_override: Setting[bool]
    components_path: Setting[str]
    prometheus: Setting[bool]
    connection_retry: Setting[bool]
    limits: OperatorLimits
    problems: Mapping[str, str]

    @property
    def worker_count(self) -> int:
        """Workers on each machine."""
        count = int(self.workers.value)
        # Langflow's get_number_of_workers.
        return 2 * (os.cpu_count() or 1) + 1 if count < 0 else max(count, 1)

    @property
    def processes(self) -> int:
        """Worker processes on all machines."""
        return self.worker_count * self.expected.machines

    @property
    def shown(self) -> dict[str, str]:
        """The settings for people and machines: no secrets, no addresses with passwords."""
        settings: list[Setting[Any]] = [
            *(self.workers, self.worker_timeout_s, self.execution_timeout_s, self.job_queue, self.event_delivery),
            *(self.preload, self.untracked_keys, self.custom_components, self.prometheus, self.connection_retry),
        ]
        shown = {setting.variable: f"{setting.value} ({setting.source})" for setting in settings}
        shown[DATABASE_URL] = (
            redacted(self.database) if self.database is not None else f"SQLite ({self.database_source})"
        )
        if self.nodes_database is not None:
            shown[NODES_DATABASE_URL] = redacted(self.nodes_database)
        pool = ", ".join(f"{key} {value}" for key, value in self.pool.in_force.items())
        shown[DB_SETTINGS] = f"{pool} ({self.pool.source})"
        return shown


def deployment_of(variables: Variables, expected: Expectations, *, nodes_database: str = "") -> Deployment:
    """Reads a deployment from its variables.

    Args:
        variables: Of the server's environment.
        expected: What is asked of it.
        nodes_database: The database of the nodes, over SLUICE_DATABASE_URL.

    Raises:
        InvalidInput: ``nodes_database`` is no address of PostgreSQL. What the variables hold is never raised but kept
            in ``problems``.
    """
    known = installed.defaults()
    of = variables

    def number(name: str) -> Setting[float]:
        return of.number(f"LANGFLOW_{name.upper()}", known[name])

    def switch(name: str) -> Setting[bool]:
        return of.switch(f"LANGFLOW_{name.upper()}", default=bool(known[name]))

    nodes = read_database_url(nodes_database) if nodes_database else _address(of, NODES_DATABASE_URL)
    return Deployment(
        expected=expected,
        database=_address(of, DATABASE_URL),
        nodes_database=nodes,
        database_source=of.text(DATABASE_URL).source,
        pool=_pool(of, known["db_connection_settings"]),
        driver_settings=of.json_object(DRIVER_SETTINGS, None),
        pg_connect_timeout=of.text("PGCONNECT_TIMEOUT"),
        workers=number("workers"),
        worker_timeout_s=number("worker_timeout"),
        execution_timeout_s=number("workflow_execution_timeout"),
        job_queue=of.choice("LANGFLOW_JOB_QUEUE_TYPE", known["job_queue_type"], ("asyncio", "redis")),
        queue_url=_queue_url(of, known),
        queue_bypassed=switch("dangerously_allow_multi_worker_without_shared_queue"),
        event_delivery=of.choice(
            "LANGFLOW_EVENT_DELIVERY", known["event_delivery"], ("polling", "streaming", "direct")
        ),
        preload=_exactly_true(of, _PRELOAD, default=False),
        gunicorn_args=of.text("GUNICORN_CMD_ARGS"),
        rich_tracebacks=_rich_tracebacks(of),
        trace_locals=_exactly_true(of, "LANGFLOW_LOG_TRACE_LOCALS", default=False),
        untracked_keys=switch("disable_track_apikey_usage"),
        custom_components=switch("allow_custom_components"),
        paths_override=switch("allow_components_paths_override"),
        components_path=of.text("LANGFLOW_COMPONENTS_PATH"),
        prometheus=switch("prometheus_enabled"),
        connection_retry=switch("database_connection_retry"),
        limits=_limits(of),
        problems=of.problems,
    )


def _address(of: Variables, variable: str) -> URL | None:
    text = of.text(variable).value
    if not text or text.lower().startswith("sqlite"):
        return None
    try:
        return read_database_url(text)
    except InvalidInput as exc:
        problem = exc.message.removeprefix("database_url ").rstrip(".")
        of.problems[variable] = f"{variable} ({of.sources[variable]}) {problem}"
        return None


def _pool(of: Variables, default: Mapping[str, Any]) -> LangflowPool:
    setting = of.json_object(DB_SETTINGS, default)
    settings = dict(setting.value or {})
    source = setting.source
    for name in ("pool_size", "max_overflow"):
        own = of.number(f"LANGFLOW_{name.upper()}", 0)  # deprecated, and it wins
        if own.is_set:
            settings[name] = own.value
            source = f"{source}, {own.variable} ({own.source})"
    for name in ("pool_size", "max_overflow", "pool_timeout", "pool_recycle"):
        value = settings.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            of.problems[DB_SETTINGS] = f"{DB_SETTINGS} ({setting.source}): {name} is not a number"
            settings[name] = installed.SQLALCHEMY_POOL[name]
    return LangflowPool(settings, setting.is_set, source)


def _queue_url(of: Variables, known: Mapping[str, Any]) -> Setting[str]:
    """Where the shared queue is, by Langflow's rules: a URL, else host and port, else those of the cache."""
    whole = of.text("LANGFLOW_REDIS_QUEUE_URL")
    if whole.value:
        return whole
    host = of.text("LANGFLOW_REDIS_QUEUE_HOST").value or of.text("LANGFLOW_REDIS_HOST", known["redis_host"]).value
    port = (
        of.number("LANGFLOW_REDIS_QUEUE_PORT", 0).value or of.number("LANGFLOW_REDIS_PORT", known["redis_port"]).value
    )
    database = of.number("LANGFLOW_REDIS_QUEUE_DB", known["redis_queue_db"]).value
    return Setting(whole.variable, f"redis://{host}:{port:g}/{database:g}", whole.source, is_set=False)


def _exactly_true(of: Variables, variable: str, *, default: bool) -> Setting[bool]:
    # Langflow compares these with "true" and takes no other word for it.
    setting = of.text(variable, str(default))
    return Setting(variable, setting.value.lower() == "true", setting.source, is_set=setting.is_set)


def _rich_tracebacks(of: Variables) -> Setting[bool]:
    """Whether tracebacks are drawn for the terminal (``lfx.log.logger.configure``)."""
    pretty = _exactly_true(of, _PRETTY_LOGS, default=True)
    level = of.text("LANGFLOW_LOG_LEVEL", "info").value.lower()  # langflow run: info unless told otherwise
    plain = (
        of.text("LANGFLOW_LOG_ENV").value.lower() in _JSON_LOGS
        or of.text("LANGFLOW_LOG_FORMAT").value
        or level in _QUIET_LEVELS
    )
    return Setting(pretty.variable, pretty.value and not plain, pretty.source, is_set=pretty.is_set)


def _limits(of: Variables) -> OperatorLimits:
    try:
        return operator_limits(of.texts)
    except InvalidInput as exc:
        of.problems["SLUICE_*"] = exc.message.rstrip(".")
        return OperatorLimits()
