"""The daemon: it watches, queues, dispatches and publishes. It never imports torch."""
