"""Diffusion: conditioning, schedulers and sampling, denoising, VAE decoding."""
