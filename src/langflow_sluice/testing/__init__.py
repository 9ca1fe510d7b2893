"""For tests of flows and nodes: guards of their own, and time that does not pass by itself."""

from langflow_sluice.testing.clock import ManualClock, settle
from langflow_sluice.testing.guards import isolated_guards

__all__ = ["ManualClock", "isolated_guards", "settle"]
