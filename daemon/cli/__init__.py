"""Commands: one file a subject."""
