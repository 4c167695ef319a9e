"""Child processes, seen from the parent: messages, channel, life, and what they are asked for."""
