"""The pace: how long clips take here, learned from those that were made.

A clip's work is pixels x frames x predictions, as its speed has them; seconds for a unit of it
differ from preset to preset, from mode to mode and from speed to speed, because loading, decoding
and writing have their share.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from statistics import median

from daemon.jobs.queries import JobFilter, JobQueries, Shape
from pipeline.request.presets import Speed
from pipeline.request.sampling_plan import SAVINGS, sampling_plan_with
from pipeline.request.spec import Spec

_WINDOW_CLIPS = 50
"""Clips of a preset, or of a preset at a speed, that count."""
_MIN_SECONDS = 0.001

Queued = Mapping[tuple[str, Speed], float]
"""Units of work that wait, by preset and speed."""

_Scope = tuple[str | None, str | None, Speed | None]
"""Preset, mode and speed; None: any."""
_ALL: _Scope = (None, None, None)


def work(spec: Spec) -> float:
    """Units of work of a clip."""
    return _work(Shape.of(spec))


def queued_work(history: JobQueries) -> Queued:
    """The work that waits."""
    found: defaultdict[tuple[str, Speed], float] = defaultdict(float)
    for shape, count in history.queued():
        found[shape.preset, shape.speed] += count * _work(shape)
    return dict(found)


def _work(shape: Shape) -> float:
    way = sampling_plan_with(SAVINGS[shape.speed], steps=shape.steps, guided=shape.guided)
    return shape.width * shape.height * shape.frames * way.work


def rates(history: JobQueries) -> Iterator[tuple[Spec, str, float]]:
    """Spec, mode, and seconds for a unit of work of the newest clips, oldest first.

    The Spec has the speed at which the clip was made. Those that were made smaller than asked do
    not count.
    """
    for job in reversed(history.newest(JobFilter(state="done"), limit=500)):
        if job.spec and job.result and not job.result["degraded"]:
            seconds = sum(job.result["seconds"].values())
            made = job.spec.model_copy(update={"speed": job.result["speed"]})
            yield made, job.result["mode"], seconds / work(made)


class DurationEstimator:
    """Seconds for a unit of work: the median of the newest clips of a preset and speed.

    Where there is none: of the preset at any speed, then of all.
    """

    def __init__(self) -> None:
        self._rates: defaultdict[_Scope, deque[float]]
        self._rates = defaultdict(lambda: deque(maxlen=_WINDOW_CLIPS))
        self._throughputs: deque[float] = deque(maxlen=_WINDOW_CLIPS)

    @classmethod
    def from_history(cls, history: JobQueries) -> "DurationEstimator":
        """What the newest clips in the ledger tell."""
        pace = cls()
        for made, mode, rate in rates(history):
            pace._add_rate(made, mode, rate)
        return pace

    def record(self, made: Spec, mode: str, seconds: float) -> None:
        """A clip took so long in a mode, from the prepared picture to the MP4.

        `made` has the speed at which it was made, which may be another than was asked.
        """
        self._add_rate(made, mode, seconds / work(made))
        self._throughputs.append(work(made) / max(seconds, _MIN_SECONDS))

    def throughput(self) -> float | None:
        """Units of work a second of one device, in the clips that this daemon made itself."""
        return median(self._throughputs) if self._throughputs else None

    def seconds(self, spec: Spec, mode: str | None = None) -> float | None:
        """What a clip will take, in whatever mode or in one; None before there was such a one."""
        rate = self._rate((spec.preset, mode, spec.speed), (spec.preset, mode, None))
        return None if rate is None else rate * work(spec)

    def queue_eta(
        self, queued: Queued, running: Iterable[tuple[Spec, float]], slots: int
    ) -> float | None:
        """Seconds until nothing waits any more; None when too little is known.

        `running` are specs and the seconds spent on them. A preset that was never made here is
        taken for as fast as the others.
        """
        todo = [(preset, speed, amount, 0.0) for (preset, speed), amount in queued.items()]
        todo += [(spec.preset, spec.speed, work(spec), spent) for spec, spent in running]
        left = 0.0
        for preset, speed, amount, spent in todo:
            rate = self._rate((preset, None, speed), (preset, None, None), _ALL)
            if rate is None:
                return None
            left += max(0.0, rate * amount - spent)
        return left / max(1, slots)

    def _add_rate(self, made: Spec, mode: str, rate: float) -> None:
        self._rates[_ALL].append(rate)
        for told, speed in product((None, mode), (None, made.speed)):
            self._rates[made.preset, told, speed].append(rate)

    def _rate(self, *scopes: _Scope) -> float | None:
        known = (self._rates[scope] for scope in scopes if scope in self._rates)
        return next(map(median, known), None)
