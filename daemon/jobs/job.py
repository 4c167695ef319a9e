"""A job and a drop, as the ledger tells them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.request.spec import Spec
from pipeline.sidecar import Fallback

State = Literal["queued", "running", "publishing", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "publishing", "done", "failed", "cancelled")
OPEN: tuple[State, ...] = ("queued", "running", "publishing")

Whereabouts = Literal["inbox", "kept", "archive", "failed", "deleted", "gone"]
"""Where the picture of a job is: "kept" in the inbox for good, "gone" when its owner took it."""
IN_INBOX: tuple[Whereabouts, ...] = ("inbox", "kept")


class Drop(BaseModel):
    """One drop of one picture: where it lies, and what it is."""

    model_config = ConfigDict(frozen=True)

    inbox: str
    path: str
    """Relative to the inbox, with "/"."""
    fingerprint: str
    """Size, time, inode and who saw it: of the same drop seen twice they are the same state."""
    sha256: str
    source: dict[str, Any]
    """The picture's facts, as the sidecar will tell them."""


class Job(BaseModel):
    """One row, as it was when it was read."""

    model_config = ConfigDict(frozen=True)

    id: int
    inbox: str
    path: str
    drop: int
    variant: int
    sha256: str
    fingerprint: str
    source: dict[str, Any]
    whereabouts: Whereabouts
    whereabouts_path: str | None
    """Relative to the archive or failed folder; while it is in the inbox, where it will go."""
    spec: Spec | None
    clip_name: str
    rule: str | None
    rules_digest: str | None
    priority: int
    state: State
    due: float
    attempt: int
    failures: int
    rung: int
    fallbacks: list[Fallback]
    """Steps down the ladder, in all attempts so far."""
    owner: str | None
    """The host that has it, or had it last; its number in a shared queue stands after the name."""
    cancel: bool
    progress: dict[str, Any] | None
    error: str | None
    result: dict[str, Any] | None
    created: float
    started: float | None
    finished: float | None


class Event(BaseModel):
    """Something that happened to a job, at a time in seconds since 1970."""

    at: float
    event: str
    detail: str


def as_job(row: Any) -> Job:
    """A row of the table as a Job."""
    return Job.model_validate(row._asdict())
