"""Checks a deployment of Langflow before it falls over, with the arithmetic shown."""
