"""The command ``sluice top``: the guards and pools of a running deployment, live."""
