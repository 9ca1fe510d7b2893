"""For tests of flows and nodes: time that does not pass by itself."""

from langflow_sluice.testing.clock import ManualClock, settle

__all__ = ["ManualClock", "settle"]
