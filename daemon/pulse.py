"""Signs of life for systemd: the status line when it changes, and the watchdog's beat.

The beat goes out only while every slot's loop turns, so that systemd restarts a daemon whose event
loop runs on while no job can be made any more.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence

from daemon import systemd
from daemon.slot import Slot

STUCK = 120.0
"""Seconds without a turn of a slot's loop after which the dispatcher counts as hung."""
_STATUS_INTERVAL = 1.0


async def beat(slots: Sequence[Slot], status: Callable[[], str]) -> None:
    """Tell systemd how we are, until cancelled; nothing where no systemd listens."""
    interval, told, last = systemd.watchdog_interval(), "", 0.0
    if not os.environ.get("NOTIFY_SOCKET"):
        return
    while True:
        await asyncio.sleep(min(_STATUS_INTERVAL, interval or _STATUS_INTERVAL))
        now = time.monotonic()
        turning = all(now - slot.alive_at < STUCK for slot in slots)
        if interval and turning and now - last >= interval:
            systemd.notify("WATCHDOG=1")
            last = now
        line = await asyncio.to_thread(status)
        if line != told:
            systemd.notify(f"STATUS={line}")
            told = line
