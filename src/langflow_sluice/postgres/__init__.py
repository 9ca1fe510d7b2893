"""PostgreSQL with pgvector: shared engines, searching and writing."""
