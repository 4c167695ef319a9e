"""Slot: one device, its clip generator, and the jobs that it runs."""

import asyncio
import time
from dataclasses import dataclass, field

from daemon.dispatch.running_job import RunningJob
from daemon.jobs.job import Job
from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.generation import Clip, GenerationFailure
from pipeline.children.generator import ClipGenerator
from pipeline.children.protocol import Progress, Rejected, Unavailable

_MIN_DELAY_SECONDS = 0.5
_MAX_DELAY_SECONDS = 300.0


@dataclass
class Slot:
    """Changed by dispatcher.py and attempt.py, read by the API and the status line.

    `running` is ordered, oldest first. One job uses the device, those before it are being encoded
    or published, and one after it may be preparing its picture.
    """

    device: str
    generator: ClipGenerator
    memory: int | None = None
    """Bytes of device memory that clips may use; None on devices without a memory count."""
    running: list[RunningJob] = field(default_factory=list)
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the slot may have something to do."""
    problem: str | None = None
    """The reason why the slot cannot run any job; None if it can."""
    awaits_model: bool = True
    """True until the model's files were found; no job is claimed before."""
    last_turn: float = field(default_factory=time.monotonic)
    """Monotonic time of the last iteration of the slot's loop or of an attempt's heartbeat."""
    consecutive_failures: int = 0
    """Number of workers in a row that exited or did not load."""
    not_before: float = 0.0
    """Monotonic time before which no job is claimed."""
    _suspects: set[int] = field(default_factory=set)
    """Jobs that have failed since the last clip, or the last trial that succeeded."""
    _distrusted: bool = False
    """True after a failed trial, until a clip or another trial succeeds."""
    _last_failure: ChildFailure | None = None
    _free_since: float = field(default_factory=time.monotonic)

    @property
    def current(self) -> RunningJob | None:
        """Return the job that uses the device: the first one that is not only being encoded."""
        for running_job in self.running:
            if running_job.progress is None or running_job.progress.stage != "encode_video":
                return running_job
        return self.running[-1] if self.running else None

    def start(self, job: Job) -> RunningJob:
        """Add a job to the running ones."""
        running_job = RunningJob(job)
        self.running.append(running_job)
        return running_job

    def finish(self, running_job: RunningJob) -> None:
        """Remove a job from the running ones and wake the slot."""
        self.running.remove(running_job)
        self._free_since = time.monotonic()
        self.wakeup.set()

    def wants_next(self) -> bool:
        """Return True if a job should be claimed now: the device is free, or will be soon."""
        if self.consecutive_failures or any(each.runs_exclusively for each in self.running):
            return not self.running
        return all(each.nearly_done() for each in self.running)

    def idle_seconds(self) -> float:
        """Return the seconds since the last job; 0 while one runs."""
        return 0.0 if self.running else time.monotonic() - self._free_since

    def is_suspect(self, job: int, failure: GenerationFailure) -> bool:
        """Count a failed job; return True if a second one failed in a row: maybe the worker's."""
        if failure.kind == "quality" or (failure.kind in ("failed", "lost") and failure.retry):
            self._suspects.add(job)
            return self._distrusted or len(self._suspects) > 1
        return False

    def trust(self) -> None:
        """Clear the suspicion: the worker has generated a clip."""
        self._suspects.clear()
        if self._distrusted:
            self._distrusted, self.problem = False, None

    def distrust(self, problem: str) -> None:
        """Keep the problem until a clip succeeds: this worker fails whatever it is given."""
        self._distrusted, self.problem = True, problem

    def record_outcome(self, outcome: Clip | GenerationFailure | Rejected | Unavailable) -> None:
        """Count a lost worker; an outcome that the worker reported itself ends the series."""
        match outcome:
            case GenerationFailure(kind="lost" | "load", child_failure=failure):
                if failure is not None and failure is self._last_failure:  # two clips, one worker
                    return
                self._last_failure = failure
                self.consecutive_failures += 1
                if self.consecutive_failures > 1 and not self._distrusted:
                    self.problem = f"{outcome.reason}; {self.consecutive_failures} workers in a row"
            case Clip() | GenerationFailure(kind="failed" | "quality" | "memory"):
                self.consecutive_failures = 0

    def restart_delay(self, backoff: float) -> float:
        """Return the seconds to wait before the next worker starts, doubled with each failure."""
        if not self.consecutive_failures:
            return 0.0
        return min(
            _MAX_DELAY_SECONDS,
            max(backoff, _MIN_DELAY_SECONDS) * 2.0 ** min(self.consecutive_failures - 1, 30),
        )

    def update(self, running_job: RunningJob, progress: Progress) -> int:
        """Store an attempt's progress and return the denoising steps since the last update."""
        if progress.stage == "denoise" and not self._distrusted:
            self.problem = None
        done = running_job.update(progress)
        self.wakeup.set()
        return done
