"""The systemd journal's own protocol: an entry is one datagram of fields.

So `journalctl I2VD_JOB=17` follows one job, and a priority is a priority. The protocol is described
at systemd.io/JOURNAL_NATIVE_PROTOCOL; the libraries that speak it need a compiler.
"""

import os
import socket
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
_LONGEST = 16_384
"""Bytes of one value; what is longer is cut, so that an entry always fits into a datagram."""


def is_stderr() -> bool:
    """Whether our stderr is the journal, as $JOURNAL_STREAM says (systemd.exec(5))."""
    try:
        told = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{told.st_dev}:{told.st_ino}"


def entry(fields: Mapping[str, str]) -> bytes:
    """The datagram of an entry; a value with a line break is sent with its length."""
    parts = []
    for name, text in fields.items():
        value = text.encode(errors="replace")[:_LONGEST]
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


def send(fields: Mapping[str, str]) -> None:
    """Send one entry by a socket of its own, whatever journald went through. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(entry(fields), SOCKET)
