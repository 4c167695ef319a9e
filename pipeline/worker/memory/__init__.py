"""Memory: placing weights, and computing in smaller pieces."""
