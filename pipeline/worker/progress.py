"""Progress of one request: reports each step to the parent, times the stages, polls for cancel."""

from collections.abc import Callable, Iterable
from threading import Event
from typing import TypeVar

from pipeline.children.channel import Channel
from pipeline.children.protocol import Progress, Stage
from pipeline.worker import trace
from pipeline.worker.errors import Cancelled
from pipeline.worker.faults import Fault

T = TypeVar("T")


def _do_nothing() -> None:
    pass


class ProgressReporter:
    """Stage, step and timing of a request.

    `synchronize` waits for the device to finish its queued work. `poll_commands` serves requests of
    the parent between steps. `cancelled` may be set from any thread.
    """

    def __init__(
        self,
        channel: Channel,
        stage: Stage,
        *,
        job: str = "",
        faults: Iterable[Fault] = (),
        synchronize: Callable[[], None] = _do_nothing,
        poll_commands: Callable[[], None] = _do_nothing,
    ) -> None:
        self.stage: Stage = stage
        self.seconds: dict[str, float] = {}
        self.cancelled = Event()
        self._channel = channel
        self._job = job
        self._faults = tuple(faults)
        self._synchronize = synchronize
        self._poll_commands = poll_commands
        self._done = self._steps = 0
        self._since = self._step_since = trace.now()

    def enter(self, stage: Stage, steps: int) -> None:
        """End the current stage and begin the next, with a number of steps."""
        self.end()
        self.stage, self._done, self._steps = stage, 0, steps
        self._step_since = self._since
        self._report()

    def step(self, done: int | None = None, *, preview: bytes | None = None) -> None:
        """Report one more step, or `done` steps in all. Raises Cancelled and ParentGone."""
        self._synchronize()
        if self.stage == "denoise":
            trace.note("step", self._job, self._step_since)
            self._step_since = trace.now()
        self._done = self._done + 1 if done is None else done
        self._report(preview)
        for fault in self._faults:
            fault.inject(self.stage)

    def end(self) -> None:
        """End the current stage and add its time to `seconds`."""
        trace.note(self.stage, self._job, self._since)
        now = trace.now()
        spent = self.seconds.get(self.stage, 0.0) + now - self._since
        self.seconds[self.stage] = round(spent, 3)
        self._since = now

    def leave_device(self) -> None:
        """Prepare for another thread, which neither uses the device nor reads the channel."""
        self.end()
        self._synchronize = self._poll_commands = _do_nothing

    def inject_fault(self, values: T) -> T:
        """Return the output of a stage, corrupted if a fault is injected."""
        for fault in self._faults:
            values = fault.corrupt(self.stage, values)
        return values

    def _report(self, preview: bytes | None = None) -> None:
        self._channel.send(
            Progress(
                job=self._job,
                stage=self.stage,
                step=self._done,
                steps=self._steps,
                preview=preview,
            )
        )
        self._poll_commands()
        if self.cancelled.is_set():
            raise Cancelled
