"""A slot: one device, the maker on it, and the jobs that it has in hand."""

import asyncio
import time
from dataclasses import dataclass, field

from daemon.dispatch.running_job import Hand
from daemon.jobs.job import Job
from pipeline.children.exit_reasons import Loss
from pipeline.children.generation import Clip, NoClip
from pipeline.children.generator import Maker
from pipeline.children.protocol import Progress, Rejected

_SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 300.0


@dataclass
class Slot:
    """Changed by dispatch.py and attempt.py, read by the API and the status line.

    `hands`, oldest first: one is on the device, those before it are being written or published, and
    one behind it may be getting its picture ready.
    """

    device: str
    maker: Maker
    memory: int | None = None
    """Bytes of it that clips may have; None where they are not counted."""
    hands: list[Hand] = field(default_factory=list)
    turned: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be something to do for the slot."""
    trouble: str | None = None
    """Why no job can be made at all, while that is so."""
    alive_at: float = field(default_factory=time.monotonic)
    """When the slot's loop, or the heartbeat of an attempt, turned last."""
    losses: int = 0
    """Workers lost or not to be had, one after the other."""
    not_before: float = 0.0
    """When the next job may be claimed."""
    _last_loss: Loss | None = None
    _free_since: float = field(default_factory=time.monotonic)

    @property
    def front(self) -> Hand | None:
        """What the device is for now: the first that is not only being written."""
        for hand in self.hands:
            if hand.progress is None or hand.progress.stage != "write":
                return hand
        return self.hands[-1] if self.hands else None

    def take(self, job: Job) -> Hand:
        """Have a job in hand."""
        hand = Hand(job)
        self.hands.append(hand)
        return hand

    def drop(self, hand: Hand) -> None:
        """Have it in hand no more."""
        self.hands.remove(hand)
        self._free_since = time.monotonic()
        self.turned.set()

    def wants_next(self) -> bool:
        """Whether a job should be claimed now: the device is free, or will be in a moment."""
        if self.losses or any(hand.alone for hand in self.hands):
            return not self.hands
        return all(hand.nearly_done() for hand in self.hands)

    def idle(self) -> float:
        """Seconds without a job."""
        return 0.0 if self.hands else time.monotonic() - self._free_since

    def count(self, outcome: Clip | NoClip | Rejected) -> None:
        """Whether an attempt cost a worker; one that answered for itself ends the series."""
        match outcome:
            case NoClip(kind="lost" | "load", loss=loss):
                if loss is not None and loss is self._last_loss:  # two clips were in that worker
                    return
                self._last_loss = loss
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

    def note(self, hand: Hand, progress: Progress) -> int:
        """Take news of an attempt in; how many denoising steps were done since the last."""
        if progress.stage == "denoise":
            self.trouble = None
        done = hand.note(progress)
        self.turned.set()
        return done
