"""Scanner: list the pictures of an inbox, and what is no picture, with the reason.

The scan is the source of truth: it needs no events and works on any mount. It does not open files.
"""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

from daemon.fs.fingerprint import FileState
from daemon.fs.safe_path import open_beneath
from daemon.intake.junk import UNFINISHED_SUFFIXES, junk_kind
from daemon.intake.skipped import Skip, SkipReason
from pipeline.image.formats import PICTURE_SUFFIXES, find_by_name
from rules.names import nfc
from rules.override import picture_of
from rules.read_error import describe

_MAX_PATH_BYTES = 2800
"""Limit for a subfolder's path in the inbox. Below each of i2vd's folders, with any name in it and
a suffix of i2vd's, the path must stay within 4095 bytes."""


_IRREGULAR = {
    True: "is a symbolic link; copy the picture itself here",
    False: "is no regular file; copy the picture itself here",
}
"""Details by: is it a symbolic link?"""


class InboxUnavailable(Exception):
    """The folder is missing, unreadable, or not the volume that was mounted there before."""


@dataclass
class Scan:
    """What one scan found, by path relative to the inbox."""

    pictures: dict[str, FileState] = field(default_factory=dict)
    skipped: dict[str, Skip] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    """The picture beside which each override is."""
    filled: set[str] = field(default_factory=set)
    """Folders with pictures of their own."""
    empty: set[str] = field(default_factory=set)
    """Folders without any entry."""


class Entry(NamedTuple):
    """What a scan makes of a file or folder.

    `detail`: why it is skipped, or the picture of an override.
    """

    path: str
    kind: Literal["picture", "override", "folder", "system", "skipped"]
    detail: str = ""


def is_picture(name: str) -> bool:
    """Return True if a file of this name counts as a picture."""
    return name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")


def scan(root: Path, recursive: bool) -> Scan:
    """Scan an inbox: pictures are regular files, reached through no link.

    An unreadable file or subfolder is skipped. Raises InboxUnavailable if the root is unreadable.
    """
    found = Scan()
    folders = [""]
    while folders:
        folder = folders.pop()
        listing = _Listing(root, folder, recursive)
        try:
            listing.read()
        except OSError as error:
            if not folder:
                raise InboxUnavailable(f"{root}: {error.strerror}") from error
            found.skipped[folder] = Skip("unreadable", describe(error, root / folder))
            continue
        listing.add_to(found)
        folders += listing.folders
    return found


def find_entry(root: Path, path: str, recursive: bool) -> Entry:
    """Return what a scan makes of the file at `path`, or of a folder above it that is skipped.

    Raises FileNotFoundError or NotADirectoryError if it is not there.
    """
    parts = path.split("/")
    for depth, name in enumerate(parts):
        folder = "/".join(parts[:depth])
        listing = _Listing(root, folder, recursive)
        try:
            listing.read()
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            return Entry(folder, "skipped", describe(error, root / folder))
        entry = listing.find(name)
        if entry.kind in ("skipped", "system"):
            break
    return entry


class _Listing:
    """The entries of one folder."""

    def __init__(self, root: Path, folder: str, recursive: bool) -> None:
        self.folders: list[str] = []
        self._root = root
        self._folder = folder
        self._prefix = f"{folder}/" if folder else ""
        self._recursive = recursive
        self._names: set[str] = set()
        self._pictures: dict[str, FileState] = {}
        self._skipped: dict[str, Skip] = {}
        self._overrides: dict[str, str] = {}
        """Name of an override, and of its picture."""
        self._unfinished: set[str] = set()
        """Names beside which a download program keeps its state."""

    def read(self) -> None:
        """Read the folder. Raises OSError."""
        with (
            open_beneath(self._root, PurePath(self._folder), make=False) as folder,
            os.scandir(folder) as entries,
        ):
            for entry in entries:
                self._names.add(entry.name)
                try:
                    self._look_at(entry)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self._skip(entry.name, "unreadable", describe(error, Path(entry.path)))

    def add_to(self, found: Scan) -> None:
        """Add the entries to a scan."""
        for name in self._unfinished & self._pictures.keys():
            del self._pictures[name]
            self._skip(name, "temporary_name", "a program is still downloading it")
        self._match_overrides(found)
        for name, state in self._pictures.items():
            found.pictures[self._prefix + name] = state
        for name, skip in self._skipped.items():
            found.skipped[self._prefix + name] = skip
        if self._pictures:
            found.filled.add(self._folder)
        if not self._names and self._folder:
            found.empty.add(self._folder)

    def find(self, name: str) -> Entry:
        """Return what becomes of an entry. Raises FileNotFoundError."""
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._prefix + name)
        found, path = Scan(), self._prefix + name
        self.add_to(found)
        if path in found.skipped:
            return Entry(path, "skipped", found.skipped[path].detail)
        if path in found.overrides:
            return Entry(path, "override", found.overrides[path])
        if path in found.pictures:
            return Entry(path, "picture")
        return Entry(path, "folder" if path in self.folders else "system")

    def _look_at(self, entry: os.DirEntry[str]) -> None:
        name = entry.name
        match junk_kind(name):
            case "system":
                return
            case "conflict_copy":
                detail = (
                    "is a second version that a synchronising program made; rename or remove it"
                )
                self._skip(name, "conflict_copy", detail)
            case "temporary":
                self._unfinished.update(
                    name[: -len(end)] for end in UNFINISHED_SUFFIXES if name.endswith(end)
                )
                self._skip(name, "temporary_name", "has the name of an unfinished copy")
            case None if not _is_text(name):
                self._skip(name, "name_not_utf8", "its name is not UTF-8; rename it")
            case None if entry.is_dir(follow_symlinks=False):
                self._look_at_folder(name)
            case None if not entry.is_file(follow_symlinks=False):
                self._skip(name, "not_regular_file", _IRREGULAR[entry.is_symlink()])
            case None if is_picture(name):
                self._pictures[name] = FileState.of(entry.stat(follow_symlinks=False))
            case None if (picture := picture_of(name)) and is_picture(picture):
                self._overrides[name] = picture
            case None if known := find_by_name(name):
                self._skip(name, "unsupported_format", f"is {known}")
            case None:
                self._skip(name, "unknown_ending", "its ending is not that of a picture")

    def _look_at_folder(self, name: str) -> None:
        path = self._prefix + name
        if not self._recursive:
            self._skip(name, "not_watched", "subfolders of this inbox are not watched")
        elif len(path.encode()) > _MAX_PATH_BYTES:
            self._skip(name, "path_too_long", "its path is too long; move it up")
        else:
            self.folders.append(path)

    def _match_overrides(self, found: Scan) -> None:
        if not self._overrides:
            return
        pictures = {nfc(name): name for name in self._pictures}
        for name, wanted in self._overrides.items():
            if picture := pictures.get(nfc(wanted)):
                found.overrides[self._prefix + name] = self._prefix + picture
            else:
                detail = f'there is no picture "{wanted}" beside it'
                self._skip(name, "override_without_picture", detail)

    def _skip(self, name: str, reason: SkipReason, detail: str) -> None:
        self._skipped[name] = Skip(reason, detail)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
