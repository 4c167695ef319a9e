"""Paths as a person gives them to a command: shown escaped, readable by child processes."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def is_utf8(path: Path) -> bool:
    """Return True if a path can be sent to a child process, as JSON."""
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        return False
    return True


def shown(path: Path) -> str:
    r"""Return a path as text; bytes that are not UTF-8 are escaped, such as caf\xe9.png."""
    return os.fsencode(path).decode(errors="backslashreplace")


@contextlib.contextmanager
def readable_by_children(picture: Path) -> Iterator[Path]:
    """Yield the path of a picture, or of a copy if a child process could not be told its name."""
    real = picture.resolve()
    if is_utf8(real):
        yield real
        return
    with tempfile.TemporaryDirectory(prefix="i2vd-") as folder:
        copy = Path(folder, "picture").with_suffix(picture.suffix if is_utf8(picture) else "")
        shutil.copyfile(real, copy)
        yield copy
