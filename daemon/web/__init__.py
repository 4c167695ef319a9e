"""HTTP: the API, the page, the metrics and the health checks."""
