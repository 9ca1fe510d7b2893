"""``sluice load``: drives flows through Langflow's API and says what gives way first."""
