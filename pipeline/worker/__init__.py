"""Worker process. Only this package imports torch, diffusers, transformers, numpy and av."""
