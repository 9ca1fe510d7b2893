"""Sections: the part of the canvas between a node's body output and the edge that comes back to it."""
