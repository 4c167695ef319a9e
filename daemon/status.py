"""Status: readiness, status line and queue ETA for the API, the metrics and systemd.

Reads the state of dispatch, intake and the fleet, and changes nothing.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.dispatch.slot import Slot
from daemon.estimate.duration import queued_work
from daemon.fleet.hosts import DRAINED, Hosts
from daemon.fleet.membership import Membership
from daemon.intake.inotify import FileNotifier
from daemon.intake.watcher import Watcher
from daemon.jobs.database import QueueUnavailable
from daemon.services import Services


@dataclass(frozen=True)
class Status:
    """Readiness, status line and queue ETA of one daemon."""

    services: Services
    slots: Sequence[Slot]
    watchers: Sequence[Watcher]
    notifier: FileNotifier
    hosts: Hosts
    membership: Membership
    _stopping: asyncio.Event

    @property
    def stopping(self) -> bool:
        """Return True once the first stop signal was received."""
        return self._stopping.is_set()

    def problems(self) -> list[str]:
        """Return the reasons why the daemon is not ready; empty if it is."""
        services = self.services
        blocked = services.storage_health.blocked
        found = [
            f"inbox {w.inbox.name}: {w.unavailable}"
            for w in self.watchers
            if w.unavailable and w.inbox.name not in blocked
        ]
        found += [
            f"inbox {w.inbox.name}: no rules could be loaded from {rules.folder}"
            for w in self.watchers
            for rules in [services.rules[w.inbox.name]]
            if rules.last and not rules.last.ok and not rules.rules.rules
        ]
        found += [f"inbox {name}: {reason}" for name, reason in blocked.items()]
        found += [services.archive.last_error] if services.archive.last_error else []
        found += [f"{slot.device}: {slot.problem}" for slot in self.slots if slot.problem]
        if self.stopping:
            found.append("stopping")
        return found

    @property
    def skipped(self) -> int:
        """Number of files in the inboxes that belong to no job."""
        return sum(watcher.skipped.total for watcher in self.watchers)

    def queue_eta(self) -> float | None:
        """Estimate the seconds until no job waits or runs; None while too little is known."""
        now = time.time()
        running = [
            (each.job.spec, now - (each.job.started or now))
            for slot in self.slots
            for each in slot.running
            if each.job.spec
        ]
        work = queued_work(self.services.queries)
        return self.services.durations.queue_eta(work, running, self.membership.devices())

    def line(self) -> str:
        """Return one line for `systemctl status`."""
        try:
            queued = self.services.queries.counts()["queued"]
            eta = self.queue_eta() if queued else None
        except QueueUnavailable as error:
            return str(error)
        local = (host.state for host in self.membership.hosts if host.is_local)
        parts: list[str] = [state for state in local if state in DRAINED]
        parts += [
            f"{queued} queued" + ("" if eta is None else f", all done in {_rough_duration(eta)}")
        ]
        for slot in self.slots:
            if (current := slot.current) and (p := current.progress_dict()):
                left = "" if p["eta"] is None else f", {p['eta']:.0f} s left"
                step = f"{p['stage']} {p['step']}/{p['steps']}"
                parts.append(f"#{current.job.id} {current.job.path}: {step}{left}")
        if self.skipped:
            parts.append(f"{self.skipped} skipped")
        return "; ".join(parts)


def _rough_duration(seconds: float) -> str:
    """Format a duration for people: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
