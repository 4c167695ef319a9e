"""Job store: enqueue, claim, renew, release and finish jobs. The only durable state of i2vd.

    queued -> running -> publishing -> done
       ^         |  (release, retry later)
       +---------+--> failed | cancelled

One table and one claim statement, the same on SQLite and PostgreSQL. A claim sets a lease, an owner
and an attempt number. That number fences every later statement, whose row count says if it won.
recovery.py requeues orphaned jobs; queries.py reads. Methods block for some milliseconds, so the
event loop calls them in a thread. All raise QueueUnavailable.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from daemon.jobs.claim_filter import ClaimFilter, pick
from daemon.jobs.database import Database
from daemon.jobs.drops import departure_of, last_drop, recognise, replace
from daemon.jobs.job import IN_INBOX, Drop, EventName, Job, Location, as_job
from daemon.jobs.schema import is_drained, jobs, meta, same_drop
from daemon.jobs.unreadable import fail_if_unreadable
from pipeline.request.spec import Spec
from pipeline.sidecar import Fallback
from rules.names import nfc

T = TypeVar("T")

CANCELLED = "cancelled by the operator"
_QUEUED: dict[str, Any] = {"state": "queued", "owner": None, "lease": None, "progress": None}


class JobStore:
    """Transitions of jobs; `JobQueries` reads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now = database.now
        self._new_job = jobs.insert().values(created=self._now).returning(jobs.c.id)
        self._record_event = database.record_event

    # --- intake: nothing -> queued | failed

    def without_job(self, inbox: str, fingerprints: Mapping[str, str]) -> list[str]:
        """Return the paths of drops that have no job yet, in the same order.

        `fingerprints` has the fingerprint of each path; at most some hundreds at once.
        """
        drops = (
            sa.select(jobs.c.path, jobs.c.fingerprint, jobs.c.picture_location)
            .where(jobs.c.inbox == inbox, jobs.c.path.in_(fingerprints))
            .order_by(jobs.c.drop)
        )
        with self._database.read() as db:
            rows = db.execute(drops).all()
        last = {
            row.path: row.fingerprint if row.picture_location in IN_INBOX else None for row in rows
        }
        return [path for path, fingerprint in fingerprints.items() if last.get(path) != fingerprint]

    def recognise(self, drop: Drop) -> bool:
        """Return True if the last drop at this path is still in the inbox with this content.

        Then the new fingerprint is stored: a copy, a restore or `touch` makes no new drop.
        """
        with self._database.read() as db:
            last = last_drop(db, drop.inbox, drop.path)
        if last is None or last.sha256 != drop.sha256:
            return False
        with self._database.write() as db:
            return recognise(db, last_drop(db, drop.inbox, drop.path), drop)

    def enqueue(
        self,
        drop: Drop,
        specs: Sequence[Spec],
        *,
        required_memory: Sequence[int] = (),
        clip_name: str,
        rule: str | None,
        rules_digest: str,
        priority: int = 0,
        is_there: Callable[[], bool] = lambda: True,
    ) -> list[int]:
        """Queue one job for each Spec of a new drop; return their ids, none if they exist already.

        `required_memory`: of each in bytes (`MemoryEstimator.minimum`). `is_there` returns True if
        the picture is still unchanged in the inbox. Other content replaces queued jobs.
        """

        def insert(db: sa.Connection, last: Any) -> list[int]:
            if last is not None and last.picture_location in IN_INBOX:
                replace(self._database, db, last)
            ids = []
            pairs = zip_longest(specs, required_memory)
            for variant, (spec, memory) in enumerate(pairs, start=1):
                values = self._row(drop, (last.drop if last else 0) + 1, variant, clip_name)
                values |= {
                    "spec": spec.model_dump(mode="json"),
                    "preset": spec.preset,
                    "required_memory": memory,
                    "rule": rule,
                    "rules_digest": rules_digest,
                    "priority": priority,
                    "state": "queued",
                }
                ids.append(self._insert(db, values, "queued", f"rule {rule}"))
            return ids

        return self._enter(drop, is_there, insert) or []

    def reject(
        self, drop: Drop, reason: str, is_there: Callable[[], bool] = lambda: True
    ) -> int | None:
        """Record a failed job for an unusable picture; None if recorded. `is_there`: as above."""

        def insert(db: sa.Connection, last: Any) -> int:
            values = self._row(drop, (last.drop if last else 0) + 1, 1, "")
            values |= {"state": "failed", "error": reason}
            job = self._insert(db, values, "rejected", reason)
            db.execute(jobs.update().where(jobs.c.id == job).values(finished=self._now))
            return job

        return self._enter(drop, is_there, insert)

    def _enter(
        self, drop: Drop, is_there: Callable[[], bool], insert: Callable[[sa.Connection, Any], T]
    ) -> T | None:
        """Call `insert` with the last drop of the path, if this one is new; else return None.

        The file was perhaps the last drop, which another host has finished and moved: then it is
        not there. That is asked outside of the transaction, which would last as long as a share
        hangs.
        """
        seen_after: tuple[int, str] | None = None
        while True:
            with self._database.write() as db:
                last = last_drop(db, drop.inbox, drop.path)
                departure = departure_of(last)
                if departure == seen_after:
                    if recognise(db, last, drop):
                        return None
                    try:
                        return insert(db, last)
                    except IntegrityError:  # another host entered the same drop first
                        db.rollback()
                        return None
            if departure is not None and not is_there():
                return None
            seen_after = departure

    def _row(self, drop: Drop, number: int, variant: int, clip_name: str) -> dict[str, Any]:
        row = {"drop": number, "variant": variant, "clip_name": clip_name}
        return drop.model_dump() | row | {"path_nfc": nfc(drop.path)}

    def _insert(
        self, db: sa.Connection, values: dict[str, Any], event: EventName, detail: str
    ) -> int:
        job = db.execute(self._new_job, values).scalar_one()
        self._record_event(db, job, event, detail)
        return int(job)

    # --- dispatch: queued -> running -> queued | publishing | failed | cancelled

    def claim(
        self,
        owner: str,
        lease: float,
        without: Collection[str] = (),
        among: Collection[str] | None = None,
        claim_filter: ClaimFilter | None = None,
    ) -> Job | None:
        """Claim the next job for `lease` seconds: highest priority first, then lowest id.

        None if the queue is paused, the owner is drained, or no job is due. `without`: blocked
        inboxes. `among`: inboxes that the owner sees; None: all. `claim_filter`: of the device.
        """
        due = self._is_due() & jobs.c.inbox.not_in(without)
        if among is not None:
            due &= jobs.c.inbox.in_(among)
        with self._database.write() as db:
            picked = None if self._may_not_claim(db, owner) else pick(db, due, claim_filter)
            if picked is None:
                return None
            locked = picked.with_for_update(skip_locked=True).scalar_subquery()
            row = db.execute(
                jobs.update()
                .where(jobs.c.id == locked)
                .values(
                    state="running",
                    owner=owner,
                    attempt=jobs.c.attempt + 1,
                    lease=self._now + lease,
                    started=self._now,
                    error=sa.case((jobs.c.waits > 0, jobs.c.error), else_=None),
                )
                .returning(jobs)
            ).first()
            if row is None or fail_if_unreadable(self._database, db, row):
                return None
            self._record_event(db, row.id, "running", f"attempt {row.attempt} on {owner}")
            return as_job(row)

    def _may_not_claim(self, db: sa.Connection, owner: str) -> bool:
        paused = sa.exists().where(meta.c.key == "paused")
        return bool(db.scalar(sa.select(paused | is_drained(owner))))

    def _is_due(self) -> sa.ColumnElement[bool]:
        """Select due jobs, and jobs started in the future, because the clock was set back."""
        return (jobs.c.not_before <= self._now) | (jobs.c.started > self._now)

    def renew(
        self, job: Job, lease: float, progress: dict[str, Any] | None
    ) -> Literal["ok", "cancel", "lost"]:
        """Renew the lease of a running attempt, and store its progress.

        "cancel": the operator cancelled the job. "lost": another attempt has it.
        """
        with self._database.write() as db:
            cancel = db.execute(
                jobs.update()
                .where(_running(job))
                .values(lease=self._now + lease, progress=progress)
                .returning(jobs.c.cancel)
            ).scalar()
        if cancel is None:
            return "lost"
        return "cancel" if cancel else "ok"

    def fall_back(self, job: Job, rung: int, fallbacks: Sequence[Fallback]) -> bool:
        """Store the rung on which the attempt continues, and all steps down the ladder so far."""
        last = fallbacks[-1]
        tried = f"{last.tried.width}x{last.tried.height}, {last.tried.frames} frames"
        detail = f"out of memory in {last.stage} at {tried}, {last.tried.mode}"
        steps = [fallback.model_dump(mode="json") for fallback in fallbacks]
        return self._change(_running(job), job, "fell_back", detail, rung=rung, fallbacks=steps)

    def release(self, job: Job, reason: str) -> bool:
        """`running -> queued`, without using a try."""
        return self._change(_running(job), job, "released", reason, **_QUEUED)

    def postpone(self, job: Job, reason: str, delay: float) -> bool:
        """`running -> queued`, without using a try, due in `delay` seconds: only this job waits."""
        return self._change(
            _running(job), job, "released", reason, **_QUEUED, **self._wait(reason, delay)
        )

    def wait_longer(self, job: Job, reason: str, delay: float) -> bool:
        """Let a queued job wait `delay` seconds more; it was not claimed for that."""
        unclaimed = (jobs.c.id == job.id) & (jobs.c.attempt == job.attempt)
        unclaimed &= jobs.c.state == "queued"
        return self._change(unclaimed, job, None, reason, **self._wait(reason, delay))

    def retry_later(self, job: Job, error: str, delay: float) -> bool:
        """`running -> queued` after a failed try, due in `delay` seconds."""
        return self._change(
            _running(job), job, "retry_scheduled", error, **_QUEUED, error=error,
            failures=jobs.c.failures + 1, not_before=self._now + delay, waits=0,
        )  # fmt: skip

    def fail(self, job: Job, error: str) -> bool:
        """`running -> failed`, permanently."""
        return self._end(job, "failed", error)

    def cancelled(self, job: Job, reason: str) -> bool:
        """`running -> cancelled`."""
        return self._end(job, "cancelled", reason)

    # --- publication: running -> publishing -> done

    def begin_publication(self, job: Job, result: dict[str, Any], lease: float = 0.0) -> bool:
        """`running -> publishing`. The fence: from here on the publication can only be completed.

        After `lease` seconds another host may adopt it.
        """
        return self._change(
            _running(job), job, "publishing", "", state="publishing", lease=self._now + lease,
            progress=None, result=result, error=None, waits=0, not_before=0,
        )  # fmt: skip

    def block_publication(self, job: Job, reason: str, delay: float) -> bool:
        """Store why the clip cannot be published for `delay` seconds; stays `publishing`."""
        event: EventName | None = None if job.error == reason else "publication_blocked"
        return self._change(_publishing(job), job, event, reason, **self._wait(reason, delay))

    def requeue_publication(self, job: Job, reason: str, delay: float) -> bool:
        """`publishing -> queued`, without using a try: the clip was lost before it was published.

        Cancels the job instead if that was requested.
        """
        if job.cancel:
            return self.withdrawn(job)
        lost = _QUEUED | {"result": None} | self._wait(reason, delay)
        return self._change(_publishing(job), job, "released", reason, **lost)

    def withdrawn(self, job: Job) -> bool:
        """`publishing -> cancelled`: nothing of the clip is in the outbox."""
        return self._end(job, "cancelled", CANCELLED, _publishing(job))

    def done(self, job: Job, result: dict[str, Any]) -> bool:
        """`publishing -> done`: clip and sidecar are in the outbox, fsynced."""
        return self._change(
            _publishing(job), job, "done", str(result.get("clip", "")), state="done",
            finished=self._now, error=None, result=result, waits=0,
        )  # fmt: skip

    # --- the picture of finished jobs

    def moved(self, job: Job, location: Location, path: str | None = None) -> None:
        """Store where the picture of this drop is now.

        "inbox" with a path: the target of a move that is about to begin.
        """
        values: dict[str, Any] = {"picture_location": location, "picture_path": path}
        if location != "inbox":
            values["archival_error"] = None
        with self._database.write() as db:
            db.execute(jobs.update().where(same_drop(job)).values(values))

    def block_archival(self, job: Job, reason: str) -> None:
        """Store why the picture of this drop cannot leave the inbox now."""
        with self._database.write() as db:
            db.execute(jobs.update().where(same_drop(job)).values(archival_error=reason))
            self._record_event(db, job.id, "archival_blocked", reason)

    # --- statements

    def _change(
        self, clause: sa.ColumnElement[bool], job: Job, event: EventName | None, detail: str,
        **values: Any,
    ) -> bool:  # fmt: skip
        with self._database.write() as db:
            won = db.execute(jobs.update().where(clause).values(**values)).rowcount == 1
            if won and event is not None:
                self._record_event(db, job.id, event, detail)
            return won

    def _wait(self, reason: str, delay: float) -> dict[str, Any]:
        return {"error": reason, "waits": jobs.c.waits + 1, "not_before": self._now + delay}

    def _end(
        self, job: Job, state: Literal["failed", "cancelled"], error: str,
        fence: sa.ColumnElement[bool] | None = None,
    ) -> bool:  # fmt: skip
        return self._change(
            _running(job) if fence is None else fence, job, state, error, state=state, error=error,
            lease=None, progress=None, finished=self._now, waits=0,
        )  # fmt: skip


def _running(job: Job) -> sa.ColumnElement[bool]:
    """The fence: still this attempt, still running."""
    return (jobs.c.id == job.id) & (jobs.c.attempt == job.attempt) & (jobs.c.state == "running")


def _publishing(job: Job) -> sa.ColumnElement[bool]:
    return (jobs.c.id == job.id) & (jobs.c.state == "publishing")
