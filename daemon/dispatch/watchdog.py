"""Heartbeat for systemd: the status line on change, and the watchdog notification.

The watchdog is fed only while every slot's loop makes progress. So systemd also restarts a daemon
whose event loop runs but whose slots hang.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence

from daemon.dispatch.slot import Slot
from daemon.telemetry import systemd

STUCK_SECONDS = 120.0
"""Time without an iteration of a slot's loop after which the dispatcher counts as hung."""
_STATUS_INTERVAL = 1.0


async def feed(slots: Sequence[Slot]) -> None:
    """Feed the watchdog until cancelled; return at once without one.

    It does not wait for the status line, which may query an unavailable queue.
    """
    interval = systemd.watchdog_interval()
    while interval:
        await asyncio.sleep(interval)
        now = time.monotonic()
        if all(now - slot.last_turn < STUCK_SECONDS for slot in slots):
            systemd.notify("WATCHDOG=1")


async def send_status(status: Callable[[], str]) -> None:
    """Send the status line on each change, until cancelled; return at once without a listener."""
    last = ""
    while os.environ.get("NOTIFY_SOCKET"):
        line = await asyncio.to_thread(status)
        if line != last:
            systemd.notify(f"STATUS={line}")
            last = line
        await asyncio.sleep(_STATUS_INTERVAL)
