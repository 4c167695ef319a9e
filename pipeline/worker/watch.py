"""The watch over one request: tells the parent of each step, times the stages, heeds a cancel."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from pipeline.channel import Channel
from pipeline.protocol import Cancel, Progress, Stage
from pipeline.worker import timeline
from pipeline.worker.errors import Cancelled
from pipeline.worker.fault import Fault

T = TypeVar("T")


class Watch:
    """Where a request stands. `settle` waits until the device has done what it was given."""

    def __init__(
        self,
        channel: Channel,
        stage: Stage,
        *,
        job: str = "",
        faults: Iterable[Fault] = (),
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self.stage: Stage = stage
        self.seconds: dict[str, float] = {}
        self._job = job
        self._channel = channel
        self._faults = tuple(faults)
        self._settle = settle
        self._done = self._of = 0
        self._since = timeline.now()

    def enter(self, stage: Stage, steps: int) -> None:
        """The next stage begins, of so many steps."""
        self.end()
        self.stage, self._done, self._of = stage, 0, steps
        self._tell()

    def step(self, done: int | None = None, *, preview: bytes | None = None) -> None:
        """One step, or `done` steps in all, are behind us. Raises Cancelled, ParentGone."""
        self._settle()
        self._done = self._done + 1 if done is None else done
        self._tell(preview)
        for fault in self._faults:
            fault.strike(self.stage)

    def end(self) -> None:
        """The present stage is over."""
        timeline.note(self.stage, self._job, self._since)
        now = timeline.now()
        spent = self.seconds.get(self.stage, 0.0) + now - self._since
        self.seconds[self.stage] = round(spent, 3)
        self._since = now

    def spoiled(self, values: T) -> T:
        """What a stage gave; something else where a test wants it so."""
        for fault in self._faults:
            values = fault.spoil(self.stage, values)
        return values

    def _tell(self, preview: bytes | None = None) -> None:
        self._channel.send(
            Progress(stage=self.stage, step=self._done, steps=self._of, preview=preview)
        )
        if not self._channel.waiting():
            return
        request = self._channel.receive()
        if not isinstance(request, Cancel):
            raise RuntimeError(f"{request.type} while another request is being served")
        raise Cancelled
