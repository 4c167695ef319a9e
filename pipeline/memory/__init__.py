"""Memory: will a clip fit, and what to do if not."""
