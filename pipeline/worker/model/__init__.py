"""The model: loading a checkpoint, and text embeddings that are kept."""
