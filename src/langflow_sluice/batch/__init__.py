"""Many rows through a model: what Guarded Batch Run does."""
