"""Scanner: list the pictures of an inbox.

The scan is the source of truth: it needs no events and works on any mount. It does not open files.
"""

import contextlib
import os
import re
from fnmatch import translate
from functools import lru_cache
from pathlib import Path

import structlog

from daemon.fs.fingerprint import FileState
from pipeline.image.formats import PICTURE_SUFFIXES

IGNORED_PATTERNS = (
    ".*",  # hidden files: .DS_Store, ._*, .nfs*, .stfolder, rsync's temporaries, i2vd's own
    "*.part", "*.partial", "*.tmp", "*.temp", "*.crdownload", "*.download", "*.filepart",
    "*.!ut", "*.opdownload", "*~", "~$*", "~syncthing~*", "*.swp", "*.lock", "*.sync-conflict-*",
    "thumbs.db", "desktop.ini", "ehthumbs.db", "@eadir", "$recycle.bin", "lost+found",
    "system volume information", "#recycle", "#snapshot", "__macosx",
)  # fmt: skip
"""Names of files and folders to ignore, in lower case: temporary files and system folders."""

_IGNORED = re.compile("|".join(map(translate, IGNORED_PATTERNS)))
"""One expression for all patterns, because every scan matches every name."""

_MAX_PATH_BYTES = 2800
"""Limit for a subfolder's path in the inbox. Below each of i2vd's folders, with any name in it and
a suffix of i2vd's, the path must stay within 4095 bytes."""

log = structlog.get_logger()


class InboxUnavailable(Exception):
    """The folder is missing, unreadable, or not the volume that was mounted there before."""


def is_ignored(name: str) -> bool:
    """Return True if a file or folder of this name is skipped."""
    return _IGNORED.match(name.lower()) is not None


def is_picture(name: str) -> bool:
    """Return True if a file of this name counts as a picture."""
    return name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")


def scan(root: Path, recursive: bool) -> dict[str, FileState]:
    """Return all pictures below `root` by relative path: regular files, reached through no link.

    Raises InboxUnavailable if the root cannot be read. An unreadable subfolder is skipped.
    """
    found: dict[str, FileState] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = entry.name
                    is_folder = recursive and entry.is_dir(follow_symlinks=False)
                    if (
                        not (is_folder or is_picture(name))
                        or is_ignored(name)
                        or not _is_text(name)
                    ):
                        continue  # in this order: most names are no pictures
                    path = f"{folder}/{name}" if folder else name
                    if is_folder and len(path.encode()) > _MAX_PATH_BYTES:
                        _warn("folder skipped", path, "its path is too long, move it up")
                    elif is_folder:
                        folders.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            status = entry.stat(follow_symlinks=False)
                            found[path] = FileState.of(status)
        except OSError as error:
            if not folder:
                raise InboxUnavailable(f"{root}: {error.strerror}") from error
            _warn("folder skipped", str(root / folder), error.strerror)
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        _warn(
            "name skipped", os.fsencode(name).decode("latin-1"), "its name is not UTF-8, rename it"
        )
        return False
    return True


@lru_cache(maxsize=1000)
def _warn(event: str, path: str, reason: str) -> None:
    """Log once for each path, because every scan finds it again."""
    log.warning(event, path=path, reason=reason)
