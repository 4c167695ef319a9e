"""Optimizations: transforms of unmodified diffusers modules; results equal up to rounding."""
