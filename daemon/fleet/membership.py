"""Presence: this daemon among the hosts of its queue, what it tells and what it was told."""

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

_ANY = 2**62
_QUIET_SECONDS = 300.0
"""Seconds between two beats where nobody listens: in an embedded queue."""


def heartbeat_lease(services: Services) -> float:
    """Seconds without news after which this host is away."""
    return services.settings.queue.lease if services.database.shared else 3 * _QUIET_SECONDS


class Membership:
    """`hosts`: what was told last, by all of them; `gone`: who fell silent or left since before."""

    def __init__(self, services: Services, table: Hosts, slots: Sequence[Slot]) -> None:
        self.hosts: list[Host] = []
        self.departed: set[str] = set()
        self._services = services
        self._table = table
        self._slots = slots
        self._interval = heartbeat_lease(services) / 3
        self._next_heartbeat = 0.0
        self._memory_limits: dict[str, int | None] = {}
        """How much each device can reach, as `MemoryEstimator.limit` tells it; None: any."""

    async def join(self) -> None:
        """Tell that we are there, and hear who else is; it may wait, as the queue may be away."""
        with contextlib.suppress(QueueUnavailable):
            await asyncio.to_thread(lambda: self._table.begin(self._report()))
            self.hosts = await asyncio.to_thread(self._table.all)

    async def heartbeat(self) -> str | None:
        """Wait for the next beat, and tell and hear; why this i2vd may not go on, if that is so."""
        self._next_heartbeat = max(self._next_heartbeat + self._interval, time.monotonic())
        await asyncio.sleep(self._next_heartbeat - time.monotonic())
        with contextlib.suppress(QueueUnavailable):  # the others see that soon enough
            if why := await asyncio.to_thread(self._services.database.incompatibility):
                return why
            await asyncio.to_thread(lambda: self._table.heartbeat(self._report()))
            before = self._alive()
            self.hosts = await asyncio.to_thread(self._table.all)
            self.departed = before - self._alive()
        return None

    async def leave(self) -> None:
        """Tell that we go."""
        with contextlib.suppress(QueueUnavailable):
            await asyncio.to_thread(self._table.leave)

    def devices(self) -> int:
        """How many devices work on the queue, as far as is known: ours and those of others."""
        others = (host for host in self.hosts if host.state == "working" and not host.here)
        return len(self._slots) + sum(len(host.devices) for host in others)

    def claim_filter(self, slot: Slot) -> ClaimFilter | None:
        """Which jobs a slot leaves to others; None where nobody counts its memory."""
        reach = self._memory_limits.get(slot.device)
        if reach is None:
            return None
        others = [host for host in self.hosts if host.state == "working" and not host.here]
        can = [(host.takes, host.reach) for host in others]
        can.append((self._accepts(), self._memory_limit()))
        elsewhere = {inbox.name: 0 for inbox in self._services.settings.inbox}
        for inboxes, most in can:
            for inbox in inboxes:
                elsewhere[inbox] = max(elsewhere.get(inbox, 0), _ANY if most is None else most)
        return ClaimFilter(reach, elsewhere)

    def _alive(self) -> set[str]:
        return {host.owner for host in self.hosts if host.alive}

    def _working_slots(self) -> list[Slot]:
        return [slot for slot in self._slots if not slot.problem]

    def _accepts(self) -> list[str]:
        blocked = self._services.storage_health.blocked
        inboxes = self._services.settings.inbox if self._working_slots() else ()
        return [inbox.name for inbox in inboxes if inbox.name not in blocked]

    def _memory_limit(self) -> int | None:
        """Of the best device that can work; None: any."""
        known = [self._memory_limits.get(slot.device) for slot in self._working_slots()]
        return (
            None if None in known else max((each for each in known if each is not None), default=0)
        )

    def _measure(self, slot: Slot) -> int | None:
        if slot.memory is None:
            return None
        maker = slot.generator
        return self._services.memory.limit(slot.memory, slot.device, maker.dtype, maker.loaded)

    def _report(self) -> HostReport:
        self._memory_limits = {slot.device: self._measure(slot) for slot in self._slots}
        speed = self._services.durations.throughput()
        return HostReport(
            devices=[_device(slot) for slot in self._slots],
            takes=self._accepts(),
            reach=self._memory_limit(),
            speed=None if speed is None else speed * len(self._slots) / 1e6,
        )


def _device(slot: Slot) -> Device:
    loaded, there = slot.generator.loaded, read_card(slot.device)
    name = loaded.device_name if loaded else there and there.name
    return Device(device=slot.device, name=name, memory=there and there.memory)
