"""Presence: this daemon among the hosts of its queue, what it tells and what it was told."""

import asyncio
import contextlib
import time
from collections.abc import Sequence

from daemon.devices import card
from daemon.dispatch.slot import Slot
from daemon.fleet.hosts import Device, Facts, Host, Hosts
from daemon.jobs.claim_filter import Fit
from daemon.jobs.database import LedgerUnavailable
from daemon.services import Services

_ANY = 2**62
_QUIET = 300.0
"""Seconds between two beats where nobody listens: in an embedded queue."""


def lease_of(services: Services) -> float:
    """Seconds without news after which this host is away."""
    return services.settings.queue.lease if services.database.shared else 3 * _QUIET


class Presence:
    """`hosts`: what was told last, by all of them; `gone`: who fell silent or left since before."""

    def __init__(self, services: Services, table: Hosts, slots: Sequence[Slot]) -> None:
        self.hosts: list[Host] = []
        self.gone: set[str] = set()
        self._services = services
        self._table = table
        self._slots = slots
        self._pause = lease_of(services) / 3
        self._due = 0.0
        self._reaches: dict[str, int | None] = {}
        """How much each device can reach, as `Forecast.reach` tells it; None: any."""

    async def begin(self) -> None:
        """Tell that we are there, and hear who else is; it may wait, as the queue may be away."""
        with contextlib.suppress(LedgerUnavailable):
            await asyncio.to_thread(lambda: self._table.begin(self._facts()))
            self.hosts = await asyncio.to_thread(self._table.all)

    async def beat(self) -> str | None:
        """Wait for the next beat, and tell and hear; why this i2vd may not go on, if that is so."""
        self._due = max(self._due + self._pause, time.monotonic())
        await asyncio.sleep(self._due - time.monotonic())
        with contextlib.suppress(LedgerUnavailable):  # the others see that soon enough
            if why := await asyncio.to_thread(self._services.database.outdated):
                return why
            await asyncio.to_thread(lambda: self._table.beat(self._facts()))
            before = self._alive()
            self.hosts = await asyncio.to_thread(self._table.all)
            self.gone = before - self._alive()
        return None

    async def end(self) -> None:
        """Tell that we go."""
        with contextlib.suppress(LedgerUnavailable):
            await asyncio.to_thread(self._table.leave)

    def devices(self) -> int:
        """How many devices work on the queue, as far as is known: ours and those of others."""
        others = (host for host in self.hosts if host.state == "working" and not host.here)
        return len(self._slots) + sum(len(host.devices) for host in others)

    def fit(self, slot: Slot) -> Fit | None:
        """Which jobs a slot leaves to others; None where nobody counts its memory."""
        reach = self._reaches.get(slot.device)
        if reach is None:
            return None
        others = [host for host in self.hosts if host.state == "working" and not host.here]
        can = [(host.takes, host.reach) for host in others]
        can.append((self._takes(), self._reach()))
        elsewhere = {inbox.name: 0 for inbox in self._services.settings.inbox}
        for inboxes, most in can:
            for inbox in inboxes:
                elsewhere[inbox] = max(elsewhere.get(inbox, 0), _ANY if most is None else most)
        return Fit(reach, elsewhere)

    def _alive(self) -> set[str]:
        return {host.owner for host in self.hosts if host.alive}

    def _able(self) -> list[Slot]:
        return [slot for slot in self._slots if not slot.trouble]

    def _takes(self) -> list[str]:
        lacking = self._services.room.blocked
        inboxes = self._services.settings.inbox if self._able() else ()
        return [inbox.name for inbox in inboxes if inbox.name not in lacking]

    def _reach(self) -> int | None:
        """Of the best device that can work; None: any."""
        known = [self._reaches.get(slot.device) for slot in self._able()]
        return (
            None if None in known else max((each for each in known if each is not None), default=0)
        )

    def _measure(self, slot: Slot) -> int | None:
        if slot.memory is None:
            return None
        maker = slot.maker
        return self._services.forecast.reach(slot.memory, slot.device, maker.dtype, maker.loaded)

    def _facts(self) -> Facts:
        self._reaches = {slot.device: self._measure(slot) for slot in self._slots}
        speed = self._services.pace.speed()
        return Facts(
            devices=[_device(slot) for slot in self._slots],
            takes=self._takes(),
            reach=self._reach(),
            speed=None if speed is None else speed * len(self._slots) / 1e6,
        )


def _device(slot: Slot) -> Device:
    loaded, there = slot.maker.loaded, card(slot.device)
    name = loaded.device_name if loaded else there and there.name
    return Device(device=slot.device, name=name, memory=there and there.memory)
