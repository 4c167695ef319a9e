"""HTTP: the API, the metrics and the health checks."""
