"""Overrides: find the files beside a picture that hold its own settings.

`cat.jpg.toml` or `cat.jpg.txt`, with the ending in upper or lower case and the picture's name in
any Unicode form. An override that was meant for an earlier picture of its name is left over.
parse.py interprets the text.
"""

import errno
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from rules.names import spellings

OVERRIDE_SUFFIXES = (".toml", ".txt")

AllowedOverrides = Literal["all", "prompt", "none"]
"""Settings that an inbox takes from overrides; the other ones are mistakes."""

MAX_AGE_SECONDS = 3600.0
"""An override that is older than its picture by more than this is left over."""
MAX_AGE_AFTER_DROP_SECONDS = 60.0
"""The same for an override that came after an earlier picture of its name was taken."""

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


class Arrival(NamedTuple):
    """Times in seconds since 1970 by which the age of an override is judged."""

    picture: float
    """When the picture came."""
    earlier_drop: float | None
    """When the last picture of its name was taken; None if there was none."""


class Override(NamedTuple):
    """An override file; `came`: its ctime in seconds since 1970."""

    path: Path
    came: float

    def is_leftover(self, arrival: Arrival) -> bool:
        """Return True if the override was meant for an earlier picture of its name."""
        limit = MAX_AGE_SECONDS
        if arrival.earlier_drop is not None and self.came > arrival.earlier_drop:
            limit = MAX_AGE_AFTER_DROP_SECONDS
        return arrival.picture - self.came > limit


def picture_of(name: str) -> str | None:
    """Return the name of the picture that an override belongs to; None for other names."""
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and f"{dot}{suffix}".lower() in OVERRIDE_SUFFIXES else None


def find_overrides(picture: Path) -> list[Override]:
    """Return the overrides beside a picture: one, or several of which none may be used.

    Raises OSError if the folder cannot be read.
    """
    found = []
    for suffix in OVERRIDE_SUFFIXES:
        seen = set()
        for path in _candidates(picture, suffix):
            try:
                status = path.lstat()
            except OSError as error:
                if error.errno in _MISSING:
                    continue
                raise
            # Windows shares show one file under every spelling, some with a new inode each time.
            identity = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if identity not in seen:
                seen.add(identity)
                found.append(Override(path, status.st_ctime))
    return found


def _candidates(picture: Path, suffix: str) -> Iterator[Path]:
    """Yield the spellings of an override's name, the usual one first.

    A folder is not listed for this: it may hold a hundred thousand files.
    """
    letters = zip(suffix[1:], suffix[1:].upper(), strict=True)
    endings = ["".join(each) for each in itertools.product(*letters)]
    for name in spellings(picture.name):
        yield from (picture.with_name(f"{name}.{ending}") for ending in endings)
