"""One budget over all workers and machines, kept in Redis."""
