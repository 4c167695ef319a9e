"""Open paths below a root without following symlinks.

The roots are the operator's and may be links. Others may have created what is below them: a link
there is not followed, not even one that replaces a folder while it is in use.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class UnsafePath(OSError):
    """A link or a file is in the place of a folder."""


@contextlib.contextmanager
def open_beneath(root: Path, inside: PurePath, *, make: bool = True) -> Iterator[Path]:
    """Open the folder `inside` of `root`; yield a path that stays valid across renames.

    The path is /proc/self/fd/N; errors name the folder by its usual path. With `make`, missing
    folders are created. Raises OSError and UnsafePath.
    """
    if inside.is_absolute() or ".." in inside.parts:
        raise ValueError(f"{inside} may lead out of {root}")
    with contextlib.ExitStack() as opened:
        descriptor = os.open(root, _OPEN_FLAGS)
        opened.callback(os.close, descriptor)
        usual_path = root
        for part in inside.parts:
            usual_path /= part
            descriptor = _open_part(descriptor, part, usual_path, make=make)
            opened.callback(os.close, descriptor)
        path = f"/proc/self/fd/{descriptor}"
        try:
            yield Path(path)
        except OSError as error:
            if isinstance(error.filename, str):
                error.filename = error.filename.replace(path, str(usual_path), 1)
            raise


def _open_part(folder: int, part: str, usual_path: Path, *, make: bool) -> int:
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, dir_fd=folder)  # relative to a descriptor
    try:
        return os.open(part, _OPEN_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            reason = "a link or a file stands in the place of a folder; remove it"
            raise UnsafePath(error.errno, reason, str(usual_path)) from error
        raise OSError(error.errno, error.strerror, str(usual_path)) from error
