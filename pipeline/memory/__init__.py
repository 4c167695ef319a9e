"""Memory: the peak-memory model, the memory modes, and the ladder of fallbacks."""
