"""Corpus of reports from the field, run against the real daemon."""
