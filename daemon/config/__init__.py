"""Configuration: settings, where they are read from, and their field types."""
