"""The watch over one request: tells the parent of each step, times the stages, heeds a cancel."""

from collections.abc import Callable, Iterable
from threading import Event
from typing import TypeVar

from pipeline.children.channel import Channel
from pipeline.children.protocol import Progress, Stage
from pipeline.worker import trace
from pipeline.worker.errors import Cancelled
from pipeline.worker.faults import Fault

T = TypeVar("T")


def _nothing() -> None:
    pass


class ProgressReporter:
    """Where a request stands.

    `settle` waits until the device has done what it was given; `heed` hears what the parent has to
    say meanwhile. `cancelled` may be set from anywhere.
    """

    def __init__(
        self,
        channel: Channel,
        stage: Stage,
        *,
        job: str = "",
        faults: Iterable[Fault] = (),
        settle: Callable[[], None] = _nothing,
        poll_commands: Callable[[], None] = _nothing,
    ) -> None:
        self.stage: Stage = stage
        self.seconds: dict[str, float] = {}
        self.cancelled = Event()
        self._channel = channel
        self._job = job
        self._faults = tuple(faults)
        self._settle = settle
        self._poll_commands = poll_commands
        self._done = self._of = 0
        self._since = self._step_since = trace.now()

    def enter(self, stage: Stage, steps: int) -> None:
        """The next stage begins, of so many steps."""
        self.end()
        self.stage, self._done, self._of = stage, 0, steps
        self._step_since = self._since
        self._tell()

    def step(self, done: int | None = None, *, preview: bytes | None = None) -> None:
        """One step, or `done` steps in all, are behind us. Raises Cancelled, ParentGone."""
        self._settle()
        if self.stage == "denoise":
            trace.note("step", self._job, self._step_since)
            self._step_since = trace.now()
        self._done = self._done + 1 if done is None else done
        self._tell(preview)
        for fault in self._faults:
            fault.inject(self.stage)

    def end(self) -> None:
        """The present stage is over."""
        trace.note(self.stage, self._job, self._since)
        now = trace.now()
        spent = self.seconds.get(self.stage, 0.0) + now - self._since
        self.seconds[self.stage] = round(spent, 3)
        self._since = now

    def leave_device(self) -> None:
        """What is left to do is done in another thread, which touches no device and hears none."""
        self.end()
        self._settle = self._poll_commands = _nothing

    def inject_fault(self, values: T) -> T:
        """What a stage gave; something else where a test wants it so."""
        for fault in self._faults:
            values = fault.spoil_values(self.stage, values)
        return values

    def _tell(self, preview: bytes | None = None) -> None:
        self._channel.send(
            Progress(
                job=self._job,
                stage=self.stage,
                step=self._done,
                steps=self._of,
                preview=preview,
            )
        )
        self._poll_commands()
        if self.cancelled.is_set():
            raise Cancelled
