"""Telemetry: log, journal, metrics, systemd notification, terminal output."""
