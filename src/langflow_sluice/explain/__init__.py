"""From an error's text to the dependency it comes from, its cause, and what to change.

Where :mod:`langflow_sluice.failures` and :mod:`langflow_sluice.postgres.failures` read errors as objects while a flow
runs, this reads them as text, in a log or a chat; what it says of a failure is taken from those two.
"""
