"""Transforms of the UNet and the VAE that do the same work in less time: what is on, and where."""
