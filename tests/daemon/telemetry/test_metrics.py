"""Metrics: values of the queue and of folders, as Prometheus reads them."""

from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from daemon.telemetry.metrics import Metrics, free_bytes


def test_metrics_of_the_ledger_survive_a_restart(store: JobStore, queries: JobQueries) -> None:
    for _ in range(2):
        metrics = Metrics()
        metrics.watch_queue(queries)
        text = generate_latest(metrics.registry).decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        states = {s.labels["state"] for s in families["i2vd_jobs"].samples}
        assert states == {"queued", "running", "publishing", "done", "failed", "cancelled"}


def test_every_metric_has_help_and_our_prefix(queries: JobQueries) -> None:
    metrics = Metrics()
    metrics.watch_queue(queries)
    metrics.watch_gauge("i2vd_x", "Help.", ["a"], lambda: [(["b"], 1.0)])
    for family in metrics.registry.collect():
        assert family.name.startswith("i2vd_")
        assert family.documentation.endswith(".")


def test_free_space_that_cannot_be_told_is_not_zero(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "nowhere") is None
    assert (free_bytes(tmp_path) or 0) > 0
