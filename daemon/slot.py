"""A slot: one device, the maker on it, and what it is doing now."""

import time
from dataclasses import dataclass, field
from typing import Any

from daemon.job import Job
from pipeline.maker import Clip, Maker, NoClip
from pipeline.protocol import Progress, Rejected

_SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 300.0


@dataclass
class Slot:
    """Changed by dispatch.py and attempt.py, read by the API and the status line."""

    device: str
    maker: Maker
    job: Job | None = None
    progress: Progress | None = None
    preview: bytes | None = None
    """How the job's clip looked when the worker last showed it: a JPEG, see Progress."""
    previews: int = 0
    """How often that was, so that who has seen one knows of the next."""
    trouble: str | None = None
    """Why no job can be made at all, while that is so."""
    alive_at: float = field(default_factory=time.monotonic)
    """When the slot's loop, or the heartbeat of its attempt, turned last."""
    losses: int = 0
    """Workers lost or not to be had, one after the other."""
    _stage_began: float = 0.0
    _free_since: float = field(default_factory=time.monotonic)

    def take(self, job: Job | None) -> None:
        """Begin with a job, or be free again."""
        self.job, self.progress, self.preview, self.previews = job, None, None, 0
        self._free_since = time.monotonic()

    def idle(self) -> float:
        """Seconds without a job."""
        return 0.0 if self.job else time.monotonic() - self._free_since

    def count(self, outcome: Clip | NoClip | Rejected) -> None:
        """Whether an attempt cost a worker; one that answered for itself ends the series."""
        match outcome:
            case NoClip(kind="lost" | "load"):
                self.losses += 1
                if self.losses > 1:
                    self.trouble = f"{outcome.reason}; {self.losses} workers in a row"
            case Clip() | NoClip(kind="failed" | "spoilt" | "memory"):
                self.losses = 0

    def pause(self, backoff: float) -> float:
        """Seconds to wait before the next worker is tried, doubled with each one lost."""
        if not self.losses:
            return 0.0
        return min(_LONGEST_PAUSE, max(backoff, _SHORTEST_PAUSE) * 2.0 ** min(self.losses - 1, 30))

    def note(self, progress: Progress) -> int:
        """Take news of the attempt in; how many denoising steps were done since the last."""
        last, self.progress = self.progress, progress
        if progress.preview is not None:
            self.preview = progress.preview
            self.previews += 1
        if progress.stage == "denoise":
            self.trouble = None
        if last is None or last.stage != progress.stage:
            self._stage_began = time.monotonic()
            return progress.step if progress.stage == "denoise" else 0
        if progress.stage != "denoise":
            return 0
        return max(0, progress.step - last.step)  # the next rung begins again at its first step

    def told(self) -> dict[str, Any] | None:
        """Stage, step, steps and the stage's remaining seconds, as the ledger and the API say."""
        now = self.progress
        if now is None:
            return None
        eta = None
        if now.stage == "denoise" and now.step > 0:
            spent = time.monotonic() - self._stage_began
            eta = round(spent / now.step * (now.steps - now.step), 1)
        return {"stage": now.stage, "step": now.step, "steps": now.steps, "eta": eta}
