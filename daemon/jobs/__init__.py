"""Jobs: the durable queue."""
