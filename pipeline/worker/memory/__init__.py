"""Memory: weights on host and device, offloading, casting, chunking, tiling, the budget."""
