"""What the nodes of the canvas share: their common inputs, and the way from a node to its guard."""
