"""The scan: what lies in an inbox. It is the truth: it needs no events and works on any mount."""

import contextlib
import os
import re
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

import structlog

PICTURE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic",
    ".heif", ".avif",
)  # fmt: skip

JUNK = (
    ".*",  # hidden files: .DS_Store, ._*, .nfs*, .stfolder, rsync's temporaries, our own
    "*.part", "*.partial", "*.tmp", "*.temp", "*.crdownload", "*.download", "*.filepart",
    "*.!ut", "*.opdownload", "*~", "~$*", "~syncthing~*", "*.swp", "*.lock", "*.sync-conflict-*",
    "thumbs.db", "desktop.ini", "ehthumbs.db", "@eadir", "$recycle.bin", "lost+found",
    "system volume information", "#recycle", "#snapshot", "__macosx",
)  # fmt: skip
"""Names, in lower case, that are not a person's pictures, of files and of folders."""

_JUNK = re.compile("|".join(map(translate, JUNK)))
"""All of them at once: every scan asks it of every name in the inbox."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Seen:
    """What tells one state of a file from another."""

    size: int
    mtime_ns: int
    inode: int

    @property
    def fingerprint(self) -> str:
        """The same, as the ledger keeps it."""
        return f"{self.size}-{self.mtime_ns}-{self.inode}"


class InboxUnavailable(Exception):
    """The folder is not there, cannot be read, or is not what was mounted there before."""


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is to be passed over."""
    return _JUNK.match(name.lower()) is not None


def is_picture(name: str) -> bool:
    """Whether a file of this name is taken for a picture."""
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122


def scan(root: Path, recursive: bool) -> dict[str, Seen]:
    """All pictures below `root` by relative path; never through links, only plain files.

    Raises InboxUnavailable when the root cannot be read; a subfolder that cannot is passed over.
    """
    found: dict[str, Seen] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if is_junk(entry.name) or not _is_text(entry.name):
                        continue
                    if recursive and entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                    elif is_picture(entry.name) and entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            status = entry.stat(follow_symlinks=False)
                            found[path] = Seen(status.st_size, status.st_mtime_ns, status.st_ino)
        except OSError as error:
            if not folder:
                raise InboxUnavailable(f"{root}: {error.strerror}") from error
            log.warning("subfolder unreadable", folder=str(root / folder), why=error.strerror)
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        log.warning("file name is not UTF-8, rename it", name=os.fsencode(name).decode("latin-1"))
        return False
    return True
