"""The command ``sluice top``: the guards, pools and HTTP connections of a running deployment, live."""
