"""Publication: clips into the outbox, pictures into the archive."""
