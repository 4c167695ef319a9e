"""Signs of life for systemd: the status line when it changes, and the watchdog's beat.

The beat goes out only while every slot's loop turns, so that systemd restarts a daemon whose event
loop runs on while no job can be made any more.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence

from daemon.dispatch.slot import Slot
from daemon.telemetry import systemd

STUCK_SECONDS = 120.0
"""Seconds without a turn of a slot's loop after which the dispatcher counts as hung."""
_STATUS_INTERVAL = 1.0


async def notify_systemd(slots: Sequence[Slot], status: Callable[[], str]) -> None:
    """Tell systemd how we are, until cancelled; nothing where no systemd listens.

    The beat does not wait for the status line, which may ask a queue that is away.
    """
    if not os.environ.get("NOTIFY_SOCKET"):
        return
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_send_status(status))
        if interval := systemd.watchdog_interval():
            tasks.create_task(_feed_watchdog(slots, interval))


async def _feed_watchdog(slots: Sequence[Slot], interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        now = time.monotonic()
        if all(now - slot.last_turn < STUCK_SECONDS for slot in slots):
            systemd.notify("WATCHDOG=1")


async def _send_status(status: Callable[[], str]) -> None:
    told = ""
    while True:
        line = await asyncio.to_thread(status)
        if line != told:
            systemd.notify(f"STATUS={line}")
            told = line
        await asyncio.sleep(_STATUS_INTERVAL)
