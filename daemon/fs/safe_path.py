"""Folders below a root, reached part by part, so that no link leads out of it.

The roots are the operator's and may be links. What lies below them others may have made: a link
there is not followed, not even one that takes a folder's place while it is being used.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class UnsafePath(OSError):
    """A link, or a file, stands where a folder should be."""


@contextlib.contextmanager
def open_beneath(root: Path, inside: PurePath, *, make: bool = True) -> Iterator[Path]:
    """The folder `inside` of `root`, by a path that means this very folder whatever is renamed.

    With `make`, what is missing is made. Errors name the folder by its usual path. Raises OSError,
    InTheWay.
    """
    if inside.is_absolute() or ".." in inside.parts:
        raise ValueError(f"{inside} may lead out of {root}")
    with contextlib.ExitStack() as opened:
        held = os.open(root, _OPEN_FLAGS)
        opened.callback(os.close, held)
        place = root
        for part in inside.parts:
            place /= part
            held = _enter(held, part, place, make=make)
            opened.callback(os.close, held)
        path = f"/proc/self/fd/{held}"
        try:
            yield Path(path)
        except OSError as error:
            if isinstance(error.filename, str):
                error.filename = error.filename.replace(path, str(place), 1)
            raise


def _enter(folder: int, part: str, place: Path, *, make: bool) -> int:
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, dir_fd=folder)  # relative to a descriptor
    try:
        return os.open(part, _OPEN_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            why = "a link or a file stands in the place of a folder; remove it"
            raise UnsafePath(error.errno, why, str(place)) from error
        raise OSError(error.errno, error.strerror, str(place)) from error
