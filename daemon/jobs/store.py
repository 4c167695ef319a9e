"""The ledger: every job, its state, and what happened to it. The only durable memory of i2vd.

    queued -> running -> publishing -> done
       ^         |  (given back, tried again)
       +---------+--> failed | cancelled

One table, one claim statement, the same on SQLite and PostgreSQL. A claim carries a lease, an owner
and an attempt number; every later statement is fenced by that number, and its row count says who
won. Jobs whose owner is gone are put back by takeover.py. Methods block (some milliseconds); the
event loop calls them in a thread.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from daemon.fs.fingerprint import same_fingerprint
from daemon.jobs.claim_filter import ClaimFilter, pick
from daemon.jobs.database import Database
from daemon.jobs.job import IN_INBOX, OPEN, Drop, Job, State, Whereabouts, as_job
from daemon.jobs.schema import is_drained, jobs, meta, same_drop
from pipeline.request.spec import Spec
from pipeline.sidecar import Fallback

CANCELLED = "cancelled by the operator"


class JobStore:
    """The transitions of a job. Who only wants to know reads `JobQueries`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now = database.now
        self._new_job = jobs.insert().values(created=self._now).returning(jobs.c.id)
        self._note = database.note

    # --- intake: nothing -> queued | failed

    def without_job(self, inbox: str, fingerprints: Mapping[str, str]) -> list[str]:
        """The paths of those drops that have no job yet, in the same order; for some hundreds."""
        last = (
            sa.select(jobs.c.path, jobs.c.fingerprint, jobs.c.whereabouts)
            .where(jobs.c.inbox == inbox, jobs.c.path.in_(fingerprints))
            .order_by(jobs.c.drop)
        )
        with self._database.read() as db:
            rows = db.execute(last).all()
        there = {row.path: row.fingerprint if row.whereabouts in IN_INBOX else None for row in rows}
        return [
            path
            for path, told in fingerprints.items()
            if (known := there.get(path)) is None or not same_fingerprint(known, told)
        ]

    def enqueue(
        self,
        drop: Drop,
        specs: Sequence[Spec],
        *,
        needs: Sequence[int] = (),
        clip_name: str,
        rule: str | None,
        rules_digest: str,
        priority: int = 0,
        is_there: Callable[[], bool] = lambda: True,
    ) -> list[int]:
        """Queue one job for each Spec of a new drop; return their ids, none if they exist already.

        `needs`: the least memory of each in bytes (`MemoryEstimator.minimum`). `is_there`: whether
        the picture is still in the inbox as it was seen. The same content at the same path while
        its job is open is the same drop, touched. Other content replaces what still waits.
        """
        with self._database.write() as db:
            last = self._last(db, drop.inbox, drop.path)
            if _has_left(last, is_there):
                return []
            if last is not None and last.whereabouts in IN_INBOX:
                if same_fingerprint(last.fingerprint, drop.fingerprint):
                    return []
                if last.state in OPEN and last.sha256 == drop.sha256:
                    touched = jobs.update().where(same_drop(last))
                    db.execute(touched.values(fingerprint=drop.fingerprint))
                    return []
                self._replace(db, last)
            ids = []
            try:
                for variant, (spec, need) in enumerate(zip_longest(specs, needs), start=1):
                    values = self._row(drop, (last.drop if last else 0) + 1, variant, clip_name)
                    values |= {
                        "spec": spec.model_dump(mode="json"),
                        "preset": spec.preset,
                        "need": need,
                        "rule": rule,
                        "rules_digest": rules_digest,
                        "priority": priority,
                        "state": "queued",
                    }
                    ids.append(self._insert(db, values, "queued", f"rule {rule}"))
            except IntegrityError:  # another host saw the same drop first
                db.rollback()
                return []
            return ids

    def reject(
        self, drop: Drop, reason: str, is_there: Callable[[], bool] = lambda: True
    ) -> int | None:
        """Enter a picture that can never become a clip; None when it is entered already.

        `is_there` as for `admit`.
        """
        with self._database.write() as db:
            last = self._last(db, drop.inbox, drop.path)
            if _has_left(last, is_there):
                return None
            there = last is not None and last.whereabouts in IN_INBOX
            if there and same_fingerprint(last.fingerprint, drop.fingerprint):
                return None
            values = self._row(drop, (last.drop if last else 0) + 1, 1, "")
            values |= {"state": "failed", "error": reason}
            try:
                job = self._insert(db, values, "rejected", reason)
            except IntegrityError:  # another host saw the same drop first
                db.rollback()
                return None
            db.execute(jobs.update().where(jobs.c.id == job).values(finished=self._now))
            return job

    def _row(self, drop: Drop, number: int, variant: int, clip_name: str) -> dict[str, Any]:
        numbers = {"drop": number, "variant": variant}
        return {**drop.model_dump(), **numbers, "clip_name": clip_name}

    def _insert(self, db: sa.Connection, values: dict[str, Any], event: str, detail: str) -> int:
        job = db.execute(self._new_job, values).scalar_one()
        self._note(db, job, event, detail)
        return int(job)

    def _last(self, db: sa.Connection, inbox: str, path: str) -> Any:
        return db.execute(
            sa.select(jobs)
            .where(jobs.c.inbox == inbox, jobs.c.path == path)
            .order_by(jobs.c.drop.desc(), jobs.c.variant)
            .limit(1)
        ).first()

    def _replace(self, db: sa.Connection, last: Any) -> None:
        """The old picture is not there any more: what waits for it is cancelled."""
        db.execute(jobs.update().where(same_drop(last)).values(whereabouts="gone"))
        waiting = same_drop(last) & (jobs.c.state == "queued")
        gone = db.execute(
            jobs.update()
            .where(waiting)
            .values(state="cancelled", error="replaced by a newer picture", finished=self._now)
            .returning(jobs.c.id)
        )
        for job in gone.scalars().all():
            self._note(db, job, "cancelled", "replaced by a newer picture")

    # --- dispatch: queued -> running -> queued | publishing | failed | cancelled

    def claim(
        self,
        owner: str,
        lease: float,
        without: Collection[str] = (),
        among: Collection[str] | None = None,
        claim_filter: ClaimFilter | None = None,
    ) -> Job | None:
        """Take the next job: highest priority first, then first come first served.

        None when paused, when the owner is drained, or when nothing is due. `without`: inboxes
        whose jobs have to wait; `among`: the only ones that the owner sees; `fit`: of the device.
        """
        due = self._is_due() & jobs.c.inbox.not_in(without)
        if among is not None:
            due &= jobs.c.inbox.in_(among)
        with self._database.write() as db:
            picked = None if self._is_drained(db, owner) else pick(db, due, claim_filter)
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
                    error=None,
                )
                .returning(jobs)
            ).first()
            if row is None:
                return None
            self._note(db, row.id, "running", f"attempt {row.attempt} on {owner}")
            return as_job(row)

    def _is_drained(self, db: sa.Connection, owner: str) -> bool:
        paused = sa.exists().where(meta.c.key == "paused")
        return bool(db.scalar(sa.select(paused | is_drained(owner))))

    def _is_due(self) -> sa.ColumnElement[bool]:
        """Also what was tried in the future: the clock was set back, by who knows how much."""
        return (jobs.c.due <= self._now) | (jobs.c.started > self._now)

    def renew(
        self, job: Job, lease: float, progress: dict[str, Any] | None
    ) -> Literal["ok", "cancel", "lost"]:
        """Heartbeat of a running attempt."""
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
        """Remember the rung that the attempt goes on with, and all steps down that led to it."""
        last = fallbacks[-1]
        tried = f"{last.tried.width}x{last.tried.height}, {last.tried.frames} frames"
        detail = f"out of memory in {last.stage} at {tried}, {last.tried.mode}"
        told = [fallback.model_dump(mode="json") for fallback in fallbacks]
        return self._change(_running(job), job, "stepped down", detail, rung=rung, fallbacks=told)

    def release(self, job: Job, reason: str) -> bool:
        """`running -> queued`, without using up a try."""
        return self._change(
            _running(job), job, "given back", reason, state="queued", owner=None, lease=None,
            progress=None,
        )  # fmt: skip

    def retry_later(self, job: Job, error: str, delay: float) -> bool:
        """`running -> queued` after a failed try, due in `delay` seconds."""
        return self._change(
            _running(job), job, "will be tried again", error, state="queued", owner=None,
            lease=None, progress=None, error=error, failures=jobs.c.failures + 1,
            due=self._now + delay,
        )  # fmt: skip

    def fail(self, job: Job, error: str) -> bool:
        """`running -> failed`, for good."""
        return self._end(_running(job), job, "failed", error)

    def cancelled(self, job: Job, reason: str) -> bool:
        """`running -> cancelled`."""
        return self._end(_running(job), job, "cancelled", reason)

    # --- publication: running -> publishing -> done

    def begin_publication(self, job: Job, result: dict[str, Any], lease: float = 0.0) -> bool:
        """The fence: from here on the clip is carried on, never undone.

        After `lease` seconds another host may carry it on.
        """
        return self._change(
            _running(job), job, "publishing", "", state="publishing", lease=self._now + lease,
            progress=None, result=result,
        )  # fmt: skip

    def block_publication(self, job: Job, reason: str) -> bool:
        """Remember why the clip cannot get to its name for now: still `publishing`."""
        return self._change(_publishing(job), job, "held up", reason, error=reason)

    def done(self, job: Job, result: dict[str, Any]) -> bool:
        """`publishing -> done`: clip and sidecar stand in the outbox, fsynced."""
        return self._change(
            _publishing(job), job, "done", str(result.get("clip", "")), state="done",
            finished=self._now, error=None, result=result,
        )  # fmt: skip

    # --- the picture, once its jobs are over

    def moved(self, job: Job, whereabouts: Whereabouts, path: str | None = None) -> None:
        """Remember where the picture of this drop is now; "inbox" with a path: where it will go."""
        with self._database.write() as db:
            db.execute(
                jobs.update()
                .where(same_drop(job))
                .values(whereabouts=whereabouts, whereabouts_path=path)
            )

    # --- the operator

    def cancel(self, job_id: int) -> bool:
        """Cancel a waiting job now, a running one at its next step. False when it is over."""
        with self._database.write() as db:
            state = db.execute(
                jobs.update()
                .where(jobs.c.id == job_id, jobs.c.state.in_(["queued", "running"]))
                .values(
                    cancel=True,
                    error=sa.case((jobs.c.state == "queued", CANCELLED), else_=jobs.c.error),
                    finished=sa.case((jobs.c.state == "queued", self._now), else_=None),
                    state=sa.case((jobs.c.state == "queued", "cancelled"), else_=jobs.c.state),
                )
                .returning(jobs.c.state)
            ).scalar()
            if state is not None:
                self._note(db, job_id, "cancelled" if state == "cancelled" else "cancel asked")
            return state is not None

    def retry(self, job_id: int, restore: Callable[[Job], str | None]) -> bool:
        """Put a failed or cancelled job back into the queue, all its tries restored.

        `bring_back` returns the picture to the inbox, within the transaction: nobody sees one
        half. It gives the picture's fingerprint there. False when there is no such job, or no
        picture.
        """
        with self._database.write() as db:
            row = db.execute(
                sa.select(jobs).where(
                    jobs.c.id == job_id,
                    jobs.c.state.in_(["failed", "cancelled"]),
                    jobs.c.spec.is_not(None),
                )
            ).first()
            fingerprint = restore(as_job(row)) if row else None
            if row is None or fingerprint is None:
                return False
            back = {"whereabouts": "inbox", "whereabouts_path": None, "fingerprint": fingerprint}
            db.execute(jobs.update().where(same_drop(row)).values(back))
            fresh = {"failures": 0, "rung": 0, "fallbacks": [], "cancel": False, "due": 0}
            over = {"state": "queued", "error": None, "finished": None}
            db.execute(jobs.update().where(jobs.c.id == job_id).values(fresh | over))
            self._note(db, job_id, "queued", "retried by the operator")
            return True

    def prioritise(self, job_id: int, priority: int) -> bool:
        """Make a waiting job sooner or later. False when it does not wait."""
        waiting = (jobs.c.id == job_id) & (jobs.c.state == "queued")
        return self._change(waiting, job_id, "priority", str(priority), priority=priority)

    def pause(self, paused: bool) -> None:
        """Stop or resume claiming; running attempts go on. Survives restarts."""
        with self._database.write() as db:
            db.execute(meta.delete().where(meta.c.key == "paused"))
            if paused:
                db.execute(meta.insert().values(key="paused", value="yes"))

    def paused(self) -> bool:
        """Whether claiming is paused."""
        with self._database.read() as db:
            return db.scalar(sa.select(meta.c.value).where(meta.c.key == "paused")) is not None

    # --- statements

    def _change(
        self, clause: sa.ColumnElement[bool], job: Job | int, event: str, detail: str, **values: Any
    ) -> bool:
        with self._database.write() as db:
            won = db.execute(jobs.update().where(clause).values(**values)).rowcount == 1
            if won:
                self._note(db, job if isinstance(job, int) else job.id, event, detail)
            return won

    def _end(self, clause: sa.ColumnElement[bool], job: Job, state: State, error: str) -> bool:
        return self._change(
            clause, job, state, error, state=state, error=error, lease=None, progress=None,
            finished=self._now,
        )  # fmt: skip


def _has_left(last: Any, is_there: Callable[[], bool]) -> bool:
    """Whether what was seen is the last drop, which another host has made and moved since.

    The ledger knows of a move only after it: what lies there then was dropped again.
    """
    return last is not None and last.whereabouts not in IN_INBOX and not is_there()


def _running(job: Job) -> sa.ColumnElement[bool]:
    """The fence: still this attempt, still running."""
    return (jobs.c.id == job.id) & (jobs.c.attempt == job.attempt) & (jobs.c.state == "running")


def _publishing(job: Job) -> sa.ColumnElement[bool]:
    return (jobs.c.id == job.id) & (jobs.c.state == "publishing")
