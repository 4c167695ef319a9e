"""Read rule files and the files beside pictures: selection, order, limits.

A file in an inbox is untrusted. It is read without following a symlink, blocking on a pipe, or
reading more than a rule can have. parse.py interprets the text.
"""

import errno
import os
import stat
from pathlib import Path

MAX_BYTES = 16 * 1024
"""Ten times a long rule. tomllib takes over ten seconds for the worst 64 KiB."""

Fingerprint = tuple[tuple[str, int, int], ...]
"""(name, mtime in ns, size) of each rule file."""


class Unreadable(Exception):
    """A file that cannot be read as text; the message gives the operator the reason."""


def rule_files(folder: Path) -> list[Path]:
    """List the rule files of a folder in the order in which they are tried. Raises OSError."""
    return sorted(
        (f for f in folder.iterdir() if f.suffix.lower() == ".toml" and f.name[0] not in ".~#"),
        key=lambda f: f.name,
    )


def fingerprint(folder: Path) -> Fingerprint | None:
    """Return a cheap change indicator of the rule files; None if the folder is unreadable."""
    try:
        stats = [(file.name, file.stat()) for file in rule_files(folder)]
    except OSError:
        return None
    return tuple((name, s.st_mtime_ns, s.st_size) for name, s in stats)


def read(file: Path, *, follow: bool) -> bytes:
    """Read a small regular file. Raises Unreadable.

    With `follow` a symlink is followed: operators may link rules, files in an inbox may not be.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(file, flags)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Unreadable("is not a regular file")
            with open(descriptor, "rb", closefd=False) as opened:
                content = opened.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unreadable(_reason(error, file, follow)) from error
    if len(content) > MAX_BYTES:
        raise Unreadable(f"is over {MAX_BYTES // 1024} KiB; a rule is a few lines of text")
    return content


def _reason(error: OSError, file: Path, follow: bool) -> str:
    if error.errno == errno.ELOOP:
        return "is a symbolic link that leads to itself" if follow else "is a symbolic link"
    if error.errno == errno.ENOENT and file.is_symlink():
        return "is a link to a file that does not exist"
    return f"cannot be read: {os.strerror(error.errno or errno.EIO).lower()}"


def decode(content: bytes) -> str:
    """Decode UTF-8, with or without the byte order mark of Windows editors. Raises Unreadable."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"is not UTF-8 text (line {line}); save it as UTF-8") from error
