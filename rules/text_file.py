"""Text files that a person writes, and that others may replace: open, read and decode them.

The only way to open a file whose name others can take: a folder, a pipe, a device or a link in its
place is refused, without waiting for it and without leaving it open.
"""

import errno
import os
import stat
from pathlib import Path

_MAX_BYTES = 1 << 20
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Unreadable(Exception):
    """A file that cannot be read as text; the message gives the operator the reason."""


class NotRegular(OSError):
    """A folder, pipe, device or socket is in the place of a regular file."""


def open_regular(file: Path | str, *, follow: bool = False, dir_fd: int | None = None) -> int:
    """Open a regular file for reading; return its descriptor. Raises NotRegular, OSError.

    With `follow` a symlink is followed: operators may link their own files.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(file, flags, dir_fd=dir_fd)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device that does not exist
            raise _not_regular(file) from error
        raise
    try:
        is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    if not is_regular:
        os.close(descriptor)
        raise _not_regular(file)
    return descriptor


def _not_regular(file: Path | str) -> NotRegular:
    return NotRegular(errno.EINVAL, "is not a regular file", str(file))


def read_bytes(
    file: Path | str,
    *,
    follow: bool = False,
    max_bytes: int = _MAX_BYTES,
    dir_fd: int | None = None,
) -> bytes:
    """Read a regular file, at most `max_bytes` + 1 of it. Raises NotRegular, OSError."""
    descriptor = open_regular(file, follow=follow, dir_fd=dir_fd)
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read(max_bytes + 1)


def read_text(file: Path, *, follow: bool = True, max_bytes: int = _MAX_BYTES) -> str:
    """Read and decode a text file of at most `max_bytes`. Raises Unreadable, FileNotFoundError."""
    try:
        content = read_bytes(file, follow=follow, max_bytes=max_bytes)
    except OSError as error:
        if error.errno == errno.ENOENT and not file.is_symlink():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file)) from error
        raise Unreadable(describe(error, file, follow=follow)) from error
    if len(content) > max_bytes:
        raise Unreadable(f"is over {max_bytes // 1024} KiB")
    return decode(content)


def irregularity(error: OSError, file: Path, *, follow: bool) -> str | None:
    """Return what a file is that cannot be opened, if no later try can succeed; else None."""
    if isinstance(error, NotRegular):
        return "is not a regular file"
    if error.errno == errno.ELOOP:
        return "is a symbolic link that leads to itself" if follow else "is a symbolic link"
    if error.errno == errno.ENOENT and file.is_symlink():
        return "is a link to a file that does not exist"
    return None


def describe(error: OSError, file: Path, *, follow: bool) -> str:
    """Return why a file could not be read, as the end of a sentence."""
    reason = os.strerror(error.errno or errno.EIO).lower()
    return irregularity(error, file, follow=follow) or f"cannot be read: {reason}"


def decode(content: bytes) -> str:
    r"""Decode UTF-8 as all editors write it, and return it with "\n" as the only line break.

    The byte order mark of Windows editors is left out. Raises Unreadable.
    """
    if content.startswith(_UTF16_MARKS):
        raise Unreadable('is UTF-16 text ("Unicode" in Windows editors); save it as UTF-8')
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"is not UTF-8 text (line {line}); save it as UTF-8") from error
    if "\0" in text:
        raise Unreadable("contains zero bytes, as UTF-16 text does; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")
