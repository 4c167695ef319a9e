"""Running job: a job that a slot is running, and the progress of its attempt."""

import time
from dataclasses import dataclass
from typing import Any

from daemon.jobs.job import Job
from pipeline.children.protocol import Progress
from pipeline.request.sampling_plan import sampling_plan

_NEARLY_DONE_SECONDS = 5.0
"""Remaining seconds at which the next job is claimed: enough to prepare its picture, and few enough
that a job whose priority rises is not overtaken for long."""


@dataclass
class RunningJob:
    """Created by slot.py, updated by attempt.py, read by the API and the status line."""

    job: Job
    progress: Progress | None = None
    preview: bytes | None = None
    """Latest preview, JPEG; see Progress."""
    preview_version: int = 0
    """Incremented with each preview, so that a reader can detect a new one."""
    _stage_started: float = 0.0

    @property
    def runs_exclusively(self) -> bool:
        """Return True after a failed attempt: no other job may share the worker.

        A job that failed before may be one that kills workers. Run exclusively, it ends no other
        job, and no other job is blamed for the failure.
        """
        return self.job.failures > 0

    def update(self, progress: Progress) -> int:
        """Store the progress and return the number of denoising steps since the last update."""
        last, self.progress = self.progress, progress
        if progress.preview is not None:
            self.preview = progress.preview
            self.preview_version += 1
        if last is None or last.stage != progress.stage:
            self._stage_started = time.monotonic()
            return progress.step if progress.stage == "denoise" else 0
        if progress.stage != "denoise":
            return 0
        return max(0, progress.step - last.step)  # the next rung starts again at its first step

    def nearly_done(self) -> bool:
        """Return True if the job needs the device for a few more seconds at most."""
        if self.progress is None:
            return False
        if self.progress.stage in ("decode", "encode_video"):
            return True
        remaining = self.eta()
        return remaining is not None and remaining <= _NEARLY_DONE_SECONDS

    def eta(self) -> float | None:
        """Estimate the remaining denoising time in seconds; None before the first step."""
        progress = self.progress
        if progress is None or progress.stage != "denoise" or progress.step == 0:
            return None
        elapsed = time.monotonic() - self._stage_started
        remaining = progress.steps / progress.step - 1
        if self.job.spec:
            plan = sampling_plan(self.job.spec)
            # After a quality rejection the clip is generated again without skipping steps,
            # so the plan no longer applies.
            if plan.steps == progress.steps:
                remaining = plan.remaining_ratio(progress.step)
        return round(elapsed * remaining, 1)

    def progress_dict(self) -> dict[str, Any] | None:
        """Return stage, step, steps and ETA as stored in the queue and shown by the API."""
        progress = self.progress
        if progress is None:
            return None
        return {
            "stage": progress.stage,
            "step": progress.step,
            "steps": progress.steps,
            "eta": self.eta(),
        }
