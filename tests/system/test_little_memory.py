"""Too little memory: the way down the ladder, as the outbox and the metrics tell it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.studio import DRAFT, Studio, picture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A device without room for the first mode, nor for 64 pixels in any mode."""
    folder: Path = tmp_path_factory.mktemp("poor")
    studio = Studio(
        folder / "studio", I2VD_TESTING="1", I2VD_TEST_FAULT="oom:denoise:resident,64x64"
    )
    preview = DRAFT.replace("draft", "preview")
    studio.rule("10-large", '[match]\nnames = ["large*"]\n\n' + preview)
    studio.rule("20-proud", '[match]\nnames = ["proud*"]\n\n' + preview + 'fallback = "never"\n')
    try:
        yield studio.start()
    finally:
        studio.close()


def test_a_lower_mode_gives_the_clip_that_was_asked_for(poor: Studio) -> None:
    poor.drop("small.png", picture(1))
    poor.until_settled("small.png", "done")
    told = poor.sidecar("small.mp4")
    assert told["degraded"] is False
    given = {"width": 48, "height": 48, "frames": 8, "mode": "lean", "dtype": "float32"}
    assert told["given"] == given | {"seed": told["asked"]["seed"]}
    assert [(f["tried"]["mode"], f["stage"]) for f in told["fallbacks"]] == [
        ("resident", "denoise")
    ]
    assert "out of memory" in told["fallbacks"][0]["reason"]


def test_a_smaller_clip_is_made_where_the_asked_one_has_no_room(poor: Studio) -> None:
    steps, degraded = (
        poor.metric("i2vd_fallbacks_total", stage="denoise"),
        poor.metric("i2vd_clips_degraded_total"),
    )
    poor.drop("large.png", picture(2))
    (job,) = poor.until_settled("large.png", "done")
    told = poor.sidecar("large.mp4")
    assert told["degraded"] is True
    assert (told["asked"]["width"], told["given"]["width"]) == (64, 48)
    assert (told["output"]["width"], told["output"]["height"]) == (48, 48)
    modes = [fallback["tried"]["mode"] for fallback in told["fallbacks"]]
    assert modes == ["resident", "lean", "sliced", "offload"]
    assert (job["attempt"], job["failures"]) == (1, 0)
    assert poor.metric("i2vd_fallbacks_total", stage="denoise") == steps + 4
    assert poor.metric("i2vd_clips_degraded_total") == degraded + 1
    assert poor.events(job["id"]).count("stepped down") == 4


def test_a_rule_can_forbid_a_smaller_clip(poor: Studio) -> None:
    poor.drop("proud.png", picture(3))
    (job,) = poor.until_settled("proud.png", "failed")
    assert "out of memory" in poor.reason("proud.png")
    assert "smaller preset" in job["error"]
    assert "proud.mp4" not in poor.clips()
    assert (poor.failed / "proud.png").is_file()
    assert poor.metric("i2vd_child_deaths_total") == 0
