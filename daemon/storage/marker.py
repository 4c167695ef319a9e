"""Storage: whether an inbox's folders are those of the queue, or what shows while a share is away.

A marker file in each folder, made on first use, has an id that the queue knows too. An empty mount
point, or another share in its place, has not: nothing is taken from there, put there, or missed
there. Copied with all the rest, a folder may move to another disk or host.
"""

import contextlib
import errno
import os
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

MARKER = ".i2vd-storage"
ROLES = ("path", "outbox", "archive", "failed")

_MAY_NOT = (errno.EROFS, errno.EACCES, errno.EPERM)

log = structlog.get_logger()


class VolumeMissing(OSError):
    """A folder is not there, or something else is in its place; the message says what to do."""


class VolumeMarkers:
    """Safe to use from several threads; `check` reads a small file for each folder."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._ids: dict[str, str | None] = {}
        """By inbox and role; None for an inbox that we may not write to: it has no marker."""
        self._seen = {inbox.path: _identity(inbox.path) for inbox in settings.inbox}

    def check(self, inbox: Inbox, *roles: str) -> None:
        """Look at these folders of an inbox, or at all. Raises StorageAway and other OSErrors."""
        for role in roles or ROLES:
            folder = folder_of(inbox, role)
            known = self._id(inbox, role, folder)
            found = _read(folder)
            if known is None and _identity(folder) == self._seen[folder]:
                continue
            if known is None or found != known:
                raise VolumeMissing(_told(inbox, role, folder, found, known))

    def problem(self, inbox: Inbox) -> str | None:
        """The same at all folders, in words, and without a first use: nothing is changed."""
        for role in ROLES:
            known = self._known(_key(inbox, role))
            try:
                found = _read(folder := folder_of(inbox, role))
            except OSError as error:
                return describe_os_error(error)
            if known is not None and found != known:
                return _told(inbox, role, folder, found, known)
        return None

    def _id(self, inbox: Inbox, role: str, folder: Path) -> str | None:
        key = _key(inbox, role)
        if key not in self._ids:
            self._ids[key] = self._known(key) or self._begin(key, inbox, role, folder)
        return self._ids[key]

    def _known(self, key: str) -> str | None:
        with self._database.read() as db:
            return db.scalar(sa.select(meta.c.value).where(meta.c.key == key))

    def _begin(self, key: str, inbox: Inbox, role: str, folder: Path) -> str | None:
        """First use of a folder: its marker's id is made known, unless another host was first."""
        try:
            made, found = _mark(folder)
        except OSError as error:
            if role == "path" and inbox.after == "keep" and error.errno in _MAY_NOT:
                log.warning(
                    "no marker can be left in the inbox", inbox=inbox.name, path=str(folder)
                )
                return None
            raise
        with contextlib.suppress(IntegrityError), self._database.write() as db:
            db.execute(meta.insert().values(key=key, value=found))
        known = self._known(key)
        if made and known != found:
            (folder / MARKER).unlink(missing_ok=True)
        return known


def _key(inbox: Inbox, role: str) -> str:
    return f"storage {inbox.name} {role}"


def _mark(folder: Path) -> tuple[bool, str]:
    """Leave a marker where there is none: whether it is new, and its id. Raises OSError."""
    marker, found = folder / MARKER, uuid.uuid4().hex
    try:
        with marker.open("x", encoding="utf-8") as file:
            file.write(f"{found}\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        if there := _read(folder):
            return False, there
        raise OSError(errno.EINVAL, "empty, or no plain file; remove it", str(marker)) from None
    return True, found


def _read(folder: Path) -> str | None:
    """The id in a folder; None where there is none, or no plain file. Raises OSError."""
    try:
        held = os.open(folder / MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    with os.fdopen(held, "rb") as file:
        return file.read(100).decode(errors="replace").strip() or None


def _told(inbox: Inbox, role: str, folder: Path, found: str | None, known: str | None) -> str:
    name = "inbox" if role == "path" else role
    if not folder.is_dir():
        return f"{name} {folder}: not there"
    if known is None:
        return f"{name} {folder}: something else than before; is its share mounted?"
    marker = folder / MARKER
    cure = f"is the share of inbox {inbox.name} mounted? If this is it: echo {known} > {marker}"
    if found is None:
        return f"{name} {folder}: no marker; {cure}"
    return f"{name} {folder}: the marker of another storage; {cure}"


def _identity(folder: Path) -> tuple[int, bool] | None:
    """Tells a folder without a marker from the empty one that shows when its mount is gone.

    Not the device number: a share that is mounted again may get another.
    """
    try:
        status = folder.stat()
    except OSError:
        return None
    return (status.st_ino, os.path.ismount(folder)) if stat.S_ISDIR(status.st_mode) else None
