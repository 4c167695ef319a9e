"""Collectors: gauges whose values are read from the daemon and its queue at each scrape."""

from collections.abc import Iterable

from daemon.fleet.hosts import HOST_STATES
from daemon.status import Status
from daemon.storage.health import StorageHealth
from daemon.telemetry import logs
from daemon.telemetry.gpu_metrics import GpuCollector


def register_collectors(status: Status) -> None:
    """Register the gauges of the daemon's status, its queue and its GPUs."""
    services = status.services
    services.metrics.watch_queue(services.queries)
    services.metrics.watch(GpuCollector())
    services.metrics.watch_counter(
        "i2vd_log_lines_lost_total",
        "Log lines that could not be written, or that nobody took in time.",
        logs.lines_lost,
    )
    _register_service(status)
    _register_inboxes(status)


def _register_service(status: Status) -> None:
    services = status.services
    gauge = services.metrics.watch_gauge
    gauge(
        "i2vd_ready",
        "1 if the daemon is ready (/readyz returns 200), else 0.",
        [],
        lambda: [([], not status.problems())],
    )
    gauge(
        "i2vd_paused",
        "1 if claiming is paused, else 0.",
        [],
        lambda: [([], services.operator.paused())],
    )
    gauge(
        "i2vd_queue_eta_seconds",
        "Estimated seconds until the whole queue is done; absent before the first clip.",
        [],
        lambda: [([], eta) for eta in [status.queue_eta()] if eta is not None],
    )
    gauge(
        "i2vd_host_state",
        "1 for the current state of a host of this queue, 0 for the other states.",
        ["host", "state"],
        lambda: [
            ([host.name, state], host.state == state)
            for host in status.hosts.all()
            for state in HOST_STATES
        ],
    )


def _register_inboxes(status: Status) -> None:
    services = status.services
    gauge = services.metrics.watch_gauge
    gauge(
        "i2vd_storage_ok",
        "1 if the folders of an inbox and the state folder accept more output, else 0.",
        ["inbox"],
        lambda: [
            ([i.name], i.name not in services.storage_health.blocked)
            for i in services.settings.inbox
        ],
    )
    gauge(
        "i2vd_inbox_available",
        "1 if the inbox can be read, else 0.",
        ["inbox"],
        lambda: [([w.inbox.name], not w.unavailable) for w in status.watchers],
    )
    gauge(
        "i2vd_inbox_inotify",
        "1 if inotify events wake the scan of an inbox, 0 if it is only polled.",
        ["inbox"],
        lambda: [([name], mode == "inotify") for name, mode in status.notifier.modes.items()],
    )
    gauge(
        "i2vd_inbox_unmatched",
        "Pictures that stay in the inbox because no rule matches them.",
        ["inbox"],
        lambda: [([w.inbox.name], len(w.unmatched)) for w in status.watchers],
    )
    gauge(
        "i2vd_skipped_files",
        "Files that were in an inbox for a minute and belong to no job, by reason.",
        ["inbox", "reason"],
        lambda: [
            ([w.inbox.name, reason], count)
            for w in status.watchers
            for reason, count in w.skipped.counts().items()
        ],
    )
    gauge(
        "i2vd_scan_seconds",
        "Duration of the last scan of an inbox in seconds.",
        ["inbox"],
        lambda: [([w.inbox.name], w.scan_seconds) for w in status.watchers],
    )
    gauge(
        "i2vd_free_bytes",
        "Free bytes on the file system of a folder.",
        ["inbox", "folder"],
        lambda: _free_bytes(services.storage_health),
    )


def _free_bytes(health: StorageHealth) -> Iterable[tuple[list[str], float]]:
    """Yield what the last look found: a scrape must not wait for a share that hangs."""
    for (inbox, role), free in [*health.free.items()]:
        if role != "rules":
            yield [inbox, "inbox" if role == "path" else role], free
