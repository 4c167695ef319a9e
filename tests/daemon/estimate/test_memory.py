"""The forecast: what was measured corrects what is predicted, where it holds, and no longer."""

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

RUNG = Rung(Mode.FAST, 48, 48, 8)
LOADED = Loaded(
    model="micro", weights="w", dtype="float32", device="cpu", device_name="a cpu", memory=None,
    versions={"torch": "2", "diffusers": "1", "av": "9"}, seconds=0.0,
)  # fmt: skip


@pytest.fixture
def forecast(database: Database) -> MemoryEstimator:
    return MemoryEstimator(database, "micro")


def clip(
    taken: int | None, rung: Rung = RUNG, loaded: Loaded = LOADED, speed: Speed = "exact"
) -> Clip:
    output = Output(
        sha256="s", size=1, codec="h264", width=rung.width, height=rung.height, frames=rung.frames,
        fps=8, duration=1.0,
    )  # fmt: skip
    figures = Measurements(black=0.0, grey=0.0, motion=9.0, similarity=0.9)
    made = ClipDone(output=output, measurements=figures, seconds={}, peak_memory=taken)
    return Clip(made, loaded, rung, 1, speed, ())


def test_what_was_measured_corrects_the_same_mode(forecast: MemoryEstimator, spec: Spec) -> None:
    before = forecast.needs(RUNG, spec, LOADED)
    predicted = forecast.predicted(RUNG, spec, "float32")
    ratio = forecast.record(clip(predicted * 3 // 2), spec)
    assert ratio == pytest.approx(2 / 3)
    assert forecast.needs(RUNG, spec, LOADED) == pytest.approx(before * 1.5, rel=1e-3)
    larger = replace(RUNG, width=64)
    assert forecast.needs(larger, spec, LOADED) > 1.5 * forecast.predicted(larger, spec, "float32")
    lean = replace(RUNG, mode=Mode.LEAN)
    assert forecast.needs(lean, spec, LOADED) < 1.1 * forecast.predicted(lean, spec, "float32")


def test_the_worst_shape_counts_and_the_newest_measurement_of_it(
    forecast: MemoryEstimator, spec: Spec
) -> None:
    predicted = forecast.predicted(RUNG, spec, "float32")
    setup = Setup.of(LOADED)
    forecast.record(clip(predicted * 2), spec)
    forecast.record(clip(1, replace(RUNG, frames=16)), spec)
    assert forecast.correction(setup, Mode.FAST) == pytest.approx(2.0)
    forecast.record(clip(predicted), spec)
    assert forecast.correction(setup, Mode.FAST) == pytest.approx(1.0)
    assert forecast.measured(setup, RUNG, spec) == predicted


def test_a_speed_that_keeps_features_is_measured_apart(
    forecast: MemoryEstimator, spec: Spec
) -> None:
    lean, setup = replace(RUNG, mode=Mode.LEAN), Setup.of(LOADED)
    fast = spec.model_copy(update={"speed": "fast", "guidance": 9.0})
    exact = fast.model_copy(update={"speed": "exact"})
    less, more = (forecast.predicted(lean, asked, "float32") for asked in (exact, fast))
    assert less < more
    assert forecast.record(clip(more, lean, speed="fast"), fast) == pytest.approx(1)
    assert forecast.measured(setup, lean, fast) == more
    assert forecast.measured(setup, lean, exact) is None
    assert forecast.record(clip(less, lean), fast) == pytest.approx(1), "made exactly after all"
    assert forecast.measured(setup, lean, exact) == less


@pytest.mark.parametrize(
    "other",
    [
        {"device_name": "another card"},
        {"weights": "others"},
        {"dtype": "bfloat16"},
        {"versions": {"torch": "3", "diffusers": "1"}},
    ],
)
def test_it_holds_for_its_setup_alone(
    forecast: MemoryEstimator, spec: Spec, other: dict[str, object]
) -> None:
    forecast.record(clip(10**9), spec)
    elsewhere = LOADED.model_copy(update=other)
    assert forecast.correction(Setup.of(elsewhere), Mode.FAST) is None
    assert forecast.correction(Setup.of(LOADED), Mode.FAST) is not None


def test_where_nobody_counts_nothing_is_learnt(forecast: MemoryEstimator, spec: Spec) -> None:
    assert forecast.record(clip(None), spec) is None
    assert forecast.newest("micro", "float32") is None


def test_a_rung_that_failed_is_passed_over_for_a_day(
    forecast: MemoryEstimator, database: Database, spec: Spec
) -> None:
    room = 2 * forecast.predicted(RUNG, spec, "float32")
    forecast.record_failure(StepDown(RUNG, "denoise", "full", room=room), spec, LOADED)
    assert forecast.needs(RUNG, spec, LOADED) > room
    with database.write() as db:
        db.execute(peaks.update().values(at=peaks.c.at - 100_000))
    assert forecast.needs(RUNG, spec, LOADED) < room


def test_what_was_not_tried_teaches_nothing(forecast: MemoryEstimator, spec: Spec) -> None:
    for step in (
        StepDown(RUNG, "forecast", "too little", room=10**9),
        StepDown(RUNG, "denoise", "full", room=None),
    ):
        forecast.record_failure(step, spec, LOADED)
    assert forecast.correction(Setup.of(LOADED), Mode.FAST) is None


def test_the_table_tells_what_was_measured(
    forecast: MemoryEstimator, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("I2VD_MODEL__MAX_VRAM", "50MB")
    monkeypatch.setenv("I2VD_MODEL__DEVICES", '["cpu"]')
    predicted = forecast.predicted(RUNG, spec, "float32")
    forecast.record(clip(predicted + 1000), spec)
    rows = {(row.preset, row.mode): row for row in known(load(None), forecast, None)}
    draft = rows["draft", Mode.FAST]
    assert draft.measured_bytes == pytest.approx(predicted, abs=1001)
    assert draft.predicted_bytes == pytest.approx(draft.measured_bytes, abs=2)
    assert draft.fits
    assert rows["draft", Mode.OFFLOAD].measured_bytes is None
    assert not rows["ultra", Mode.OFFLOAD].fits
    assert ("draft", Mode.FP8) not in rows


def test_one_row_for_each_shape(forecast: MemoryEstimator, database: Database, spec: Spec) -> None:
    for taken in (1, 2, 3):
        forecast.record(clip(taken), spec)
    with database.read() as db:
        assert db.scalar(sa.select(sa.func.count()).select_from(peaks)) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("measured", [None, 1.5])
def test_what_a_device_reaches_is_what_fits_on_it(
    forecast: MemoryEstimator, spec: Spec, dtype: Dtype, measured: float | None
) -> None:
    """A job's `least` is compared with it, so both must agree with what an attempt will be told."""
    loaded = LOADED.model_copy(update={"dtype": dtype})
    thriftiest = replace(RUNG, mode=Mode.OFFLOAD)
    if measured:
        predicted = forecast.predicted(thriftiest, spec, dtype)
        forecast.record(clip(int(predicted * measured), thriftiest, loaded), spec)
    needed = forecast.needs(thriftiest, spec, loaded)
    assert forecast.minimum(spec) <= forecast.limit(needed + 100, "cpu", dtype, loaded)
    assert forecast.minimum(spec) > forecast.limit(needed - 100, "cpu", dtype, loaded)
