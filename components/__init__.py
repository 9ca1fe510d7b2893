"""The nodes of Sluice, as Langflow's extension loader finds them."""
