"""The defaults of the Langflow that is installed here, for what a deployment leaves unset."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any

# Of Langflow 1.13, where the installed one has no such setting.
_KNOWN: dict[str, Any] = {
    "workers": 1,
    "worker_timeout": 300,
    "workflow_execution_timeout": 300,
    "job_queue_type": "asyncio",
    "dangerously_allow_multi_worker_without_shared_queue": False,
    "redis_host": "localhost",
    "redis_port": 6379,
    "redis_queue_db": 1,
    "event_delivery": "streaming",
    "prometheus_enabled": False,
    "log_level": "critical",
    "disable_track_apikey_usage": False,
    "allow_custom_components": True,
    "allow_components_paths_override": True,
    "database_connection_retry": False,
    "db_connect_timeout": 30,
    "db_connection_settings": {
        "pool_size": 20,
        "max_overflow": 30,
        "pool_timeout": 30,
        "pool_pre_ping": True,
        "pool_recycle": 1800,
        "echo": False,
    },
}

SQLALCHEMY_POOL = {"pool_size": 5, "max_overflow": 10, "pool_timeout": 30, "pool_pre_ping": False, "pool_recycle": -1}
"""What SQLAlchemy does where LANGFLOW_DB_CONNECTION_SETTINGS is set and leaves something out."""


@functools.cache
def langflow_version() -> str:
    """Of the installed Langflow; empty where there is none."""
    try:
        return metadata.version("langflow")
    except metadata.PackageNotFoundError:
        return ""


@functools.cache
def defaults() -> dict[str, Any]:
    """Langflow's settings by field name, as the installed version has them; importing them takes seconds."""
    import warnings

    from pydantic_core import PydanticUndefined

    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lfx warns of its own code
        try:
            from lfx.services.settings import groups
        except ImportError:
            return _KNOWN
        for kind in vars(groups).values():
            fields = getattr(kind, "model_fields", None)
            if isinstance(fields, dict):
                found |= {name: field.default for name, field in fields.items()}
    return _KNOWN | {name: value for name, value in found.items() if value is not PydanticUndefined}
