"""Row types of the queue: a job, a drop and an event, as they are read from the tables."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

import structlog
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)
from pydantic_core import to_json

from pipeline.request.presets import Speed
from pipeline.request.spec import Spec
from pipeline.sidecar import Fallback, Source
from rules.files import sha256_of
from rules.override import Override

_MAX_REPORTED = 1000
_reported: set[int] = set()
"""Jobs whose rows were reported as unreadable; a page asks for them every second."""

log = structlog.get_logger()

State = Literal["queued", "running", "publishing", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "running", "publishing", "done", "failed", "cancelled")
OPEN: tuple[State, ...] = ("queued", "running", "publishing")
FINISHED: tuple[State, ...] = ("done", "failed", "cancelled")

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
    "archival_blocked",
    "adopted",
    "done",
    "failed",
    "cancelled",
    "cancel_requested",
    "retry_requested",
    "priority_changed",
    "dropped_again",
]
"""The events of a job. `transitions.STATE_AFTER` has those that change its state."""

Location = Literal["inbox", "kept", "archive", "failed", "deleted", "gone"]
"""Where the picture of a job is. "kept": in the inbox, permanently. "gone": removed by others."""
IN_INBOX: tuple[Location, ...] = ("inbox", "kept")


class UnreadableRow(Exception):
    """A row of the jobs table that has not the form of a job, after damage or by other programs.

    `job` is its number, `columns` those at fault.
    """

    def __init__(self, job: int, columns: frozenset[str], reason: str) -> None:
        super().__init__(f"its row cannot be read: {reason}")
        self.job = job
        self.columns = columns


def _check_inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise ValueError("leads out of its folder")
    return path


InsidePath = Annotated[str, AfterValidator(_check_inside)]
"""A path relative to a folder, which does not lead out of it."""
FileName = Annotated[str, Field(pattern=r"^[^/\x00]{3,}$")]
"""The name of a file, in a folder that is known; too long for ".."."""
Count = Annotated[int, Field(ge=0, lt=2**31)]
Time = Annotated[float, Field(allow_inf_nan=False)]


class DropOverride(NamedTuple):
    """A file beside the picture that belongs to its drop."""

    name: FileName
    sha256: str
    """Of its content, by `rules.files.sha256_of`."""


class Drop(BaseModel):
    """One drop: one appearance of a picture in an inbox, and its content."""

    model_config = ConfigDict(frozen=True)

    inbox: str
    path: str
    """Relative to the inbox, with "/"."""
    fingerprint: str
    """`FileState.fingerprint`: size and mtime."""
    sha256: str
    source: dict[str, Any]
    """The `source` entry of the sidecar."""
    overrides: tuple[DropOverride, ...] = ()

    def with_overrides(self, found: Sequence[Override]) -> "Drop":
        """Return the drop with these overrides, whose content is read. Raises OSError."""
        overrides = tuple(DropOverride(each.path.name, sha256_of(each.path)) for each in found)
        return self.model_copy(update={"overrides": overrides})


class _Progress(BaseModel):
    """What the status, the API and the commands read of `Job.progress`."""

    stage: str
    step: Count
    steps: Count
    eta: Time | None
    preview_version: Count = 0


class _Result(BaseModel):
    """What the daemon reads of `Job.result`; each key as soon as it is known."""

    clip: InsidePath = ""
    sidecar_sha256: str = ""
    degraded: bool = False
    seconds: dict[str, Time] = {}
    mode: str = ""
    speed: Speed = "exact"
    poster: bool = False


class Job(BaseModel):
    """One row of the jobs table, at the time of reading."""

    model_config = ConfigDict(frozen=True)

    id: int
    inbox: str
    path: InsidePath
    drop: Count
    variant: Count
    sha256: str
    fingerprint: str
    source: dict[str, Any]
    overrides: tuple[DropOverride, ...] = ()
    picture_location: Location
    picture_path: InsidePath | None
    """Relative to the archive or failed folder. In the inbox: the target of the coming move."""
    archival_error: str | None
    """Why the picture of a finished job could not leave the inbox yet."""
    spec: Spec | None
    clip_name: InsidePath
    rule: str | None
    rules_digest: str | None
    priority: int
    state: State
    not_before: Time
    """Not claimed before this time, in seconds since 1970."""
    attempt: Count
    failures: Count
    waits: Count
    """How often in a row only this job had to wait for something; `error` is the reason."""
    rung: Count
    fallbacks: list[Fallback]
    """Steps down the ladder, in all attempts so far."""
    owner: str | None
    """The host that runs the job, or ran it last; see `owner_name`."""
    cancel: bool
    progress: dict[str, Any] | None
    error: str | None
    result: dict[str, Any] | None
    created: Time
    started: Time | None
    finished: Time | None

    @field_validator("progress")
    @classmethod
    def _check_progress(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            _Progress.model_validate(value)
        return value

    @field_validator("result")
    @classmethod
    def _check_result(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            _Result.model_validate(value)
        return value

    @field_validator("source")
    @classmethod
    def _check_source(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value:
            if known := value.keys() & {"path", "sha256"}:
                raise ValueError(f"has {min(known)}, which is a column of its own")
            Source(path="", sha256="", **value)
        return value


def _known_time(value: object) -> float:
    """Return a time that is one; 0 for anything else, which must not hide the event."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0.0


EventTime = Annotated[float, BeforeValidator(_known_time)]
"""Seconds since 1970; 0 if the row does not have it."""


def _known_text(value: object) -> object:
    """Return a text in place of bytes, which must not hide the event."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


EventText = Annotated[str, BeforeValidator(_known_text)]


class Event(BaseModel):
    """An event of a job."""

    at: EventTime
    event: EventText
    """An EventName, or one that a newer i2vd in the fleet has added."""
    detail: EventText


def as_job(row: Any) -> Job:
    """Convert a row of the jobs table. Raises UnreadableRow, and nothing else."""
    values = row._asdict()
    faults = {column: fault for column in values if (fault := _fault(values[column]))}
    if faults:
        reason = "; ".join(f"{column}: {fault}" for column, fault in faults.items())
        raise UnreadableRow(row.id, frozenset(faults), reason)
    try:
        return Job.model_validate(values)
    except ValidationError as error:
        columns = frozenset(str(each["loc"][0]) for each in error.errors() if each["loc"])
        first = error.errors(include_input=False)[0]
        where = "".join(f"{part}." for part in first["loc"]).removesuffix(".")
        reason = first["msg"].removeprefix("Value error, ")
        raise UnreadableRow(row.id, columns, f"{where}: {reason}" if where else reason) from error
    except (ValueError, TypeError, RecursionError) as error:  # from a validator
        raise UnreadableRow(row.id, frozenset(), str(error)) from error


def _fault(value: object) -> str | None:
    """Return why the API could not write a value: bytes, NaN, half of a character, too deep."""
    if isinstance(value, bytes):
        return "is bytes, not text or a number"
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        to_json([[[[value]]]])  # the API nests it in a list of jobs, or in a message
    except (ValueError, TypeError, RecursionError) as error:
        return str(error)
    return None


def readable(rows: Iterable[Any]) -> list[Job]:
    """Convert rows of the jobs table; those that cannot be read are left out, and logged once."""
    found = []
    for row in rows:
        try:
            found.append(as_job(row))
        except UnreadableRow as error:
            if error.job not in _reported and len(_reported) < _MAX_REPORTED:
                _reported.add(error.job)
                log.error("job row unreadable, left out", job=error.job, reason=str(error))
    return found
