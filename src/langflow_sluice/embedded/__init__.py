"""Real servers on this machine for demos and tests: PostgreSQL and Langflow."""
