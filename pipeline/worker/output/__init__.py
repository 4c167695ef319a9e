"""Output: frames to an MP4, its quality check, poster and preview."""
