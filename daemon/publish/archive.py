"""What becomes of a picture once its jobs are over: archived, kept, deleted, or put aside.

Only ever after the clip is published and the ledger says so; a picture that failed goes to the
failed folder with the reason beside it. Safe to repeat after a crash at any moment: the ledger
knows where a picture goes before it moves, so that it is found there again.
"""

import filecmp
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePath

import structlog

from daemon.config.settings import Inbox, Settings
from daemon.fs.atomic import atomic_write, describe_os_error, move, remove, truncate_name
from daemon.fs.fingerprint import FileState
from daemon.fs.safe_path import open_beneath
from daemon.jobs.database import Database
from daemon.jobs.job import OPEN, Job
from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from daemon.storage.folders import folder_of
from daemon.storage.marker import VolumeMarkers

OVERRIDE_SUFFIXES = (".toml", ".txt")

log = structlog.get_logger()


class Archive:
    """Puts pictures where they belong. `trouble`: why some still lie in the inbox, if they do."""

    def __init__(
        self,
        database: Database,
        ledger: JobStore,
        history: JobQueries,
        settings: Settings,
        storage: VolumeMarkers,
    ) -> None:
        self.last_error: str | None = None
        self._failures = 0
        self._database = database
        self._ledger = ledger
        self._history = history
        self._settings = settings
        self._storage = storage

    def archive_job(self, job: Job) -> None:
        """Move the picture of a job's drop, once no job needs it; what cannot be done now waits."""
        try:
            self._archive(job)
        except OSError as error:
            self._note(job, error)

    def archive_pending(self) -> None:
        """Settle all that a crash or a trouble left; the trouble is over when that succeeds.

        Raises QueueUnavailable.
        """
        before = self._failures
        for job in self._history.pending_archival():
            try:
                self._archive(job)
            except OSError as error:
                self._note(job, error)
        if self._failures == before:  # nor was there another trouble meanwhile
            self.last_error = None

    def _note(self, job: Job, error: OSError) -> None:
        """Say it once, however many pictures it concerns."""
        if self.last_error is None:
            log.error(
                "the picture stays in the inbox for now", job=job.id, why=describe_os_error(error)
            )
        self.last_error = f"pictures cannot leave the inbox: {describe_os_error(error)}"
        self._failures += 1

    def _archive(self, job: Job) -> None:
        """One host at a time: what two move at once would look gone to one of them."""
        with self._database.advisory_lock(f"settle {self._history.siblings(job)[0].id}", wait=True):
            self._archive_locked(job)

    def _archive_locked(self, job: Job) -> None:
        inbox = self._settings.inbox_named(job.inbox)
        siblings = self._history.siblings(job)
        if inbox is None or any(sibling.state in OPEN for sibling in siblings):
            return
        drop, picture = siblings[0], inbox.path / job.path
        if drop.picture_location != "inbox":  # another host was first
            return
        self._storage.check(inbox)
        if any(sibling.state == "done" for sibling in siblings):
            self._succeeded(inbox, picture, drop)
        elif there := self._move_with_overrides(picture, inbox.failed, drop):
            _write_reason(inbox, there, siblings)
            self._ledger.moved(drop, "failed", str(there.relative_to(inbox.failed)))
            log.info("picture put aside", job=job.id, to=str(there))

    def _succeeded(self, inbox: Inbox, picture: Path, drop: Job) -> None:
        if inbox.after == "keep":
            self._ledger.moved(drop, "kept" if _is_ours(picture, drop) else "gone")
        elif inbox.after == "delete":
            for sidecar, _ in _override_files(picture):
                sidecar.unlink(missing_ok=True)
            ours = remove(picture, lambda file: _is_ours(file, drop))
            self._ledger.moved(drop, "deleted" if ours else "gone")
        elif there := self._move_with_overrides(picture, inbox.archive, drop):
            self._ledger.moved(drop, "archive", str(there.relative_to(inbox.archive)))
            log.info("picture archived", job=drop.id, to=str(there))

    def _move_with_overrides(self, picture: Path, root: Path, drop: Job) -> Path | None:
        """Move the picture below `root`, and what lies beside it; None when it is gone."""
        there = _already_moved(picture, root, drop) or self._move_picture(picture, root, drop)
        if there is None:
            self._ledger.moved(drop, "gone")
            return None
        for ending in OVERRIDE_SUFFIXES:
            _move_override(picture.with_name(picture.name + ending), there, ending, drop)
        return there

    def _move_picture(self, picture: Path, root: Path, drop: Job) -> Path | None:
        """The picture's new place; None when it is gone, or another lies in its place."""
        if not _is_ours(picture, drop):
            return None
        there = move(
            picture,
            root,
            drop.path,
            announce=lambda target: self._ledger.moved(
                drop, "inbox", str(target.relative_to(root))
            ),
        )
        if _is_ours(there, drop):
            return there
        inbox = _root_of(picture, drop)
        move(there, inbox, drop.path)  # dropped a moment ago: its turn will come
        return None


def keep_rejected_clip(inbox: Inbox, job: Job, clip: Path) -> None:
    """Move a clip that the gate refused to the failed folder. Nothing where there is none."""
    if clip.is_file():
        move(clip, inbox.failed, _rejected_clip(inbox, job).relative_to(inbox.failed))


def _already_moved(picture: Path, root: Path, drop: Job) -> Path | None:
    """Where below `root` the picture arrived before a crash, if it did."""
    if drop.picture_path is None:
        return None
    there = root / drop.picture_path
    if not _is_ours(there, drop):
        return None
    if picture.parent.is_dir():  # a copy, whose original was still to be removed
        remove(picture, lambda file: _is_ours(file, drop))
    return there


def _move_override(sidecar: Path, there: Path, ending: str, drop: Job) -> None:
    """Move a sidecar after its picture, if there is one."""
    arrived = there.with_name(there.name + ending)
    if os.path.lexists(arrived):  # copied before a crash
        remove(sidecar, lambda file: filecmp.cmp(file, arrived, shallow=False))
    if os.path.lexists(sidecar) and not sidecar.is_symlink():
        root = _root_of(there, drop)
        move(sidecar, root, arrived.relative_to(root))


def _root_of(there: Path, drop: Job) -> Path:
    """The folder below which a drop was put; maybe not the one that is configured now."""
    return there.parents[len(PurePath(drop.path).parents) - 1]


def restore(inbox: Inbox, job: Job, host: str) -> str | None:
    """Undo `settle`: the picture lies in the inbox again, with the fingerprint that is returned.

    None when it is nowhere to be found, or another lies in its place.
    """
    picture = inbox.path / job.path
    if not _is_ours(picture, job):
        away = _away(inbox, job)
        if away is None or os.path.lexists(picture):
            return None
        for sidecar, ending in _override_files(away):
            move(sidecar, inbox.path, job.path + ending)
        move(away, inbox.path, job.path)
        _reason_file(away).unlink(missing_ok=True)
        _rejected_clip(inbox, job).unlink(missing_ok=True)
    status = picture.lstat()
    return FileState.of(status).fingerprint(host)


def _away(inbox: Inbox, job: Job) -> Path | None:
    """Where a picture is that has left the inbox, or was about to; None when it is not there."""
    if job.picture_path is None:
        return None
    roots = [inbox.archive, inbox.failed]
    if job.picture_location in ("archive", "failed"):
        roots = [folder_of(inbox, job.picture_location)]
    places = (root / job.picture_path for root in roots)
    return next((place for place in places if _is_ours(place, job)), None)


def _write_reason(inbox: Inbox, picture: Path, failed: Sequence[Job]) -> None:
    """Say beside a picture in the failed folder why there is no clip, and what can be done."""
    reasons = [
        {
            "job": job.id,
            "state": job.state,
            "reason": job.error,
            "tries": job.failures + 1,
            "look": look.name if (look := _rejected_clip(inbox, job)).is_file() else None,
            "at": datetime.fromtimestamp(job.finished or 0, UTC).isoformat(timespec="seconds"),
            "again": f"i2vd retry {job.id}"
            if job.spec
            else "put a sound picture into the inbox again",
        }
        for job in failed
    ]
    file = _reason_file(picture)
    root = _root_of(picture, failed[0])
    with open_beneath(root, file.parent.relative_to(root)) as folder:
        text = json.dumps(reasons, indent=2, ensure_ascii=False) + "\n"
        atomic_write(folder / file.name, text)


def _rejected_clip(inbox: Inbox, job: Job) -> Path:
    """Where the frames that the gate refused are; not a name that anybody takes for a clip's."""
    picture = inbox.failed / job.path
    return picture.with_name(truncate_name(picture.name, f".refused-{job.id}.mp4"))


def _reason_file(picture: Path) -> Path:
    return picture.with_name(truncate_name(picture.name, ".reason.json"))


def _override_files(picture: Path) -> Iterator[tuple[Path, str]]:
    """The sidecars of a picture, and their endings."""
    for ending in OVERRIDE_SUFFIXES:
        sidecar = picture.with_name(picture.name + ending)
        if os.path.lexists(sidecar) and not sidecar.is_symlink():
            yield sidecar, ending


def _is_ours(file: Path, drop: Job) -> bool:
    """Whether the file is the drop's, or the same content again: others are not ours to touch."""
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            return False
        seen, state = FileState.of(status), drop.fingerprint.partition("@")[0]
        if seen.state == state:
            return True
        size, _, mtime_ns = state.rpartition("-")[0].partition("-")
        if seen.size != int(size):
            return False
        if not drop.sha256:  # never decoded; a copy keeps its time
            return seen.mtime_ns == int(mtime_ns)
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == drop.sha256
    except OSError:
        return False
