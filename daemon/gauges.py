"""Gauges whose values are read from the daemon and its ledger at each scrape."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from daemon.gpu import Gpus
from daemon.hosts import HOST_STATES
from daemon.metrics import free_bytes

if TYPE_CHECKING:
    from daemon.app import App


def watch_gauges(app: "App") -> None:
    """Serve them among the metrics of the daemon."""
    app.metrics.watch_ledger(app.history)
    app.metrics.registry.register(Gpus())
    gauge = app.metrics.watch_gauge
    gauge("i2vd_ready", "1 when /readyz says yes.", [], lambda: [([], not app.problems())])
    gauge("i2vd_paused", "1 while claiming is paused.", [], lambda: [([], app.ledger.paused())])
    gauge(
        "i2vd_room",
        "1 while all folders of an inbox, and the state folder, take more work.",
        ["inbox"],
        lambda: [([i.name], i.name not in app.room.lacking) for i in app.settings.inbox],
    )
    gauge(
        "i2vd_queue_eta_seconds",
        "Seconds until the whole queue is done; absent before the first clip was made.",
        [],
        lambda: [([], left) for left in [app.until_done()] if left is not None],
    )
    gauge(
        "i2vd_host_state",
        "1 for the state that a host of this queue is in, 0 for the others.",
        ["host", "state"],
        lambda: [
            ([host.name, state], host.state == state)
            for host in app.hosts.all()
            for state in HOST_STATES
        ],
    )
    gauge(
        "i2vd_inbox_available",
        "1 when the inbox can be read.",
        ["inbox"],
        lambda: [([w.inbox.name], not w.unavailable) for w in app.watchers],
    )
    gauge(
        "i2vd_inbox_events",
        "1 when file events shorten the wait for the next scan, 0 when the scan is alone.",
        ["inbox"],
        lambda: [([name], mode == "events") for name, mode in app.hint.modes.items()],
    )
    gauge(
        "i2vd_inbox_unmatched",
        "Pictures that lie in the inbox because no rule takes them.",
        ["inbox"],
        lambda: [([w.inbox.name], len(w.unmatched)) for w in app.watchers],
    )
    gauge(
        "i2vd_scan_seconds",
        "Seconds that the last scan of an inbox took.",
        ["inbox"],
        lambda: [([w.inbox.name], w.scan_seconds) for w in app.watchers],
    )
    gauge(
        "i2vd_free_bytes",
        "Bytes free where a folder lies.",
        ["inbox", "folder"],
        lambda: _free_bytes(app),
    )


def _free_bytes(app: "App") -> Iterable[tuple[list[str], float]]:
    for inbox in app.settings.inbox:
        for role in ("path", "outbox", "archive", "failed"):
            if (free := free_bytes(getattr(inbox, role))) is not None:
                yield [inbox.name, "inbox" if role == "path" else role], free
    if (free := free_bytes(app.settings.state)) is not None:
        yield ["", "state"], free
