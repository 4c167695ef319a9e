"""Metrics of i2vd that the daemon sets or counts, with their help.

Base units, counters end in `_total`, no file names as labels. Metrics of the queue are read from
it at each scrape, so that a restart does not falsify them. Other values that are read at a scrape
are in collectors.py.
"""

import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from daemon.jobs.database import QueueUnavailable
from daemon.jobs.queries import JobQueries
from pipeline.children.exit_reasons import CAUSES
from pipeline.children.protocol import HEARTBEAT_TIMEOUTS
from pipeline.memory.modes import Mode
from pipeline.quality import FLAWS

log = structlog.get_logger()

WEBHOOK_OUTCOMES = ("delivered", "retried", "dropped")
"""Outcomes of a try to deliver a webhook message; one not delivered is retried or dropped."""

REJECTIONS = ("unreadable", "sidecar")
"""Reasons of intake for rejecting a picture: it cannot be decoded, or its override is wrong."""

BACKGROUND_TASKS = ("webhooks", "rules", "status", "measurement", "preview")
"""Tasks whose failures cost nothing else (daemon/background.py)."""

_SECONDS = (1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 1800, 3600)
_MOTION = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
_SIMILARITY = (0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
_STAGE_SECONDS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """Metrics of one daemon, in their own registry."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._add_daemon_metrics()
        self._add_clip_metrics()
        self._add_memory_metrics()
        self._add_fault_metrics()
        self._initialise_series()

    def _add_daemon_metrics(self) -> None:
        r = self.registry
        self.build = Gauge("i2vd_build_info", "Version of i2vd; always 1.", ["version"], registry=r)
        self.rules_ok = Gauge(
            "i2vd_rules_last_reload_successful",
            "1 if the last reload of an inbox's rules succeeded, else 0.",
            ["inbox"],
            registry=r,
        )
        self.rules_time = Gauge(
            "i2vd_rules_last_reload_success_timestamp_seconds",
            "Time of the last successful reload of an inbox's rules.",
            ["inbox"],
            registry=r,
        )

        self.webhook_messages = Counter(
            "i2vd_webhook_messages_total",
            "Tries to deliver webhook messages, by outcome: delivered, retried or dropped.",
            ["outcome"],
            registry=r,
        )
        self.background_failures = Counter(
            "i2vd_background_failures_total",
            "Failures of background tasks, which cost nothing but their own work, by task.",
            ["task"],
            registry=r,
        )

    def _add_clip_metrics(self) -> None:
        r = self.registry
        self.clip_seconds = Histogram(
            "i2vd_clip_seconds",
            "Seconds from a picture's arrival to its published clip.",
            ["preset"],
            buckets=_SECONDS,
            registry=r,
        )
        self.stage_seconds = Histogram(
            "i2vd_stage_seconds",
            "Seconds of a finished attempt, by stage.",
            ["stage"],
            buckets=_STAGE_SECONDS,
            registry=r,
        )
        self.predicted_seconds = Counter(
            "i2vd_clip_predicted_seconds_total",
            "Predicted seconds of the finished clips.",
            registry=r,
        )
        self.actual_seconds = Counter(
            "i2vd_clip_actual_seconds_total",
            "Actual seconds of the finished clips that had a prediction.",
            registry=r,
        )
        self.steps = Counter("i2vd_denoising_steps_total", "Denoising steps done.", registry=r)
        self.motion = Histogram(
            "i2vd_clip_motion_levels",
            "Motion of clips: mean pixel difference to the first frame, of 255.",
            buckets=_MOTION,
            registry=r,
        )
        self.similarity = Histogram(
            "i2vd_clip_similarity",
            "Similarity of the first frame of clips to the picture, -1 to 1.",
            buckets=_SIMILARITY,
            registry=r,
        )

    def _add_memory_metrics(self) -> None:
        r = self.registry
        self.fallbacks = Counter(
            "i2vd_fallbacks_total",
            "Fallbacks to the next rung, by memory mode and stage; predicted: skipped untried.",
            ["mode", "stage"],
            registry=r,
        )
        self.degraded = Counter(
            "i2vd_clips_degraded_total", "Clips smaller or shorter than requested.", registry=r
        )
        self.peak_memory = Gauge(
            "i2vd_peak_memory_bytes",
            "Peak device memory that the last clip of a preset reserved.",
            ["preset"],
            registry=r,
        )
        self.prediction_ratio = Gauge(
            "i2vd_memory_prediction_ratio",
            "Predicted peak device memory divided by the measured one, of the last clip in a mode.",
            ["mode"],
            registry=r,
        )

    def _add_fault_metrics(self) -> None:
        r = self.registry
        self.child_exits = Counter(
            "i2vd_child_exits_total",
            "Child processes that exited or were replaced after a failure, by child and cause.",
            ["child", "cause"],
            registry=r,
        )
        self.quality_rejections = Counter(
            "i2vd_quality_rejections_total",
            "Clips that the quality check rejected, by flaw.",
            ["flaw"],
            registry=r,
        )
        self.retries = Counter(
            "i2vd_retries_total", "Failed attempts whose job was requeued for a retry.", registry=r
        )
        self.rejected = Counter(
            "i2vd_pictures_rejected_total",
            "Pictures rejected at intake, by reason.",
            ["reason"],
            registry=r,
        )

    def _initialise_series(self) -> None:
        """Create the series of all known label values, so that their first increase is visible."""
        for child in ("worker", "picture"):
            for cause in CAUSES:
                self.child_exits.labels(child, cause)
        for flaw in FLAWS:
            self.quality_rejections.labels(flaw)
        for mode in Mode:
            for stage in ("predicted", *HEARTBEAT_TIMEOUTS):
                self.fallbacks.labels(mode, stage)
        for stage in HEARTBEAT_TIMEOUTS:
            self.stage_seconds.labels(stage)
        for outcome in WEBHOOK_OUTCOMES:
            self.webhook_messages.labels(outcome)
        for reason in REJECTIONS:
            self.rejected.labels(reason)
        for task in BACKGROUND_TASKS:
            self.background_failures.labels(task)

    def initialise_presets(self, presets: Iterable[str]) -> None:
        """Create the series of each preset before its first clip."""
        for preset in presets:
            self.clip_seconds.labels(preset)

    def watch_queue(self, queries: JobQueries) -> None:
        """Register the metrics that are read from the queue."""
        self.watch(_QueueCollector(queries))

    def watch_gauge(self, name: str, help_text: str, labels: list[str], read: "ReadSeries") -> None:
        """Register a gauge; `read` returns its (labels, value) pairs at each scrape."""
        self.watch(_SeriesCollector(GaugeMetricFamily, name, help_text, labels, read))

    def watch_counter(self, name: str, help_text: str, read: Callable[[], int]) -> None:
        """Register a counter without labels whose value is read at each scrape."""
        self.watch(
            _SeriesCollector(CounterMetricFamily, name, help_text, [], lambda: [([], read())])
        )

    def watch(self, collector: "DescribedCollector") -> None:
        """Register a collector; if it fails, a scrape still returns all other metrics."""
        self.registry.register(_SafeCollector(collector))


ReadSeries = Callable[[], Iterable[tuple[list[str], float]]]


class DescribedCollector(Protocol):
    """Collector that knows its metrics before they have values."""

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics with their values."""


class _SafeCollector(Collector):
    """Returns the metrics of a collector, or none and a line in the log if it fails."""

    def __init__(self, collector: DescribedCollector) -> None:
        self._collector = collector
        self._problem = ""

    def describe(self) -> Iterable[Metric]:
        return self._collector.describe()

    def collect(self) -> Iterable[Metric]:
        problem = ""
        found: list[Metric] = []
        try:
            found = [*self._collector.collect()]
        except QueueUnavailable:
            pass  # /readyz reports it
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem and problem != self._problem:
            names = [family.name for family in self.describe()]
            log.error("metrics unavailable", metrics=names, reason=problem)
        self._problem = problem
        return found or self.describe()


class _SeriesCollector(Collector):
    def __init__(
        self,
        family: type[GaugeMetricFamily] | type[CounterMetricFamily],
        name: str,
        help_text: str,
        labels: list[str],
        read: ReadSeries,
    ) -> None:
        self._new_family = partial(family, name, help_text, labels=labels)
        self._read = read

    def describe(self) -> Iterable[Metric]:
        return [self._new_family()]

    def collect(self) -> Iterable[Metric]:
        family = self._new_family()
        for labels, value in self._read():
            family.add_metric(labels, value)
        return [family]


class _QueueCollector(Collector):
    """Jobs by state, finished jobs, and the age of the oldest queued one."""

    def __init__(self, queries: JobQueries) -> None:
        self._queries = queries

    def describe(self) -> Iterable[Metric]:
        return [self._states(), self._finished(), self._oldest()]

    def collect(self) -> Iterable[Metric]:
        states, finished, oldest = self._states(), self._finished(), self._oldest()
        for state, count in self._queries.counts().items():
            states.add_metric([state], count)
        for outcome, rule, preset, count in self._queries.outcomes():
            finished.add_metric([outcome, rule, preset], count)
        oldest.add_metric([], max(0.0, self._queries.oldest_queued() or 0.0))
        return [states, finished, oldest]

    def _states(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "i2vd_jobs", "Jobs of the queue by state, also pruned ones.", labels=["state"]
        )

    def _finished(self) -> CounterMetricFamily:
        return CounterMetricFamily(
            "i2vd_jobs_finished_total",
            "Jobs that ended, by outcome, rule and preset.",
            labels=["outcome", "rule", "preset"],
        )

    def _oldest(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "i2vd_queue_oldest_seconds",
            "Age of the oldest queued job in seconds; 0 if none is queued.",
        )


def free_bytes(folder: Path) -> float | None:
    """Return the bytes available on the file system of `folder`; None if it cannot be read."""
    try:
        return float(shutil.disk_usage(folder).free)
    except OSError:
        return None
