"""Estimates: how long a clip takes and how much memory it needs."""
