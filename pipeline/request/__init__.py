"""Requests: what to generate."""
