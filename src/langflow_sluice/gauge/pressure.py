"""One thing that is under pressure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How bad it is."""

    NOTE = 1
    """It was so some time ago, or it is as somebody has set it."""
    PRESSURE = 2
    """Somebody waits."""
    FAILING = 3
    """Somebody is turned away, or soon will be."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """What is the matter with one dependency.

    Attributes:
        severity: How bad it is.
        where: The dependency, in Markdown.
        observed: What is seen of it, with figures.
        change: The setting to change, and how.
        affected: Callers or sessions that it holds up; of two that are equally bad the one with more comes first.
    """

    severity: Severity
    where: str
    observed: str
    change: str
    affected: float = 0.0
