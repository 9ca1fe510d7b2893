"""What the server's operator allows: limits that no flow can raise, and guard names that users may share.

Two sources, both read in the server's process and out of reach for flows:

* Environment variables for every guard: ``SLUICE_MAX_CONCURRENCY``, ``SLUICE_REQUESTS_PER_MINUTE``,
  ``SLUICE_TOKENS_PER_MINUTE``, ``SLUICE_MAX_QUEUE``, ``SLUICE_QUEUE_TIMEOUT`` (seconds); ``SLUICE_SCOPE`` and
  ``SLUICE_REDIS_LOSS``, which count whatever a node says; and one for the process:
  ``SLUICE_MAX_DB_CONNECTIONS``, the connections to all databases together.
* A TOML file named by ``SLUICE_LIMITS_FILE``, read again when it changes::

    [limits]                    # every guard
    max_queue = 500
    max_db_connections = 40     # the whole process

    [[guard]]                   # guards whose name fits the pattern (*, ?, [..] as in a shell)
    name = "api.openai.com*"
    max_concurrency = 32
    tokens_per_minute = 200000

    [[guard]]
    name = "crm"
    shared = true               # one guard for all Langflow users who name it, not one for each
"""

from __future__ import annotations

import fnmatch
import functools
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import InvalidInput
from langflow_sluice.guard.settings import GuardSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_VARIABLE = "SLUICE_LIMITS_FILE"
# Names in the environment and the file, and the settings that they stand for.
_NAMES = {
    "max_concurrency": "max_concurrency",
    "requests_per_minute": "requests_per_minute",
    "tokens_per_minute": "tokens_per_minute",
    "max_queue": "max_queue",
    "queue_timeout": "queue_timeout_s",
}
_CHOICES = ("scope", "redis_loss")
_DB_CONNECTIONS = "max_db_connections"
NO_LIMITS = GuardSettings(**dict.fromkeys(_NAMES.values(), 0), scope="", redis_loss="")  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: str
    limits: GuardSettings
    shared: bool


@dataclass(frozen=True, slots=True)
class OperatorLimits:
    """The operator's rules, as read.

    Attributes:
        everywhere: Limits of every guard.
        rules: Limits and sharing of guards by name.
        db_connections: Connections to databases that the process may have open; 0 for as many as pools ask for.
    """

    everywhere: GuardSettings = NO_LIMITS
    rules: tuple[_Rule, ...] = ()
    db_connections: int = 0

    def ceiling(self, name: str) -> GuardSettings:
        """The limits of a guard; 0 where the operator sets none."""
        fitting = (rule.limits for rule in self.rules if fnmatch.fnmatchcase(name, rule.pattern))
        return functools.reduce(GuardSettings.tighter, fitting, self.everywhere)

    def is_shared(self, name: str) -> bool:
        """Whether all Langflow users who name this guard share it."""
        return any(rule.shared and fnmatch.fnmatchcase(name, rule.pattern) for rule in self.rules)


_NOTHING = OperatorLimits()


def operator_limits(environment: Mapping[str, str] | None = None) -> OperatorLimits:
    """The rules in force now.

    Args:
        environment: The variables to read; those of this process unless given.

    Raises:
        InvalidInput: A variable or the file is wrong; names the place, the value and the fix. No guard can be had
            until it is right: a typing error must not silently lift a limit.
    """
    environment = os.environ if environment is None else environment
    values = {key: environment.get(f"SLUICE_{key.upper()}", "") for key in _NAMES}
    limits: dict[str, Any] = {key: _number(f"SLUICE_{key.upper()}", text) for key, text in values.items() if text}
    choices = {key: environment.get(f"SLUICE_{key.upper()}", "").strip() for key in _CHOICES}
    told = limits | {key: text for key, text in choices.items() if text}
    everywhere = _settings(told, {key: f"SLUICE_{key.upper()}" for key in told})
    from_file = _file(environment)
    connections = _db_connections(from_file, environment)
    return OperatorLimits(everywhere.tighter(from_file.everywhere), from_file.rules, connections)


def max_db_connections() -> int:
    """Connections to databases that this process may have open now; 0 for as many as its pools ask for.

    Raises:
        InvalidInput: The variable or the file is wrong.
    """
    return _db_connections(_file(os.environ), os.environ)


def _db_connections(from_file: OperatorLimits, environment: Mapping[str, str]) -> int:
    variable = f"SLUICE_{_DB_CONNECTIONS.upper()}"
    text = environment.get(variable, "")
    limit = _checked_connections(variable, _number(variable, text)) if text else 0
    return (
        min(limit, from_file.db_connections)
        if limit and from_file.db_connections
        else limit or from_file.db_connections
    )


def _checked_connections(field: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput.of(field, value, "it counts connections", fix="Set it to a whole number; 0 is no limit.")
    return value


def _file(environment: Mapping[str, str]) -> OperatorLimits:
    path = environment.get(FILE_VARIABLE, "")
    if not path:
        return _NOTHING
    try:
        changed = Path(path).stat().st_mtime_ns
    except OSError as exc:
        raise InvalidInput.of(
            FILE_VARIABLE, path, f"it cannot be read ({exc.strerror})", fix="Name a TOML file."
        ) from None
    return _read(path, changed)


@functools.lru_cache(maxsize=4)
def _read(path: str, changed: int) -> OperatorLimits:  # noqa: ARG001 - part of the cache's key
    try:
        content = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        problem = f"it is no TOML file ({exc})"
        raise InvalidInput.of(FILE_VARIABLE, path, problem, fix="Mend the file at that place.") from None
    unknown = sorted(set(content) - {"limits", "guard"})
    if unknown:
        raise InvalidInput.of(path, unknown[0], "there is no such table", fix="Use [limits] and [[guard]].")
    rules = []
    for table in content.get("guard", ()):
        pattern, shared = table.pop("name", None), table.pop("shared", False)
        if not isinstance(pattern, str) or not pattern:
            field = f"{path}: name"
            raise InvalidInput.of(field, pattern, "a [[guard]] needs one", fix='Add name = "...".')
        if not isinstance(shared, bool):
            field = f"{path}: shared"
            raise InvalidInput.of(field, shared, "it is a switch", fix="Use true or false.")
        rules.append(_Rule(pattern, _limits(path, table), shared))
    everywhere = dict(content.get("limits", {}))
    connections = _checked_connections(f"{path}: {_DB_CONNECTIONS}", everywhere.pop(_DB_CONNECTIONS, 0))
    return OperatorLimits(_limits(path, everywhere), tuple(rules), connections)


def _limits(path: str, table: dict[str, Any]) -> GuardSettings:
    for key, value in table.items():
        if key not in _NAMES and key not in _CHOICES:
            fix = f"Use one of {', '.join((*_NAMES, *_CHOICES))}, or {_DB_CONNECTIONS} in [limits]."
            field = f"{path}: {key}"
            raise InvalidInput.of(field, value, "there is no such limit", fix=fix)
    return _settings(table, {key: f"{path}: {key}" for key in table})


def _settings(values: dict[str, Any], places: Mapping[str, str]) -> GuardSettings:
    """Limits out of what was read; ``places`` say where each was found, for errors."""
    for key, value in values.items():
        _check(key, value, places[key])
    return replace(NO_LIMITS, **{_NAMES.get(key, key): value for key, value in values.items()})


def _check(key: str, value: Any, place: str) -> None:
    try:
        if key in _CHOICES and not (isinstance(value, str) and value):
            raise InvalidInput.of(key, value, "it is a word", fix="Leave it out, or name one.")
        GuardSettings(**{_NAMES.get(key, key): value})
    except InvalidInput as error:
        raise InvalidInput(error.message.replace(f"{key} is ", f"{place} is ", 1), hint=error.hint) from None


def _number(variable: str, text: str) -> float:
    try:
        value = float(text)
        return int(value) if value == int(value) else value
    except (ValueError, OverflowError):  # not one, nan, inf
        raise InvalidInput.of(variable, text, "a limit is a number", fix=f"Set {variable} to 0 or above.") from None
