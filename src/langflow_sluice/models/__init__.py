"""Chat models and embeddings behind a guard."""
