"""For tests of flows and nodes: guards of their own, time that does not pass by itself, and networks that fail."""

from langflow_sluice.testing.clock import ManualClock, settle
from langflow_sluice.testing.guards import isolated_guards
from langflow_sluice.testing.relay import Relay

__all__ = ["ManualClock", "Relay", "isolated_guards", "settle"]
