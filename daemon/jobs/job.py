"""Row types of the queue: a job, a drop and an event, as they are read from the tables."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.request.spec import Spec
from pipeline.sidecar import Fallback

State = Literal["queued", "running", "publishing", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "publishing", "done", "failed", "cancelled")
OPEN: tuple[State, ...] = ("queued", "running", "publishing")

EventName = Literal[
    "queued",
    "rejected",
    "running",
    "released",
    "retry_scheduled",
    "recovered",
    "fell_back",
    "publishing",
    "publication_blocked",
    "adopted",
    "done",
    "failed",
    "cancelled",
    "cancel_requested",
    "priority_changed",
]
"""The events of a job. `transitions.STATE_AFTER` has those that change its state."""

Location = Literal["inbox", "kept", "archive", "failed", "deleted", "gone"]
"""Where the picture of a job is. "kept": in the inbox, permanently. "gone": removed by others."""
IN_INBOX: tuple[Location, ...] = ("inbox", "kept")


class Drop(BaseModel):
    """One drop: one appearance of a picture in an inbox, and its content."""

    model_config = ConfigDict(frozen=True)

    inbox: str
    path: str
    """Relative to the inbox, with "/"."""
    fingerprint: str
    """Size, mtime, inode and host; `same_fingerprint` compares two of them."""
    sha256: str
    source: dict[str, Any]
    """The `source` entry of the sidecar."""


class Job(BaseModel):
    """One row of the jobs table, at the time of reading."""

    model_config = ConfigDict(frozen=True)

    id: int
    inbox: str
    path: str
    drop: int
    variant: int
    sha256: str
    fingerprint: str
    source: dict[str, Any]
    picture_location: Location
    picture_path: str | None
    """Relative to the archive or failed folder. In the inbox: the target of the coming move."""
    spec: Spec | None
    clip_name: str
    rule: str | None
    rules_digest: str | None
    priority: int
    state: State
    not_before: float
    """Not claimed before this time, in seconds since 1970."""
    attempt: int
    failures: int
    rung: int
    fallbacks: list[Fallback]
    """Steps down the ladder, in all attempts so far."""
    owner: str | None
    """The host that runs the job, or ran it last; see `owner_name`."""
    cancel: bool
    progress: dict[str, Any] | None
    error: str | None
    result: dict[str, Any] | None
    created: float
    started: float | None
    finished: float | None


class Event(BaseModel):
    """An event of a job; `at` is in seconds since 1970."""

    at: float
    event: str
    """An EventName, or one that a newer i2vd in the fleet has added."""
    detail: str


def as_job(row: Any) -> Job:
    """Convert a row of the jobs table."""
    return Job.model_validate(row._asdict())
