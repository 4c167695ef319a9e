"""Dispatch: claim jobs and run them on slots."""
