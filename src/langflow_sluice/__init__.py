"""Sluice: safe fan-out for Langflow."""
