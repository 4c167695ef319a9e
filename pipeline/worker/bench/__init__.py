"""Benchmarks: speed of the UNet and VAE, and FLOP counts."""
