"""What becomes of a picture once its jobs are over: archived, kept, deleted, or put aside.

Only ever after the clip is published and the ledger says so; a picture that failed goes to the
failed folder with the reason beside it. Safe to repeat.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from daemon.job import OPEN, Job
from daemon.ledger import Ledger
from daemon.place import move, write_durably
from daemon.scan import Seen
from daemon.settings import Inbox, Settings

SIDECAR_ENDINGS = (".toml", ".txt")

log = structlog.get_logger()


def settle(ledger: Ledger, settings: Settings, job: Job) -> None:
    """Put the picture of a job's drop where it belongs, once no job needs it any more."""
    inbox = settings.inbox_named(job.inbox)
    siblings = ledger.siblings(job)
    if inbox is None or any(sibling.state in OPEN for sibling in siblings):
        return
    picture = inbox.path / job.path
    succeeded = any(sibling.state == "done" for sibling in siblings)
    if not _is_still(picture, siblings[0]):
        ledger.moved(job, "gone")
    elif succeeded and inbox.after == "keep":
        pass
    elif succeeded and inbox.after == "delete":
        _delete(picture)
        ledger.moved(job, "deleted")
    else:
        folder = (inbox.archive if succeeded else inbox.failed) / Path(job.path).parent
        there = _move_with_sidecars(picture, folder)
        ledger.moved(job, "archive" if succeeded else "failed", str(there))
        log.info(
            "picture archived" if succeeded else "picture put aside", job=job.id, to=str(there)
        )
        if not succeeded:
            _write_reason(inbox, there, siblings)


def keep_for_a_look(inbox: Inbox, job: Job, clip: Path) -> None:
    """Move a clip that the gate refused to the failed folder. Nothing where there is none."""
    there = _spoilt_clip(inbox, job)
    if clip.is_file():
        move(clip, there.parent, there.name)


def bring_back(inbox: Inbox, job: Job) -> bool:
    """Undo `settle`: the picture lies in the inbox again. False when it is nowhere to be found."""
    picture = inbox.path / job.path
    if _is_still(picture, job):
        return True
    away = Path(job.whereabouts_path) if job.whereabouts_path else None
    if away is None or picture.exists() or not _is_still(away, job):
        return False
    for ending in SIDECAR_ENDINGS:
        beside = away.with_name(away.name + ending)
        if beside.is_file():
            move(beside, picture.parent, picture.name + ending)
    move(away, picture.parent, picture.name)
    _reason_file(away).unlink(missing_ok=True)
    _spoilt_clip(inbox, job).unlink(missing_ok=True)
    return True


def _write_reason(inbox: Inbox, picture: Path, failed: Sequence[Job]) -> None:
    """Say beside a picture in the failed folder why there is no clip, and what can be done."""
    reasons = [
        {
            "job": job.id,
            "state": job.state,
            "reason": job.error,
            "tries": job.failures + 1,
            "look": look.name if (look := _spoilt_clip(inbox, job)).is_file() else None,
            "at": datetime.fromtimestamp(job.finished or 0, UTC).isoformat(timespec="seconds"),
            "again": f"i2vd retry {job.id}"
            if job.spec
            else "put a sound picture into the inbox again",
        }
        for job in failed
    ]
    write_durably(_reason_file(picture), json.dumps(reasons, indent=2, ensure_ascii=False) + "\n")


def _spoilt_clip(inbox: Inbox, job: Job) -> Path:
    """Where the frames that the gate refused are; not a name that anybody takes for a clip's."""
    picture = inbox.failed / job.path
    return picture.with_name(f"{picture.name}.refused-{job.id}.mp4")


def _reason_file(picture: Path) -> Path:
    return picture.with_name(f"{picture.name}.reason.json")


def _is_still(picture: Path, job: Job) -> bool:
    """Whether the file is the one that the job was made for: a newer drop is not ours to touch."""
    try:
        status = picture.lstat()
    except OSError:
        return False
    return Seen(status.st_size, status.st_mtime_ns, status.st_ino).fingerprint == job.fingerprint


def _move_with_sidecars(picture: Path, folder: Path) -> Path:
    there = move(picture, folder, picture.name)
    for ending in SIDECAR_ENDINGS:
        beside = picture.with_name(picture.name + ending)
        if beside.is_file() and not beside.is_symlink():
            move(beside, folder, there.name + ending)
    return there


def _delete(picture: Path) -> None:
    for ending in SIDECAR_ENDINGS:
        picture.with_name(picture.name + ending).unlink(missing_ok=True)
    picture.unlink(missing_ok=True)
