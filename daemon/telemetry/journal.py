"""Native protocol of the systemd journal: each entry is one datagram of fields.

With fields, `journalctl I2VD_JOB=17` shows one job, and priorities are kept. The protocol is
described at systemd.io/JOURNAL_NATIVE_PROTOCOL. It is written here because the libraries for it
need a compiler.
"""

import os
import socket
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
_MAX_VALUE_BYTES = 16_384
"""Longer values are truncated, so that an entry always fits into a datagram."""


def is_stderr() -> bool:
    """Return True if stderr is the journal, as $JOURNAL_STREAM says (systemd.exec(5))."""
    try:
        stderr = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"


def entry(fields: Mapping[str, str]) -> bytes:
    """Return the datagram of an entry; a value with a line break is sent with its length."""
    parts = []
    for name, text in fields.items():
        value = text.encode(errors="replace")[:_MAX_VALUE_BYTES]
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


def send(datagram: bytes) -> None:
    """Send one entry; wait while journald is busy or stopped. Raises OSError.

    Each entry has its own socket, so that a restart of journald breaks none.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(datagram, SOCKET)
