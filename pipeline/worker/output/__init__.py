"""Output: MP4 encoding, quality measurements, poster and preview."""
