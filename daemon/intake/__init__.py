"""Intake: from a file in an inbox to a job in the queue."""
