"""The scan: what lies in an inbox. It is the truth: it needs no events and works on any mount."""

import contextlib
import os
import re
from fnmatch import translate
from functools import lru_cache
from pathlib import Path

import structlog

from daemon.fs.fingerprint import FileState

PICTURE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic",
    ".heif", ".avif",
)  # fmt: skip

IGNORED_PATTERNS = (
    ".*",  # hidden files: .DS_Store, ._*, .nfs*, .stfolder, rsync's temporaries, our own
    "*.part", "*.partial", "*.tmp", "*.temp", "*.crdownload", "*.download", "*.filepart",
    "*.!ut", "*.opdownload", "*~", "~$*", "~syncthing~*", "*.swp", "*.lock", "*.sync-conflict-*",
    "thumbs.db", "desktop.ini", "ehthumbs.db", "@eadir", "$recycle.bin", "lost+found",
    "system volume information", "#recycle", "#snapshot", "__macosx",
)  # fmt: skip
"""Names, in lower case, that are not a person's pictures, of files and of folders."""

_IGNORED = re.compile("|".join(map(translate, IGNORED_PATTERNS)))
"""All of them at once: every scan asks it of every name in the inbox."""

_MAX_PATH_BYTES = 2800
"""Bytes of a subfolder's path in the inbox: below each of our folders, with any name in it and an
ending of ours, it must not be longer than a path may be (4095)."""

log = structlog.get_logger()


class InboxUnavailable(Exception):
    """The folder is not there, cannot be read, or is not what was mounted there before."""


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is to be passed over."""
    return _IGNORED.match(name.lower()) is not None


def is_picture(name: str) -> bool:
    """Whether a file of this name is taken for a picture."""
    return name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")


def scan(root: Path, recursive: bool) -> dict[str, FileState]:
    """All pictures below `root` by relative path; never through links, only plain files.

    Raises InboxUnavailable when the root cannot be read; a subfolder that cannot is passed over.
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
                        continue  # in this order: most of what lies there is no picture
                    path = f"{folder}/{name}" if folder else name
                    if is_folder and len(path.encode()) > _MAX_PATH_BYTES:
                        _warn("passed over", path, "its path is too long, move it up")
                    elif is_folder:
                        folders.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            status = entry.stat(follow_symlinks=False)
                            found[path] = FileState.of(status)
        except OSError as error:
            if not folder:
                raise InboxUnavailable(f"{root}: {error.strerror}") from error
            _warn("subfolder unreadable", str(root / folder), error.strerror)
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        _warn(
            "passed over", os.fsencode(name).decode("latin-1"), "its name is not UTF-8, rename it"
        )
        return False
    return True


@lru_cache(maxsize=1000)
def _warn(event: str, path: str, why: str) -> None:
    """Once for each, for the next scan sees it again."""
    log.warning(event, path=path, why=why)
