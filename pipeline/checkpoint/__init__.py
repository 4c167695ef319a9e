"""Checkpoints: where a model's files are, and how they are downloaded."""
