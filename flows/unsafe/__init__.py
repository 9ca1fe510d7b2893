"""The same jobs with stock nodes, to measure against."""
