"""One node a file; everything shared lives in ``langflow_sluice``."""
