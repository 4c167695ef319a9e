"""Duration estimates, learned from the clips that were generated here.

The work of a clip is pixels x frames x UNet predictions; a speed other than exact saves some
predictions. The seconds per unit of work depend on the preset, the memory mode and the speed,
because decoding and encoding have their share.
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
"""Size of the median filter: the newest clips in each scope."""
_MAX_CLIPS = 500
_MIN_SECONDS = 0.001
_MEASURED = {"degraded", "seconds", "speed", "mode"}
"""What the result of a job must have to be learned from."""

QueuedWork = Mapping[tuple[str, Speed], float]
"""Units of work of the queued jobs, by preset and speed."""

_Scope = tuple[str | None, str | None, Speed | None]
"""Preset, mode and speed; None: any."""
_ALL: _Scope = (None, None, None)


def work(spec: Spec) -> float:
    """Return the units of work of a clip."""
    return _shape_work(Shape.of(spec))


def queued_work(queries: JobQueries) -> QueuedWork:
    """Sum up the work of the queued jobs. Raises QueueUnavailable."""
    total: defaultdict[tuple[str, Speed], float] = defaultdict(float)
    for shape, count in queries.queued():
        total[shape.preset, shape.speed] += count * _shape_work(shape)
    return dict(total)


def _shape_work(shape: Shape) -> float:
    plan = sampling_plan_with(SAVINGS[shape.speed], steps=shape.steps, guided=shape.guided)
    return shape.width * shape.height * shape.frames * plan.work


def rates(queries: JobQueries) -> Iterator[tuple[Spec, str, float]]:
    """Yield spec, mode and seconds per unit of work of the newest clips, oldest first.

    The Spec has the speed at which the clip was generated. Clips smaller than requested are
    skipped. Raises QueueUnavailable.
    """
    for job in reversed(queries.newest(JobFilter(state="done"), limit=_MAX_CLIPS)):
        measured = job.result or {}
        if job.spec and measured.keys() >= _MEASURED and not measured["degraded"]:
            seconds = sum(measured["seconds"].values())
            applied = job.spec.model_copy(update={"speed": measured["speed"]})
            yield applied, measured["mode"], seconds / work(applied)


class DurationEstimator:
    """Seconds per unit of work: the median of the newest clips of a preset and speed.

    Fallbacks if there are none: the preset at any speed, then all clips.
    """

    def __init__(self) -> None:
        self._rates: defaultdict[_Scope, deque[float]]
        self._rates = defaultdict(lambda: deque(maxlen=_WINDOW_CLIPS))
        self._throughputs: deque[float] = deque(maxlen=_WINDOW_CLIPS)

    @classmethod
    def from_history(cls, queries: JobQueries) -> "DurationEstimator":
        """Learn from the newest clips in the queue. Raises QueueUnavailable."""
        estimator = cls()
        for spec, mode, rate in rates(queries):
            estimator._add_rate(spec, mode, rate)
        return estimator

    def record(self, spec: Spec, mode: str, seconds: float) -> None:
        """Record the duration of a clip, from the prepared picture to the MP4.

        `spec` has the speed at which the clip was generated, which may differ from the request.
        """
        self._add_rate(spec, mode, seconds / work(spec))
        self._throughputs.append(work(spec) / max(seconds, _MIN_SECONDS))

    def throughput(self) -> float | None:
        """Return one device's units of work per second, from the clips since the start."""
        return median(self._throughputs) if self._throughputs else None

    def seconds(self, spec: Spec, mode: str | None = None) -> float | None:
        """Estimate the duration of a clip, in one mode or in any; None before the first clip of
        its preset."""
        rate = self._rate((spec.preset, mode, spec.speed), (spec.preset, mode, None))
        return None if rate is None else rate * work(spec)

    def queue_eta(
        self, queued: QueuedWork, running: Iterable[tuple[Spec, float]], slots: int
    ) -> float | None:
        """Estimate the seconds until the queue is empty; None before the first clip.

        `running` has specs and their elapsed seconds. For a preset without clips, the rate of all
        clips is used.
        """
        pending = [(preset, speed, amount, 0.0) for (preset, speed), amount in queued.items()]
        pending += [(spec.preset, spec.speed, work(spec), elapsed) for spec, elapsed in running]
        remaining = 0.0
        for preset, speed, amount, elapsed in pending:
            rate = self._rate((preset, None, speed), (preset, None, None), _ALL)
            if rate is None:
                return None
            remaining += max(0.0, rate * amount - elapsed)
        return remaining / max(1, slots)

    def _add_rate(self, spec: Spec, mode: str, rate: float) -> None:
        self._rates[_ALL].append(rate)
        for mode_scope, speed_scope in product((None, mode), (None, spec.speed)):
            self._rates[spec.preset, mode_scope, speed_scope].append(rate)

    def _rate(self, *scopes: _Scope) -> float | None:
        known = (self._rates[scope] for scope in scopes if scope in self._rates)
        return next(map(median, known), None)
