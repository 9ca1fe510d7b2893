"""Variables of a deployment, each with where it was set, read the way Langflow reads them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from langflow_sluice.doctor.installed import langflow_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langflow_sluice.doctor.env_file import EnvFile

T = TypeVar("T")

# As pydantic takes them.
_ON = frozenset({"1", "on", "t", "true", "y", "yes"})
_OFF = frozenset({"0", "off", "f", "false", "n", "no"})
_PREFIXES = ("LANGFLOW_", "SLUICE_", "GUNICORN_CMD_ARGS", "PGCONNECT_TIMEOUT", "OPENAI_API_KEY")
_LONGEST_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """One value in force.

    Attributes:
        variable: The environment variable that sets it.
        value: As read.
        source: Where it comes from, for people.
        is_set: Whether anybody has set it; else it is a default.
    """

    variable: str
    value: T
    source: str
    is_set: bool = True

    def __str__(self) -> str:
        return f"{self.variable}={self.value} ({self.source})"


@dataclass(slots=True)
class Variables:
    """The environment that a server started with this file in this environment would have.

    The file wins over the environment, as with ``langflow run --env-file``.

    Attributes:
        texts: Values by name, which may be secrets.
        sources: Where each was set.
        problems: Variables whose values cannot be understood, and why; collected while they are read.
    """

    texts: dict[str, str] = field(repr=False)
    sources: dict[str, str]
    problems: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, file: EnvFile | None, environment: Mapping[str, str]) -> Variables:
        """Those of the file over those of the environment; names in capitals, since Langflow takes both."""
        relevant = {name: text for name, text in environment.items() if name.upper().startswith(_PREFIXES)}
        texts = {name.upper(): text for name, text in relevant.items()}
        sources = dict.fromkeys(texts, "environment")
        for name, text in (file.values if file else {}).items():
            texts[name.upper()] = text
            sources[name.upper()] = f"{file.path.name}:{file.line_of(name)}" if file else ""
        return cls(texts, sources)

    def text(self, variable: str, default: str = "") -> Setting[str]:
        """A text; an empty one counts as not set."""
        value = self.texts.get(variable, "")
        return self._set(variable, value) if value else self._default(variable, default)

    def number(self, variable: str, default: float) -> Setting[float]:
        """A number; one that is none is a problem, and the default stands in for it."""
        text = self.text(variable).value.strip()
        if not text:
            return self._default(variable, default)
        if not re.fullmatch(r"[+-]?\d+(\.\d+)?", text):
            self._problem(variable, "it is not a number")
            return self._default(variable, default)
        value = float(text)
        return self._set(variable, int(value) if value == int(value) else value)

    def switch(self, variable: str, *, default: bool) -> Setting[bool]:
        """A switch; anything but the usual words is a problem, and the default stands in for it."""
        text = self.text(variable).value.strip().lower()
        if not text:
            return self._default(variable, default)
        if text not in _ON | _OFF:
            self._problem(variable, "it is not a switch")
            return self._default(variable, default)
        return self._set(variable, text in _ON)

    def choice(self, variable: str, default: str, options: tuple[str, ...]) -> Setting[str]:
        """One of a few words."""
        setting = self.text(variable, default)
        if setting.value not in options:
            self._problem(variable, f"it is none of {', '.join(options)}")
            return self._default(variable, default)
        return setting

    def json_object(self, variable: str, default: Mapping[str, Any] | None) -> Setting[dict[str, Any] | None]:
        """A JSON object; anything else is a problem, and the default stands in for it."""
        text = self.text(variable).value
        fallback = self._default(variable, None if default is None else dict(default))
        if not text:
            return fallback
        try:
            value = json.loads(text)
        except ValueError:
            self._problem(variable, "it is not JSON", show=False)
            return fallback
        if value is not None and not isinstance(value, dict):
            self._problem(variable, "it is not a JSON object", show=False)
            return fallback
        return self._set(variable, value)

    def _set(self, variable: str, value: T) -> Setting[T]:
        return Setting(variable, value, self.sources[variable])

    def _default(self, variable: str, value: T) -> Setting[T]:
        version = langflow_version()
        source = f"default of Langflow {version}".rstrip() if variable.startswith("LANGFLOW_") else "not set"
        return Setting(variable, value, source, is_set=False)

    def _problem(self, variable: str, problem: str, *, show: bool = True) -> None:
        # What a person typed into the wrong line may be a secret: only short plain words are shown.
        text = self.texts[variable]
        shown = text if show and len(text) <= _LONGEST_SHOWN and re.fullmatch(r"[\w.+ -]*", text) else "a value"
        self.problems[variable] = f"{variable} ({self.sources[variable]}) is {shown!r}: {problem}"
