"""What a guard tells about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langflow_sluice.guard.settings import GuardSettings, Priority


@dataclass(frozen=True, slots=True)
class GuardStatistics:
    """A snapshot of one guard; holds no credential and no prompt.

    Attributes:
        name: The guard's name.
        settings: The limits in force.
        in_flight: Permits in use.
        peak_in_flight: The most permits ever in use at once.
        waiting: Callers in the queue, by priority.
        admitted: Permits granted so far.
        refused: Callers turned away because the queue was full.
        expired: Callers that left after their queue timeout.
        gone: Callers that were cancelled, or whose loop closed, before they could use a permit.
        retries: Attempts that failed and were followed by another one.
        pause_left_s: Seconds for which the service has asked to be left alone.
    """

    name: str
    settings: GuardSettings
    in_flight: int
    peak_in_flight: int
    waiting: Mapping[Priority, int]
    admitted: int
    refused: int
    expired: int
    gone: int
    retries: int
    pause_left_s: float
