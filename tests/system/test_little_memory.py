"""Too little memory: the way down the ladder, as the outbox and the metrics tell it.

The model's tensors are counted and kept to `max_vram`, so that memory really runs out on a CPU.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.studio import DRAFT, SIDE, Studio, picture

pytestmark = pytest.mark.slow

LARGER = DRAFT.replace(f"size = {SIDE}\n", "")
SIZE = {"width": 48, "height": 48, "frames": 8}


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """Room for a draft at full speed, and for 64 pixels in no mode."""
    folder: Path = tmp_path_factory.mktemp("poor")
    studio = Studio(folder / "studio", I2VD_MODEL__MAX_VRAM="37.4 MB")
    studio.rule("90-default", LARGER)
    preview = LARGER.replace("draft", "preview")
    studio.rule("10-large", '[match]\nnames = ["large*"]\n\n' + preview)
    studio.rule("20-proud", '[match]\nnames = ["proud*"]\n\n' + preview + 'fallback = "never"\n')
    guided = LARGER + "guidance = 3.0\n"
    studio.rule("30-guided", '[match]\nnames = ["guided*"]\n\n' + guided)
    try:
        yield studio.start()
    finally:
        studio.close()


def test_what_fits_is_made_at_once_and_the_forecast_was_right(poor: Studio) -> None:
    poor.drop("small.png", picture(1))
    poor.until_settled("small.png", "done")
    told = poor.sidecar("small.mp4")
    assert told["degraded"] is False
    assert told["applied"] | SIZE | {"mode": "resident"} == told["applied"]
    assert told["fallbacks"] == []
    assert 0 < told["peak_memory"] <= 37_400_000
    assert poor.metric("i2vd_memory_prediction_ratio", mode="resident") == pytest.approx(
        1.0, abs=0.05
    )


def test_a_lower_mode_gives_the_clip_that_was_asked_for(poor: Studio) -> None:
    poor.drop("guided.png", picture(4))
    poor.until_settled("guided.png", "done")
    told = poor.sidecar("guided.mp4")
    assert told["degraded"] is False
    assert told["applied"] | SIZE | {"mode": "offload"} == told["applied"]
    assert [(f["tried"]["mode"], f["stage"]) for f in told["fallbacks"]] == [
        ("resident", "predicted")
    ]
    assert "GB may be used" in told["fallbacks"][0]["reason"]


def test_a_smaller_clip_is_made_where_the_asked_one_has_no_room(poor: Studio) -> None:
    skipped, degraded = (
        poor.metric("i2vd_fallbacks_total", stage="predicted"),
        poor.metric("i2vd_clips_degraded_total"),
    )
    poor.drop("large.png", picture(2))
    (job,) = poor.until_settled("large.png", "done")
    told = poor.sidecar("large.mp4")
    assert told["degraded"] is True
    assert (told["requested"]["width"], told["applied"]["width"]) == (64, 48)
    assert (told["output"]["width"], told["output"]["height"]) == (48, 48)
    assert [f["tried"]["mode"] for f in told["fallbacks"]] == ["resident", "offload"]
    assert (job["attempt"], job["failures"]) == (1, 0)
    assert poor.metric("i2vd_fallbacks_total", stage="predicted") == skipped + 2
    assert poor.metric("i2vd_clips_degraded_total") == degraded + 1


def test_a_rule_can_forbid_a_smaller_clip(poor: Studio) -> None:
    poor.drop("proud.png", picture(3))
    (job,) = poor.until_settled("proud.png", "failed")
    assert "out of memory" in poor.reason("proud.png")
    assert "the preset 'draft' would fit" in job["error"]
    assert "proud.mp4" not in poor.clips()
    assert (poor.failed / "proud.png").is_file()
    assert poor.metric("i2vd_fallbacks_total", stage="denoise") == 1
    assert poor.events(job["id"]).count("fell_back") == 1
    assert poor.metric("i2vd_child_exits_total") == 0
