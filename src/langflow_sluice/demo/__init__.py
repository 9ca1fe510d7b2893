"""``sluice demo``: the main job on real parts, the unsafe way and the safe way side by side."""
