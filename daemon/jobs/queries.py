"""Read-only queries about jobs: counts, lists, pending work and events."""

import contextlib
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

import sqlalchemy as sa
from pydantic import BaseModel, TypeAdapter, ValidationError

from daemon.jobs.database import Database
from daemon.jobs.job import FINISHED, IN_INBOX, OPEN, STATES, Event, Job, State, as_job, readable
from daemon.jobs.schema import events, is_typed, jobs, pruned, same_drop, valid_json
from pipeline.request.presets import Speed
from pipeline.request.spec import Frames, Pixels, Spec, Steps
from rules.names import nfc, spellings

_WAITING = (jobs.c.state.in_(["queued", "publishing"]) & (jobs.c.waits > 0)) | (
    jobs.c.state.in_(FINISHED)
    & (jobs.c.picture_location == "inbox")
    & jobs.c.archival_error.is_not(None)
)


class Shape(NamedTuple):
    """The settings of a clip that determine its work; `guided` is True if guidance is above 1."""

    preset: str
    width: Pixels
    height: Pixels
    frames: Frames
    steps: Steps
    guided: bool
    speed: Speed

    @classmethod
    def of(cls, spec: Spec) -> "Shape":
        """Return the shape of a Spec."""
        size = (spec.width, spec.height, spec.frames, spec.steps)
        return cls(spec.preset, *size, spec.guided, spec.speed)


_SHAPE = TypeAdapter(Shape)


class JobFilter(BaseModel):
    """Conditions of a job search, combined by AND; None: no condition."""

    state: State | None = None
    inbox: str | None = None
    path: str | None = None
    """The picture's path in its inbox, in any Unicode form."""
    rule: str | None = None
    preset: str | None = None
    waiting: bool = False
    """Only jobs that wait for a reason of their own, or whose picture cannot be put away."""
    text: str | None = None
    """Part of the picture's path or of the prompt."""
    since: float | None = None
    """Created at this time or later, in seconds since 1970."""
    until: float | None = None
    """Created before this time."""

    def clause(self) -> sa.ColumnElement[bool]:
        """Return the conditions as SQL."""
        equal = {
            key: value
            for key in ("state", "inbox", "rule", "preset")
            if (value := getattr(self, key)) is not None
        }
        clauses = [jobs.c[key] == value for key, value in equal.items()]
        if self.waiting:
            clauses.append(_WAITING)
        if self.path is not None:
            clauses.append(jobs.c.path_nfc == nfc(self.path))
        if self.text is not None:
            prompt = valid_json(jobs.c.spec)["prompt"].as_string()
            clauses.append(
                sa.or_(
                    jobs.c.path_nfc.icontains(nfc(self.text), autoescape=True),
                    *(prompt.icontains(each, autoescape=True) for each in spellings(self.text)),
                )
            )
        if self.since is not None:
            clauses.append(jobs.c.created >= self.since)
        if self.until is not None:
            clauses.append(jobs.c.created < self.until)
        return sa.and_(sa.true(), *clauses)


class JobQueries:
    """Queries on the queue's database. All methods raise QueueUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now = database.now

    def counts(self) -> dict[State, int]:
        """Count the jobs in each state, with those that were pruned."""
        kept = sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)
        gone = sa.select(pruned.c.state, pruned.c.count)
        counts = dict.fromkeys(STATES, 0)
        with self._database.read() as db:
            for state, count in db.execute(kept.union_all(gone)):
                if state in counts:
                    counts[state] += count
        return counts

    def outcomes(self) -> list[tuple[State, str, str, int]]:
        """Count the finished jobs whose labels are texts, with those that were pruned.

        As (state, rule, preset, count).
        """
        group = (jobs.c.state, jobs.c.rule, jobs.c.preset)
        labelled = is_typed(jobs.c.rule) & is_typed(jobs.c.preset)
        kept = sa.select(*group, sa.func.count()).where(jobs.c.state.in_(FINISHED), labelled)
        totals: Counter[tuple[State, str, str]] = Counter()
        with self._database.read() as db:
            for state, rule, preset, count in db.execute(
                kept.group_by(*group).union_all(sa.select(pruned))
            ):
                totals[state, rule or "", preset or ""] += count
        return [(*labels, count) for labels, count in totals.items()]

    def oldest_queued(self) -> float | None:
        """Return the seconds that the oldest queued job has waited; None if none is queued."""
        query = sa.select(self._now - sa.func.min(jobs.c.created)).where(jobs.c.state == "queued")
        with self._database.read() as db:
            return db.scalar(query)

    def job(self, job_id: int) -> Job | None:
        """Return one job; None if there is no such id. Raises UnreadableRow."""
        with self._database.read() as db:
            row = db.execute(sa.select(jobs).where(jobs.c.id == job_id)).first()
        return None if row is None else as_job(row)

    def newest(
        self, job_filter: JobFilter | None = None, limit: int = 50, before: int | None = None
    ) -> list[Job]:
        """Return matching jobs, newest first; with ids below `before`, for paging.

        Fewer than `limit` only if there are no more.
        """
        clause = sa.true() if job_filter is None else job_filter.clause()
        if before is not None:
            clause &= jobs.c.id < before
        return self._select(clause, newest_first=True, limit=limit)

    def waiting(self, limit: int = 50) -> list[Job]:
        """Return queued jobs in claim order."""
        query = sa.select(jobs).where(jobs.c.state == "queued")
        return self._read(query.order_by(jobs.c.priority.desc(), jobs.c.id), limit)

    def by_path(self, inbox: str, path: str, limit: int = 20) -> list[Job]:
        """Return the jobs of a path in an inbox, in any Unicode form, newest first."""
        clause = (jobs.c.inbox == inbox) & (jobs.c.path_nfc == nfc(path))
        return self._select(clause, newest_first=True, limit=limit)

    def last_taken(self, inbox: str, path: str) -> float | None:
        """Return when the last picture at a path was taken, since 1970; None if there was none."""
        query = sa.select(sa.func.max(jobs.c.created)).where(is_typed(jobs.c.created))
        with self._database.read() as db:
            at: float | None = db.scalar(query.where(jobs.c.inbox == inbox, jobs.c.path == path))
        return at

    def used_overrides(self, inbox: str, paths: Collection[str]) -> dict[str, list[str]]:
        """Return the names of the overrides of pictures in the inbox, by path.

        Only pictures with jobs; at most some hundreds at once.
        """
        query = (
            sa.select(jobs.c.path, jobs.c.overrides)
            .where(jobs.c.inbox == inbox, jobs.c.path.in_(paths))
            .where(jobs.c.picture_location.in_(IN_INBOX))
            .order_by(jobs.c.drop)
        )
        with self._database.read() as db:
            rows = db.execute(query).all()
        return {row.path: _override_names(row.overrides) for row in rows}

    def by_content(self, sha256: str, limit: int = 20) -> list[Job]:
        """Return the jobs of pictures with this content, newest first."""
        return self._select(jobs.c.sha256 == sha256, newest_first=True, limit=limit)

    def queued(self) -> list[tuple[Shape, int]]:
        """Count the queued jobs of each shape; those without one cannot be read, and will fail."""
        spec = valid_json(jobs.c.spec)
        sizes = [spec[key].as_integer() for key in ("width", "height", "frames", "steps")]
        guided = spec["guidance"].as_float() > 1
        speed = spec["speed"].as_string()
        labelled = [c.label(f"c{n}") for n, c in enumerate((*sizes, guided, speed))]
        query = sa.select(jobs.c.preset, *labelled, sa.func.count())
        query = query.where(jobs.c.state == "queued", is_typed(jobs.c.preset))
        with self._database.read() as db:
            rows = db.execute(query.group_by(jobs.c.preset, *labelled)).all()
        found = []
        for *shape, count in rows:
            with contextlib.suppress(ValidationError):
                found.append((_SHAPE.validate_python(shape), count))
        return found

    # --- pending work

    def unpublished(self, owner: str) -> list[Job]:
        """Return this owner's jobs that are past the fence, but not yet in the outbox."""
        return self._select((jobs.c.state == "publishing") & (jobs.c.owner == owner))

    def due_publications(self, owner: str) -> list[Job]:
        """Return those of them that need not wait, also if the clock was set back."""
        due = (jobs.c.not_before <= self._now) | (jobs.c.started > self._now)
        return self._select((jobs.c.state == "publishing") & (jobs.c.owner == owner) & due)

    def due_waiting(self, among: Collection[str], limit: int = 100) -> list[Job]:
        """Return queued jobs of these inboxes that waited for a reason and are due again."""
        due = (jobs.c.not_before <= self._now) | (jobs.c.started > self._now)
        waiting = (jobs.c.state == "queued") & (jobs.c.waits > 0) & jobs.c.inbox.in_(among)
        return self._select(waiting & due, limit=limit)

    def active_attempts(self) -> set[tuple[int, int]]:
        """Return (job, attempt) of all jobs that are running or publishing, on any host."""
        query = sa.select(jobs.c.id, jobs.c.attempt)
        with self._database.read() as db:
            rows = db.execute(query.where(jobs.c.state.in_(["running", "publishing"]))).all()
        return {(job, attempt) for job, attempt in rows}

    def pending_archival(self) -> list[Job]:
        """Return finished jobs whose picture is still in the inbox, but needed by no open job."""
        sibling = jobs.alias()
        needed = sa.exists().where(
            sibling.c.inbox == jobs.c.inbox,
            sibling.c.path == jobs.c.path,
            sibling.c.drop == jobs.c.drop,
            sibling.c.state.in_(OPEN),
        )
        return self._select(
            jobs.c.state.in_(FINISHED) & (jobs.c.picture_location == "inbox") & ~needed
        )

    def remote_jobs(self, owner: str) -> list[Job]:
        """Return the jobs that other hosts are running or publishing."""
        return self._select(jobs.c.state.in_(["running", "publishing"]) & (jobs.c.owner != owner))

    def siblings(self, job: Job) -> list[Job]:
        """Return all jobs of the same drop, this one included."""
        return self._select(same_drop(job))

    # --- events

    def events(self, job_id: int) -> list[Event]:
        """Return the events of a job, oldest first."""
        query = sa.select(events).where(events.c.job == job_id).order_by(events.c.id)
        with self._database.read() as db:
            rows = db.execute(query).all()
        return [Event(at=row.at, event=row.event, detail=row.detail) for row in rows]

    def _select(
        self,
        clause: sa.ColumnElement[bool],
        *,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[Job]:
        order = jobs.c.id.desc() if newest_first else jobs.c.id
        return self._read(sa.select(jobs).where(clause).order_by(order), limit)

    def _read(self, query: sa.Select[Any], limit: int | None) -> list[Job]:
        """Return the jobs of an ordered query; rows that cannot be read do not count."""
        found: list[Job] = []
        seen = 0
        with self._database.read() as db:
            while True:
                wanted = None if limit is None else limit - len(found)
                rows = db.execute(query.offset(seen).limit(wanted)).all()
                seen += len(rows)
                found += readable(rows)
                if len(rows) != wanted or len(found) == limit:
                    return found


def _override_names(stored: object) -> list[str]:
    """Return the names in a column of overrides; others may have written anything there."""
    if not isinstance(stored, list):
        return []
    return [each[0] for each in stored if isinstance(each, list) and each]
