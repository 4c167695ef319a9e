"""A slot: one device, the maker on it, and the jobs that it has in hand."""

import asyncio
import time
from dataclasses import dataclass, field

from daemon.dispatch.running_job import RunningJob
from daemon.jobs.job import Job
from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.generation import Clip, GenerationFailure
from pipeline.children.generator import ClipGenerator
from pipeline.children.protocol import Progress, Rejected

_MIN_DELAY_SECONDS = 0.5
_MAX_DELAY_SECONDS = 300.0


@dataclass
class Slot:
    """Changed by dispatch.py and attempt.py, read by the API and the status line.

    `hands`, oldest first: one is on the device, those before it are being written or published, and
    one behind it may be getting its picture ready.
    """

    device: str
    generator: ClipGenerator
    memory: int | None = None
    """Bytes of it that clips may have; None where they are not counted."""
    running: list[RunningJob] = field(default_factory=list)
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be something to do for the slot."""
    problem: str | None = None
    """Why no job can be made at all, while that is so."""
    last_turn: float = field(default_factory=time.monotonic)
    """When the slot's loop, or the heartbeat of an attempt, turned last."""
    consecutive_failures: int = 0
    """Workers lost or not to be had, one after the other."""
    not_before: float = 0.0
    """When the next job may be claimed."""
    _last_loss: ChildFailure | None = None
    _free_since: float = field(default_factory=time.monotonic)

    @property
    def current(self) -> RunningJob | None:
        """What the device is for now: the first that is not only being written."""
        for hand in self.running:
            if hand.progress is None or hand.progress.stage != "write":
                return hand
        return self.running[-1] if self.running else None

    def start(self, job: Job) -> RunningJob:
        """Have a job in hand."""
        hand = RunningJob(job)
        self.running.append(hand)
        return hand

    def finish(self, hand: RunningJob) -> None:
        """Have it in hand no more."""
        self.running.remove(hand)
        self._free_since = time.monotonic()
        self.wakeup.set()

    def wants_next(self) -> bool:
        """Whether a job should be claimed now: the device is free, or will be in a moment."""
        if self.consecutive_failures or any(hand.runs_exclusively for hand in self.running):
            return not self.running
        return all(hand.nearly_done() for hand in self.running)

    def idle_seconds(self) -> float:
        """Seconds without a job."""
        return 0.0 if self.running else time.monotonic() - self._free_since

    def record_outcome(self, outcome: Clip | GenerationFailure | Rejected) -> None:
        """Whether an attempt cost a worker; one that answered for itself ends the series."""
        match outcome:
            case GenerationFailure(kind="lost" | "load", child_failure=loss):
                if loss is not None and loss is self._last_loss:  # two clips were in that worker
                    return
                self._last_loss = loss
                self.consecutive_failures += 1
                if self.consecutive_failures > 1:
                    self.problem = f"{outcome.reason}; {self.consecutive_failures} workers in a row"
            case Clip() | GenerationFailure(kind="failed" | "spoilt" | "memory"):
                self.consecutive_failures = 0

    def restart_delay(self, backoff: float) -> float:
        """Seconds to wait before the next worker is tried, doubled with each one lost."""
        if not self.consecutive_failures:
            return 0.0
        return min(
            _MAX_DELAY_SECONDS,
            max(backoff, _MIN_DELAY_SECONDS) * 2.0 ** min(self.consecutive_failures - 1, 30),
        )

    def update(self, hand: RunningJob, progress: Progress) -> int:
        """Take news of an attempt in; how many denoising steps were done since the last."""
        if progress.stage == "denoise":
            self.problem = None
        done = hand.update(progress)
        self.wakeup.set()
        return done
