"""Volume markers: files that prove that the right share is mounted.

Each folder gets a marker file on first use, with an id that is also in the queue. An empty mount
point, or another share in its place, lacks that id: nothing is read from it, written to it, or
thought to be missing there. A folder may move to another disk or host with its marker. A marker
that is deleted while the daemon runs (`rsync --delete`) is written again, if the folder is the very
same.
"""

import contextlib
import errno
import shlex
import threading
import uuid
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import IntegrityError

from daemon.config.settings import Inbox, Settings
from daemon.fs.atomic import describe_os_error
from daemon.fs.mounts import Mount, mount_of
from daemon.jobs.database import Database
from daemon.jobs.schema import meta
from daemon.storage.folders import folder_of
from daemon.storage.ownership import SILENT_SECONDS, Ownership
from pipeline.durable import fsync_file
from rules.text_file import NotRegular, Unreadable, decode, read_bytes

MARKER = ".i2vd-storage"
ROLES = ("path", "outbox", "archive", "failed")

_MAX_MARKER_BYTES = 100
_PERMISSION_ERRNOS = (errno.EROFS, errno.EACCES, errno.EPERM)

log = structlog.get_logger()


class VolumeMissing(OSError):
    """A folder is missing, another volume is in its place, or another queue uses it.

    The message has a remedy.
    """


class VolumeMarkers:
    """Creates and checks the markers. Thread-safe; `check` reads a small file for each folder."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._ownership = Ownership(database.identity, f"{database.location} on {settings.host}")
        self._locks: dict[Path, threading.Lock] = {}
        """By folder: inboxes are looked at at once, and two may have one folder."""
        self._ids: dict[str, str | None] = {}
        """Ids by inbox and role; None for an inbox without write permission: it has no marker."""
        self._first_mount: dict[Path, Mount | None] = {}
        """The mounts of the inboxes without a marker, at their first check."""
        self._marked: dict[str, _Identity] = {}
        """The folders in which this daemon has seen their own marker, by inbox and role."""

    def check(self, inbox: Inbox, *roles: str) -> None:
        """Check these folders of an inbox, or all, and claim them for this queue.

        Raises VolumeMissing and other OSErrors.
        """
        for role in roles or ROLES:
            folder = folder_of(inbox, role)
            with self._locks.setdefault(folder, threading.Lock()):
                self._check(inbox, role, folder)

    def _check(self, inbox: Inbox, role: str, folder: Path) -> None:
        known = self._id(inbox, role, folder)
        found = _read(folder)
        if known is None and folder.is_dir() and self._is_mounted_as_first(folder):
            return
        if known is not None and found is None and self._is_same_folder(inbox, role, folder):
            found = _write_again(inbox, role, folder, known)
        if known is None or found != known:
            self._marked.pop(_key(inbox, role), None)  # a new file system may look the same
            raise VolumeMissing(_describe(inbox, role, folder, found, known))
        self._note_marked(_key(inbox, role), folder)
        if _is_owned(inbox, role) and (other := self._ownership.claim(folder)):
            raise VolumeMissing(_describe_other(role, folder, other))

    def problem(self, inbox: Inbox, *roles: str) -> str | None:
        """Return the first problem of these folders, or of all, as a text; creates no marker."""
        for role in roles or ROLES:
            known = self._known(_key(inbox, role))
            try:
                found = _read(folder := folder_of(inbox, role))
            except OSError as error:
                return describe_os_error(error)
            if known is not None and found != known:
                return _describe(inbox, role, folder, found, known)
            if _is_owned(inbox, role) and (other := self._other_owner(folder)):
                return _describe_other(role, folder, other)
        return None

    def _other_owner(self, folder: Path) -> str | None:
        try:
            return self._ownership.other(folder)
        except OSError as error:
            return describe_os_error(error)

    def _id(self, inbox: Inbox, role: str, folder: Path) -> str | None:
        key = _key(inbox, role)
        if key not in self._ids:
            self._ids[key] = self._known(key) or self._register(key, inbox, role, folder)
        return self._ids[key]

    def _note_marked(self, key: str, folder: Path) -> None:
        seen, status = self._marked.get(key), folder.stat()
        if seen is None or (seen.device, seen.inode) != (status.st_dev, status.st_ino):
            self._marked[key] = _Identity.of(folder)  # reads the table of mounts

    def _is_same_folder(self, inbox: Inbox, role: str, folder: Path) -> bool:
        """Return True if this daemon has seen the marker in this very folder."""
        seen = self._marked.get(_key(inbox, role))
        return seen is not None and folder.is_dir() and _Identity.of(folder) == seen

    def _is_mounted_as_first(self, folder: Path) -> bool:
        mount = mount_of(folder)
        return self._first_mount.setdefault(folder, mount) == mount

    def _known(self, key: str) -> str | None:
        with self._database.read() as db:
            return db.scalar(sa.select(meta.c.value).where(meta.c.key == key))

    def _register(self, key: str, inbox: Inbox, role: str, folder: Path) -> str | None:
        """Mark a folder on first use and store the id in the queue; the first host wins."""
        try:
            is_new, found = _write_marker(folder)
        except OSError as error:
            if role == "path" and inbox.on_success == "keep" and error.errno in _PERMISSION_ERRNOS:
                log.warning(
                    "marker not written, inbox is read-only", inbox=inbox.name, path=str(folder)
                )
                return None
            raise
        with contextlib.suppress(IntegrityError), self._database.write() as db:
            db.execute(meta.insert().values(key=key, value=found))
        known = self._known(key)
        if is_new and known != found:
            (folder / MARKER).unlink(missing_ok=True)
        return known


def _key(inbox: Inbox, role: str) -> str:
    return f"storage {inbox.name} {role}"


def _write_marker(folder: Path) -> tuple[bool, str]:
    """Write a marker unless there is one; return (is it new, its id). Raises OSError."""
    marker, found = folder / MARKER, uuid.uuid4().hex
    try:
        _create(marker, found)
    except FileExistsError:
        if existing := _read(folder):
            return False, existing
        raise OSError(errno.EINVAL, "empty, or no plain file; remove it", str(marker)) from None
    return True, found


def _write_again(inbox: Inbox, role: str, folder: Path, known: str) -> str | None:
    """Write the marker that was deleted, and return its id; None if something is in its place."""
    try:
        _create(folder / MARKER, known)
    except FileExistsError:  # another host was first, or it is no plain file
        return _read(folder)
    log.warning("marker written again", inbox=inbox.name, role=role, path=str(folder / MARKER))
    return known


def _create(marker: Path, content: str) -> None:
    with marker.open("x", encoding="utf-8") as file:
        file.write(f"{content}\n")
        file.flush()
        fsync_file(file.fileno())


def _read(folder: Path) -> str | None:
    """Return the id in a folder; None if the marker is missing or irregular. Raises OSError."""
    try:
        return decode(read_bytes(folder / MARKER, max_bytes=_MAX_MARKER_BYTES)).strip() or None
    except (NotRegular, Unreadable):
        return None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def _is_owned(inbox: Inbox, role: str) -> bool:
    """Return True for the folders of which only one queue may be the owner.

    Several may make clips of one inbox whose pictures stay where they are.
    """
    return role == "outbox" or (role == "path" and inbox.on_success != "keep")


def _describe_other(role: str, folder: Path, other: str) -> str:
    name = "inbox" if role == "path" else role
    return (
        f"{name} {folder}: used by another i2vd ({other}); stop that one, or give each its own "
        f"folders; {SILENT_SECONDS:.0f} s after its end this one takes over"
    )


def _describe(inbox: Inbox, role: str, folder: Path, found: str | None, known: str | None) -> str:
    name = "inbox" if role == "path" else role
    if not folder.is_dir():
        return f"{name} {folder}: not there"
    if known is None:
        return f"{name} {folder}: something else than before; is its share mounted?"
    marker = folder / MARKER
    path = shlex.quote(str(marker))
    cure = f"is the share of inbox {inbox.name} mounted? If this is it: echo {known} > {path}"
    if found is None:
        return f"{name} {folder}: no marker; {cure}"
    return f"{name} {folder}: the marker of another storage; {cure}"


class _Identity(NamedTuple):
    """A folder, as long as it stays mounted where it is."""

    device: int
    inode: int
    mount: Mount | None

    @classmethod
    def of(cls, folder: Path) -> "_Identity":
        """Return the identity of a folder. Raises OSError."""
        status = folder.stat()
        return cls(status.st_dev, status.st_ino, mount_of(folder))
