"""Service notification for systemd, as sd_notify(3), and its socket activation.

The protocol is one datagram to the socket in $NOTIFY_SOCKET; without it nothing is sent.
"""

import contextlib
import os
import socket
import time

from rules.characters import escape_unsafe

_SEND_SECONDS = 0.5
_MAX_STATE_CHARACTERS = 500
_FIRST_PASSED = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""


def notify(*states: str) -> None:
    """Send lines such as "READY=1" or "STATUS=3 queued"; waits half a second at most.

    Errors are ignored, as sd_notify(3) recommends, because the service works without a listener.
    Line breaks are escaped: a status may contain a picture's name.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.settimeout(_SEND_SECONDS)
        sock.connect(address)
        lines = [escape_unsafe(state)[:_MAX_STATE_CHARACTERS] for state in states]
        sock.sendall("\n".join(lines).encode(errors="backslashreplace"))


def reloading() -> None:
    """Notify systemd that a reload begins; READY=1 ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval() -> float | None:
    """Return the watchdog interval in seconds, half of WatchdogSec=; None without a watchdog."""
    microseconds = os.environ.get("WATCHDOG_USEC")
    if not microseconds or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2_000_000 if microseconds.isdecimal() else None


def listening_sockets() -> list[socket.socket]:
    """Return the sockets that i2vd.socket passed; none without socket activation."""
    passed = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not passed.isdecimal():
        return []
    return [socket.socket(fileno=_FIRST_PASSED + number) for number in range(int(passed))]
