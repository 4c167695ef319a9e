"""The pace: how long clips take here, learned from those that were made.

A clip's work is pixels x frames x predictions, as its speed has them; seconds for a unit of it
differ from preset to preset, because loading, decoding and writing have their share.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from statistics import median

from daemon.history import History, Shape, Wanted
from pipeline.spec import Spec
from pipeline.speed import SAVINGS, course_with

_REMEMBERED = 50
"""Clips of a preset that count."""
_LEAST = 0.001


def work(spec: Spec) -> float:
    """Units of work of a clip."""
    return _work(Shape.of(spec))


def queued_work(history: History) -> dict[str, float]:
    """Units of work that wait, by preset."""
    found: defaultdict[str, float] = defaultdict(float)
    for shape, count in history.queued():
        found[shape.preset] += count * _work(shape)
    return dict(found)


def _work(shape: Shape) -> float:
    way = course_with(SAVINGS[shape.speed], steps=shape.steps, guided=shape.guided)
    return shape.width * shape.height * shape.frames * way.work


def rates(history: History) -> Iterator[tuple[Spec, str, float]]:
    """Spec, mode, and seconds for a unit of work of the newest clips, oldest first.

    Those that were made smaller than asked do not count.
    """
    for job in reversed(history.newest(Wanted(state="done"), limit=500)):
        if job.spec and job.result and not job.result["degraded"]:
            seconds = sum(job.result["seconds"].values())
            yield job.spec, job.result["mode"], seconds / work(job.spec)


class Pace:
    """Seconds for a unit of work, by preset: the median of the newest clips."""

    def __init__(self) -> None:
        self._rates: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._learned: deque[float] = deque(maxlen=_REMEMBERED)

    @classmethod
    def of(cls, history: History) -> "Pace":
        """What the newest clips in the ledger tell."""
        pace = cls()
        for spec, _, rate in rates(history):
            pace._rates[spec.preset].append(rate)
        return pace

    def learn(self, spec: Spec, seconds: float) -> None:
        """A clip took so long, from the prepared picture to the MP4."""
        self._rates[spec.preset].append(seconds / work(spec))
        self._learned.append(work(spec) / max(seconds, _LEAST))

    def speed(self) -> float | None:
        """Units of work a second of one device, in the clips that this daemon made itself."""
        return median(self._learned) if self._learned else None

    def seconds(self, spec: Spec) -> float | None:
        """What a clip will take; None before there was one of its preset."""
        rates = self._rates.get(spec.preset)
        return median(rates) * work(spec) if rates else None

    def until_done(
        self, queued: Mapping[str, float], running: Iterable[tuple[Spec, float]], slots: int
    ) -> float | None:
        """Seconds until nothing waits any more; None when too little is known.

        `queued` is the work that waits, by preset; `running` are specs and the seconds spent on
        them. A preset that was never made here is taken for as fast as the others.
        """
        every = [rate for rates in self._rates.values() for rate in rates]
        left = 0.0
        for preset, amount in queued.items():
            if not every:
                return None
            left += median(self._rates.get(preset) or every) * amount
        for spec, spent in running:
            if not every:
                return None
            left += max(0.0, median(self._rates.get(spec.preset) or every) * work(spec) - spent)
        return left / max(1, slots)
