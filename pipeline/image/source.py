"""Source: read an untrusted file that others may replace, whole and once.

Tells apart a file that is unusable, one that is gone, and a place that cannot be read now.
"""

import errno
import os
import stat
from pathlib import Path

from pipeline.image.errors import ImageRejected, SourceUnavailable

_MAX_FILE_BYTES = 512 * 2**20

_GONE = "the file is gone"
_IRREGULAR = "it is not a regular file"
_REJECTIONS = {
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _GONE,
    errno.ELOOP: "it is a symbolic link",
    errno.ENXIO: _IRREGULAR,
    errno.EISDIR: _IRREGULAR,
}
"""Errors that say something of the file. Every other one is of the place, and may pass."""


def read(path: Path, within: Path = Path()) -> bytes:
    """Read a regular file, without following a symlink or blocking on a pipe.

    Below `within` no folder on the path may be a symlink either, because others could redirect it.
    Raises ImageRejected, SourceUnavailable.
    """
    try:
        descriptor = _open(path, within)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageRejected(_IRREGULAR)
            if status.st_size > _MAX_FILE_BYTES:
                has, most = status.st_size // 2**20, _MAX_FILE_BYTES // 2**20
                raise ImageRejected(f"the file has {has} MiB; allowed: up to {most}")
            with open(descriptor, "rb", closefd=False) as file:
                # `read` allocates all at once; one byte more detects a growing file
                data = file.read(status.st_size + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _classify(error) from error
    if not data:
        raise ImageRejected("the file is empty", incomplete=True)
    if len(data) != status.st_size:
        raise ImageRejected("the file is still being written", incomplete=True)
    return data


def _open(path: Path, within: Path) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    if within == Path():
        return os.open(path, flags)
    parent = os.open(within, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    for folder in path.relative_to(within).parts[:-1]:
        outer = parent
        try:
            parent = os.open(folder, flags | os.O_DIRECTORY, dir_fd=outer)
        finally:
            os.close(outer)
    try:
        return os.open(path.name, flags, dir_fd=parent)
    finally:
        os.close(parent)


def _classify(error: OSError) -> ImageRejected | SourceUnavailable:
    reason = _REJECTIONS.get(error.errno or 0)
    if reason is not None:
        return ImageRejected(reason, gone=reason == _GONE)
    return SourceUnavailable(f"the file cannot be read: {strerror(error)}; it will be tried again")


def strerror(error: OSError) -> str:
    """Return the system's text for an error, in lower case."""
    return os.strerror(error.errno or errno.EIO).lower()
