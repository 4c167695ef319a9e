"""Volume markers: files that prove that the right share is mounted.

Each folder gets a marker file on first use, with an id that is also in the queue. An empty mount
point, or another share in its place, lacks that id: nothing is read from it, written to it, or
thought to be missing there. A folder may move to another disk or host with its marker.
"""

import contextlib
import errno
import os
import shlex
import stat
import uuid
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import IntegrityError

from daemon.config.settings import Inbox, Settings
from daemon.fs.atomic import describe_os_error
from daemon.jobs.database import Database
from daemon.jobs.schema import meta
from daemon.storage.folders import folder_of
from pipeline.durable import fsync_file
from rules.text_file import NotRegular, Unreadable, decode, read_bytes

MARKER = ".i2vd-storage"
ROLES = ("path", "outbox", "archive", "failed")

_MAX_MARKER_BYTES = 100
_PERMISSION_ERRNOS = (errno.EROFS, errno.EACCES, errno.EPERM)

log = structlog.get_logger()


class VolumeMissing(OSError):
    """A folder is missing, or another volume is in its place; the message has a remedy."""


class VolumeMarkers:
    """Creates and checks the markers. Thread-safe; `check` reads a small file for each folder."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._ids: dict[str, str | None] = {}
        """Ids by inbox and role; None for an inbox without write permission: it has no marker."""
        self._first_identity = {inbox.path: _identity(inbox.path) for inbox in settings.inbox}

    def check(self, inbox: Inbox, *roles: str) -> None:
        """Check these folders of an inbox, or all. Raises VolumeMissing and other OSErrors."""
        for role in roles or ROLES:
            folder = folder_of(inbox, role)
            known = self._id(inbox, role, folder)
            found = _read(folder)
            if known is None and _identity(folder) == self._first_identity[folder]:
                continue
            if known is None or found != known:
                raise VolumeMissing(_describe(inbox, role, folder, found, known))

    def problem(self, inbox: Inbox) -> str | None:
        """Return the first problem of all folders as a text; creates no marker."""
        for role in ROLES:
            known = self._known(_key(inbox, role))
            try:
                found = _read(folder := folder_of(inbox, role))
            except OSError as error:
                return describe_os_error(error)
            if known is not None and found != known:
                return _describe(inbox, role, folder, found, known)
        return None

    def _id(self, inbox: Inbox, role: str, folder: Path) -> str | None:
        key = _key(inbox, role)
        if key not in self._ids:
            self._ids[key] = self._known(key) or self._register(key, inbox, role, folder)
        return self._ids[key]

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
        with marker.open("x", encoding="utf-8") as file:
            file.write(f"{found}\n")
            file.flush()
            fsync_file(file.fileno())
    except FileExistsError:
        if existing := _read(folder):
            return False, existing
        raise OSError(errno.EINVAL, "empty, or no plain file; remove it", str(marker)) from None
    return True, found


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


def _identity(folder: Path) -> tuple[int, bool] | None:
    """Return (inode, is it a mount point), which differs if the mount of a folder is gone.

    The device number is not used: a share that is mounted again may get another.
    """
    try:
        status = folder.stat()
    except OSError:
        return None
    return (status.st_ino, os.path.ismount(folder)) if stat.S_ISDIR(status.st_mode) else None
