"""A hand: one job that a slot has in hand, and how far its attempt is."""

import time
from dataclasses import dataclass
from typing import Any

from daemon.jobs.job import Job
from pipeline.children.protocol import Progress
from pipeline.request.sampling_plan import sampling_plan

_NEARLY_DONE_SECONDS = 5.0
"""Seconds for which a device is still busy when the next picture is looked for: enough to prepare
it, and few enough that a job which gets more urgent is not passed over for long."""


@dataclass
class RunningJob:
    """Made by dispatch.py, changed by attempt.py, read by the API and the status line."""

    job: Job
    progress: Progress | None = None
    preview: bytes | None = None
    """How the clip looked when the worker last showed it: a JPEG, see Progress."""
    preview_version: int = 0
    """How often that was, so that who has seen one knows of the next."""
    _stage_started: float = 0.0

    @property
    def runs_exclusively(self) -> bool:
        """Whether nothing else may be in the worker meanwhile.

        A job that failed before may be one that kills workers: so it takes no other with it, and
        none is blamed in its place.
        """
        return self.job.failures > 0

    def update(self, progress: Progress) -> int:
        """Take news of the attempt in; how many denoising steps were done since the last."""
        last, self.progress = self.progress, progress
        if progress.preview is not None:
            self.preview = progress.preview
            self.preview_version += 1
        if last is None or last.stage != progress.stage:
            self._stage_started = time.monotonic()
            return progress.step if progress.stage == "denoise" else 0
        if progress.stage != "denoise":
            return 0
        return max(0, progress.step - last.step)  # the next rung begins again at its first step

    def nearly_done(self) -> bool:
        """Whether it needs the device for a few seconds at most."""
        if self.progress is None:
            return False
        if self.progress.stage in ("decode", "write"):
            return True
        left = self.eta()
        return left is not None and left <= _NEARLY_DONE_SECONDS

    def eta(self) -> float | None:
        """Seconds that denoising will still take, once a step is done."""
        now = self.progress
        if now is None or now.stage != "denoise" or now.step == 0:
            return None
        spent = time.monotonic() - self._stage_started
        left = now.steps / now.step - 1
        spec = self.job.spec
        if (
            spec and (way := sampling_plan(spec)).steps == now.steps
        ):  # else it is made again, exactly
            left = way.remaining_ratio(now.step)
        return round(spent * left, 1)

    def progress_dict(self) -> dict[str, Any] | None:
        """Stage, step, steps and the stage's remaining seconds, as the ledger and the API say."""
        now = self.progress
        if now is None:
            return None
        return {"stage": now.stage, "step": now.step, "steps": now.steps, "eta": self.eta()}
