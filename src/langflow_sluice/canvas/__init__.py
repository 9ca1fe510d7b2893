"""Builds Langflow flow files from the sources of their nodes, never by hand.

``catalog`` knows the nodes as Langflow's palette would offer them, ``build`` puts them on a canvas, ``library`` holds
the bundled flows, and ``files`` writes them, checks them and lists them. Only building needs Langflow's component
loader, which takes seconds to import; listing the bundled flows reads their JSON alone.
"""
