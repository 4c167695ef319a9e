"""Memory estimates: measurements correct predictions while they are valid."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from daemon.config.loader import load
from daemon.estimate.memory import MemoryEstimator, Setup
from daemon.estimate.requirements import known
from daemon.jobs.database import Database
from daemon.jobs.schema import peaks
from pipeline.children.generation import Clip, StepDown
from pipeline.children.protocol import ClipDone, Dtype, Loaded, Output
from pipeline.memory.modes import Mode, Rung
from pipeline.quality import Measurements
from pipeline.request.presets import Speed
from pipeline.request.spec import Spec

RUNG = Rung(Mode.RESIDENT, 48, 48, 8)
LOADED = Loaded(
    model="micro", weights="w", dtype="float32", device="cpu", device_name="a cpu", memory=None,
    versions={"torch": "2", "diffusers": "1", "av": "9"}, seconds=0.0,
)  # fmt: skip


@pytest.fixture
def estimator(database: Database) -> MemoryEstimator:
    return MemoryEstimator(database, "micro")


def clip(
    taken: int | None, rung: Rung = RUNG, loaded: Loaded = LOADED, speed: Speed = "exact"
) -> Clip:
    output = Output(
        sha256="5" * 64, size=1, codec="h264", width=rung.width, height=rung.height,
        frames=rung.frames, fps=8, duration=1.0,
    )  # fmt: skip
    figures = Measurements(black=0.0, grey=0.0, motion=9.0, similarity=0.9)
    made = ClipDone(output=output, measurements=figures, seconds={}, peak_memory=taken)
    return Clip(made, loaded, rung, 1, speed, ())


def test_a_measurement_corrects_its_mode(estimator: MemoryEstimator, spec: Spec) -> None:
    before = estimator.needs(RUNG, spec, LOADED)
    predicted = estimator.predicted(RUNG, spec, "float32")
    ratio = estimator.record(clip(predicted * 3 // 2), spec)
    assert ratio == pytest.approx(2 / 3)
    assert estimator.needs(RUNG, spec, LOADED) == pytest.approx(before * 1.5, rel=1e-3)
    larger = replace(RUNG, width=64)
    assert estimator.needs(larger, spec, LOADED) > 1.5 * estimator.predicted(
        larger, spec, "float32"
    )
    chunked = replace(RUNG, mode=Mode.CHUNKED)
    assert estimator.needs(chunked, spec, LOADED) < 1.1 * estimator.predicted(
        chunked, spec, "float32"
    )


def test_the_correction_is_the_worst_shapes_newest_measurement(
    estimator: MemoryEstimator, spec: Spec
) -> None:
    predicted = estimator.predicted(RUNG, spec, "float32")
    setup = Setup.of(LOADED)
    estimator.record(clip(predicted * 2), spec)
    estimator.record(clip(1, replace(RUNG, frames=16)), spec)
    assert estimator.correction(setup, Mode.RESIDENT) == pytest.approx(2.0)
    estimator.record(clip(predicted), spec)
    assert estimator.correction(setup, Mode.RESIDENT) == pytest.approx(1.0)
    assert estimator.measured(setup, RUNG, spec) == predicted


def test_a_speed_with_a_feature_cache_is_measured_separately(
    estimator: MemoryEstimator, spec: Spec
) -> None:
    chunked, setup = replace(RUNG, mode=Mode.CHUNKED), Setup.of(LOADED)
    fast = spec.model_copy(update={"speed": "fast", "guidance": 9.0})
    exact = fast.model_copy(update={"speed": "exact"})
    less, more = (estimator.predicted(chunked, asked, "float32") for asked in (exact, fast))
    assert less < more
    assert estimator.record(clip(more, chunked, speed="fast"), fast) == pytest.approx(1)
    assert estimator.measured(setup, chunked, fast) == more
    assert estimator.measured(setup, chunked, exact) is None
    assert estimator.record(clip(less, chunked), fast) == pytest.approx(1), "made exactly after all"
    assert estimator.measured(setup, chunked, exact) == less


@pytest.mark.parametrize(
    "other",
    [
        {"device_name": "another card"},
        {"weights": "others"},
        {"dtype": "bfloat16"},
        {"versions": {"torch": "3", "diffusers": "1"}},
    ],
)
def test_a_measurement_is_valid_for_its_setup_only(
    estimator: MemoryEstimator, spec: Spec, other: dict[str, object]
) -> None:
    estimator.record(clip(10**9), spec)
    elsewhere = LOADED.model_copy(update=other)
    assert estimator.correction(Setup.of(elsewhere), Mode.RESIDENT) is None
    assert estimator.correction(Setup.of(LOADED), Mode.RESIDENT) is not None


def test_nothing_is_recorded_without_a_measured_peak(
    estimator: MemoryEstimator, spec: Spec
) -> None:
    assert estimator.record(clip(None), spec) is None
    assert estimator.newest("micro", "float32") is None


def test_a_rung_that_failed_is_skipped_for_a_day(
    estimator: MemoryEstimator, database: Database, spec: Spec
) -> None:
    free = 2 * estimator.predicted(RUNG, spec, "float32")
    estimator.record_failure(StepDown(RUNG, "denoise", "full", free=free), spec, LOADED)
    assert estimator.needs(RUNG, spec, LOADED) > free
    with database.write() as db:
        db.execute(peaks.update().values(at=peaks.c.at - 100_000))
    assert estimator.needs(RUNG, spec, LOADED) < free


def test_a_rung_that_was_not_tried_records_nothing(estimator: MemoryEstimator, spec: Spec) -> None:
    for step in (
        StepDown(RUNG, "predicted", "too little", free=10**9),
        StepDown(RUNG, "denoise", "full", free=None),
    ):
        estimator.record_failure(step, spec, LOADED)
    assert estimator.correction(Setup.of(LOADED), Mode.RESIDENT) is None


def test_the_requirements_table_shows_measurements(
    estimator: MemoryEstimator, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("I2VD_MODEL__MAX_VRAM", "50MB")
    monkeypatch.setenv("I2VD_MODEL__DEVICES", '["cpu"]')
    predicted = estimator.predicted(RUNG, spec, "float32")
    estimator.record(clip(predicted + 1000), spec)
    rows = {(row.preset, row.mode): row for row in known(load(None), estimator, None)}
    draft = rows["draft", Mode.RESIDENT]
    assert draft.measured_bytes == pytest.approx(predicted, abs=1001)
    assert draft.predicted_bytes == pytest.approx(draft.measured_bytes, abs=2)
    assert draft.fits
    assert rows["draft", Mode.OFFLOAD].measured_bytes is None
    assert not rows["ultra", Mode.OFFLOAD].fits
    assert ("draft", Mode.FP8) not in rows


def test_one_row_for_each_shape(estimator: MemoryEstimator, database: Database, spec: Spec) -> None:
    for taken in (1, 2, 3):
        estimator.record(clip(taken), spec)
    with database.read() as db:
        assert db.scalar(sa.select(sa.func.count()).select_from(peaks)) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("measured", [None, 1.5])
def test_the_limit_of_a_device_is_the_largest_minimum_that_fits(
    estimator: MemoryEstimator, spec: Spec, dtype: Dtype, measured: float | None
) -> None:
    """A job's `minimum` is compared with it, so both must agree with `needs`."""
    loaded = LOADED.model_copy(update={"dtype": dtype})
    thriftiest = replace(RUNG, mode=Mode.OFFLOAD)
    if measured:
        predicted = estimator.predicted(thriftiest, spec, dtype)
        estimator.record(clip(int(predicted * measured), thriftiest, loaded), spec)
    needed = estimator.needs(thriftiest, spec, loaded)
    assert estimator.minimum(spec) <= estimator.limit(needed + 100, "cpu", dtype, loaded)
    assert estimator.minimum(spec) > estimator.limit(needed - 100, "cpu", dtype, loaded)
