"""Fleet: the hosts of a shared queue."""
