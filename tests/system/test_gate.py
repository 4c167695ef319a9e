"""The output gate: what the real worker spoils is refused, made again, or put aside for a look."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from tests.system.studio import DRAFT, Studio, picture

pytestmark = pytest.mark.slow

FLAWS = {"black": "black", "grey": "grey", "frozen": "frozen", "other": "unlike"}
"""Faults of the decoded frames, and the flaws that they are refused for."""


def rule(word: str) -> str:
    make = DRAFT.replace("camera zooming in slowly", f"pan {word}")
    return f'[match]\nnames = ["{word}*"]\n\n{make}'


@pytest.fixture(scope="module")
def spoiling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A daemon whose worker spoils a clip for each token laid out, and every "hopeless" one."""
    folder: Path = tmp_path_factory.mktemp("spoiling")
    faults = [f"{kind}:decode:{folder}/{kind}" for kind in (*FLAWS, "grey-end")]
    faults += [f"nan:denoise:{folder}/nan", "frozen:decode:hopeless", "nan:denoise:empty"]
    studio = Studio(
        folder / "studio",
        max_attempts=1,
        I2VD_TESTING="1",
        I2VD_TEST_FAULT=";".join(faults),
        I2VD_QUALITY__MOTION="0.5",
    )
    studio.rule("10-hopeless", rule("hopeless"))
    studio.rule("20-empty", rule("empty"))
    try:
        yield studio.start()
    finally:
        studio.close()


def spoilt_once(studio: Studio, kind: str) -> dict[str, Any]:
    """The sidecar of a clip whose first try was spoilt."""
    (studio.root.parent / kind).touch()
    studio.drop(f"{kind}.png", picture(70))
    (job,) = studio.until_settled(f"{kind}.png", "done")
    assert (job["attempt"], job["failures"]) == (1, 0)
    assert not (studio.root.parent / kind).exists()
    return studio.sidecar(f"{kind}.mp4")


@pytest.mark.parametrize(("kind", "flaw"), [*FLAWS.items(), ("nan", "not_finite")])
def test_a_spoilt_clip_is_made_once_more_with_another_seed(
    spoiling: Studio, kind: str, flaw: str
) -> None:
    before = spoiling.metric("i2vd_quality_rejections_total", flaw=flaw)
    told = spoilt_once(spoiling, kind)
    assert told["applied"]["seed"] != told["requested"]["seed"]
    assert told["quality"]["refused"]
    assert told["quality"]["similarity"] > 0.9
    assert told["quality"]["motion"] > 1.0
    assert told["degraded"] is False
    assert spoiling.metric("i2vd_quality_rejections_total", flaw=flaw) == before + 1
    (line,) = [
        each
        for each in spoiling.log()
        if each["event"] == "quality check rejected the clip" and each["flaw"] == flaw
    ]
    assert line["reason"] == told["quality"]["refused"]


def test_a_clip_with_another_seed_can_be_made_again_from_its_sidecar(spoiling: Studio) -> None:
    again = spoiling.command(
        "replay", spoiling.outbox / "frozen.mp4.json", "-o", spoiling.root / "again.mp4"
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert (spoiling.root / "again.mp4").read_bytes() == (
        spoiling.outbox / "frozen.mp4"
    ).read_bytes()


def test_a_grey_last_frame_is_taken_off_and_told(spoiling: Studio) -> None:
    told = spoilt_once(spoiling, "grey-end")
    assert told["applied"]["seed"] == told["requested"]["seed"]
    assert told["quality"]["dropped"] == 1
    assert told["quality"]["refused"] is None
    assert (told["requested"]["frames"], told["output"]["frames"]) == (8, 7)
    assert told["degraded"] is True
    with av.open(str(spoiling.outbox / "grey-end.mp4")) as clip:
        assert len(list(clip.decode(video=0))) == 7


def test_a_clip_that_is_spoilt_twice_is_put_aside_for_a_look(spoiling: Studio) -> None:
    spoiling.drop("hopeless.png", picture(71))
    (job,) = spoiling.until_settled("hopeless.png", "failed")
    assert job["attempt"] == 1
    assert "nothing moves" in spoiling.reason("hopeless.png")
    assert "quality.motion = 0.5" in spoiling.reason("hopeless.png")
    (told,) = json.loads((spoiling.failed / "hopeless.png.reason.json").read_text())
    with av.open(str(spoiling.failed / told["look"])) as clip:
        assert len(list(clip.decode(video=0))) == 8
    assert "hopeless.mp4" not in spoiling.clips()
    spoiling.until(lambda: not spoiling.staging(), "its staging folder is gone")
    assert spoiling.metric("i2vd_quality_rejections_total", flaw="frozen") >= 2

    assert spoiling.post(f"/api/jobs/{job['id']}/retry").is_success
    assert not (spoiling.failed / told["look"]).exists()
    spoiling.until_settled("hopeless.png", "failed")


def test_where_there_are_no_frames_there_is_nothing_to_look_at(spoiling: Studio) -> None:
    spoiling.drop("empty.png", picture(72))
    spoiling.until_settled("empty.png", "failed")
    assert "the latents are not numbers" in spoiling.reason("empty.png")
    (told,) = json.loads((spoiling.failed / "empty.png.reason.json").read_text())
    assert told["look"] is None
