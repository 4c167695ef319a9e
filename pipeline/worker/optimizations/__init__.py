"""Optimizations: the same result up to rounding, in less time."""
