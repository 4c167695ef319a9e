"""Model: checkpoint loading, and the embedding cache."""
