"""Membership: this daemon's heartbeat, and the hosts that were alive at the last one.

Builds the claim filter of each slot from them. The hosts table itself is in hosts.py.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence

from daemon.devices import read_card
from daemon.dispatch.slot import Slot
from daemon.fleet.hosts import Device, Host, HostReport, Hosts
from daemon.jobs.claim_filter import ClaimFilter
from daemon.jobs.database import QueueUnavailable
from daemon.services import Services

_UNLIMITED_BYTES = 2**62
_LOCAL_INTERVAL_SECONDS = 300.0
"""Heartbeat interval in an SQLite queue, which has no other hosts."""


def heartbeat_lease(services: Services) -> float:
    """Return the seconds without a heartbeat after which this host is away."""
    return (
        services.settings.queue.lease if services.database.shared else 3 * _LOCAL_INTERVAL_SECONDS
    )


class Membership:
    """This daemon's membership in the fleet."""

    def __init__(self, services: Services, table: Hosts, slots: Sequence[Slot]) -> None:
        self.hosts: list[Host] = []
        """All hosts at the last heartbeat."""
        self.departed: set[str] = set()
        """Owners that were alive at the heartbeat before the last one, and no longer are."""
        self._services = services
        self._table = table
        self._slots = slots
        self._interval = heartbeat_lease(services) / 3
        self._next_heartbeat = 0.0
        self._memory_limits: dict[str, int | None] = {}
        """`MemoryEstimator.limit` of each device, in bytes; None: no limit."""

    async def join(self) -> None:
        """Write the first heartbeat and read the hosts, unless the queue is unavailable."""
        with contextlib.suppress(QueueUnavailable):
            await asyncio.to_thread(lambda: self._table.begin(self._report()))
            self.hosts = await asyncio.to_thread(self._table.all)

    async def heartbeat(self) -> str | None:
        """Wait for the next heartbeat, write it, and read the hosts.

        Returns the reason if this i2vd can no longer use the queue and must stop.
        """
        self._next_heartbeat = max(self._next_heartbeat + self._interval, time.monotonic())
        await asyncio.sleep(self._next_heartbeat - time.monotonic())
        with contextlib.suppress(QueueUnavailable):  # the lease expires, which others see
            if reason := await asyncio.to_thread(self._services.database.incompatibility):
                return reason
            await asyncio.to_thread(lambda: self._table.heartbeat(self._report()))
            before = self._alive()
            self.hosts = await asyncio.to_thread(self._table.all)
            self.departed = before - self._alive()
        return None

    async def leave(self) -> None:
        """End the lease of this host, unless the queue is unavailable."""
        with contextlib.suppress(QueueUnavailable):
            await asyncio.to_thread(self._table.leave)

    def devices(self) -> int:
        """Count the devices of this host and of the working hosts at the last heartbeat."""
        others = (host for host in self.hosts if host.state == "working" and not host.is_local)
        return len(self._slots) + sum(len(host.devices) for host in others)

    def claim_filter(self, slot: Slot) -> ClaimFilter | None:
        """Return the claim filter of a slot; None if its memory is not limited."""
        own_limit = self._memory_limits.get(slot.device)
        if own_limit is None:
            return None
        others = [host for host in self.hosts if host.state == "working" and not host.is_local]
        limits = [(host.accepts, host.memory_limit) for host in others]
        limits.append((self._accepts(), self._memory_limit()))
        largest = {inbox.name: 0 for inbox in self._services.settings.inbox}
        for inboxes, limit in limits:
            for inbox in inboxes:
                bound = _UNLIMITED_BYTES if limit is None else limit
                largest[inbox] = max(largest.get(inbox, 0), bound)
        return ClaimFilter(own_limit, largest)

    def _alive(self) -> set[str]:
        return {host.owner for host in self.hosts if host.alive}

    def _working_slots(self) -> list[Slot]:
        return [slot for slot in self._slots if not slot.problem]

    def _accepts(self) -> list[str]:
        blocked = self._services.storage_health.blocked
        inboxes = self._services.settings.inbox if self._working_slots() else ()
        return [inbox.name for inbox in inboxes if inbox.name not in blocked]

    def _memory_limit(self) -> int | None:
        """Return the largest limit of the working devices, in bytes; None: no limit."""
        limits = [self._memory_limits.get(slot.device) for slot in self._working_slots()]
        if None in limits:
            return None
        return max((limit for limit in limits if limit is not None), default=0)

    def _slot_limit(self, slot: Slot) -> int | None:
        if slot.memory is None:
            return None
        dtype, loaded = slot.generator.dtype, slot.generator.loaded
        return self._services.memory.limit(slot.memory, slot.device, dtype, loaded)

    def _report(self) -> HostReport:
        self._memory_limits = {slot.device: self._slot_limit(slot) for slot in self._slots}
        speed = self._services.durations.throughput()
        return HostReport(
            devices=[_device(slot) for slot in self._slots],
            accepts=self._accepts(),
            memory_limit=self._memory_limit(),
            speed=None if speed is None else speed * len(self._slots) / 1e6,
        )


def _device(slot: Slot) -> Device:
    loaded, card = slot.generator.loaded, read_card(slot.device)
    name = loaded.device_name if loaded else card and card.name
    return Device(device=slot.device, name=name, memory=card and card.memory)
