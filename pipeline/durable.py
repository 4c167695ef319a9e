"""Durability: fsync a file and its folder, as far as the file system can.

Some shares cannot fsync, mostly folders. That is no fault of the file, which they sync themselves.
"""

import errno
import os
from pathlib import Path

_UNSUPPORTED_ERRNOS = (
    errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF, errno.EACCES,
    errno.ENOTTY,
)  # fmt: skip


def fsync_file(descriptor: int) -> None:
    """Make the content of an open file durable. Raises OSError if it may be lost."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED_ERRNOS:
            raise


def fsync_dir(folder: Path) -> None:
    """Make the names in `folder` durable. Raises OSError if they may be lost."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a folder that takes files, but shows none
        return
    try:
        fsync_file(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    finally:
        os.close(descriptor)
