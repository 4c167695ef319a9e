"""Child processes as the parent sees them: messages, channel, life cycle, requests."""
