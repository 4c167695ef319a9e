"""Diffusion: conditioning, sampling, denoising, decoding."""
