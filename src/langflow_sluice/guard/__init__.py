"""Guards: bulkhead, rates and bounded queue in front of a downstream service."""

from langflow_sluice.guard.guard import Guard, Slot
from langflow_sluice.guard.registry import GuardRegistry, disagreement, guard_registry
from langflow_sluice.guard.settings import PRIORITIES, GuardSettings, Priority
from langflow_sluice.guard.statistics import GuardStatistics

__all__ = [
    "PRIORITIES",
    "Guard",
    "GuardRegistry",
    "GuardSettings",
    "GuardStatistics",
    "Priority",
    "Slot",
    "disagreement",
    "guard_registry",
]
