"""The sidecar: what it tells of the way down the ladder."""

from datetime import UTC, datetime

from pipeline.children.generation import Clip, StepDown
from pipeline.children.protocol import ClipDone, Loaded, Output
from pipeline.memory.modes import Mode, Rung
from pipeline.quality import Measurements
from pipeline.request.spec import Spec
from pipeline.sidecar import Sidecar, Source, compose_sidecar, fallback

SPEC = Spec(prompt="x", preset="draft", width=64, height=64, frames=8, fps=8, motion_fps=16,
            steps=10, guidance=1.0, seed=1)  # fmt: skip


def step(mode: Mode, side: int = 64) -> StepDown:
    return StepDown(Rung(mode, side, side, 8), "denoise", "no room")


def sidecar(side: int, dropped: int = 0) -> Sidecar:
    figures = Measurements(black=0.0, grey=0.0, motion=9.0, similarity=0.9, dropped=dropped)
    output = Output(sha256="5" * 64, size=1, codec="h264", width=side, height=side,
                    frames=8 - dropped, fps=8, duration=1.0)  # fmt: skip
    made = ClipDone(output=output, measurements=figures, seconds={}, peak_memory=None)
    loaded = Loaded(model="micro", weights="w", dtype="bfloat16", device="cpu", device_name="c",
                    memory=None, versions={}, seconds=0.0)  # fmt: skip
    rung = Rung(Mode.OFFLOAD, side, side, 8)
    clip = Clip(made, loaded, rung, 77, "exact", (step(Mode.CHUNKED),), refused="all is black")
    return compose_sidecar(
        clip, generator="i2vd", job="1", attempt=2, created_at=datetime.now(UTC), rule=None,
        source=Source(path="a.jpg", sha256="a", size=1, width=9, height=9), requested=SPEC,
        earlier=[fallback(step(Mode.RESIDENT))],
    )  # fmt: skip


def test_the_steps_down_of_earlier_attempts_are_told_first() -> None:
    assert [each.tried.mode for each in sidecar(64).fallbacks] == [Mode.RESIDENT, Mode.CHUNKED]


def test_only_a_smaller_clip_is_degraded() -> None:
    assert not sidecar(64).degraded
    assert sidecar(48).degraded
    assert (sidecar(48).requested.width, sidecar(48).applied.width) == (64, 48)


def test_a_clip_without_its_grey_last_frame_is_degraded_and_can_be_made_again() -> None:
    told = sidecar(64, dropped=1)
    assert told.degraded
    assert (told.applied.frames, told.output.frames, told.quality.dropped) == (8, 7, 1)


def test_what_the_gate_changed_stands_beside_what_was_asked() -> None:
    told = sidecar(64)
    assert (told.requested.seed, told.applied.seed, told.applied.dtype) == (1, 77, "bfloat16")
    assert (told.quality.refused, told.quality.similarity) == ("all is black", 0.9)


def test_a_sidecar_survives_its_file() -> None:
    told = sidecar(48)
    assert Sidecar.model_validate_json(told.model_dump_json()) == told
