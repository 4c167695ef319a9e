"""Benches: speed and the number of operations."""
