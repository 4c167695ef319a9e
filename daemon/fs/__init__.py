"""Files: atomic publication, safe paths, fingerprints, mounts, the lock."""
