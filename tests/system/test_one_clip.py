"""A picture becomes a clip: what stands in the outbox, and what it says of itself."""

import hashlib
import math
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.sidecar import Sidecar
from tests.system.studio import SIDE, Studio, picture

pytestmark = pytest.mark.slow


def frames_of(clip: Path) -> list[np.ndarray]:
    with av.open(str(clip)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = float(np.mean((one.astype(float) - other.astype(float)) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def framed(content: bytes, side: int) -> np.ndarray:
    """The middle square of a picture, as large as the clip."""
    image = Image.open(BytesIO(content)).convert("RGB")
    least = min(image.size)
    left, upper = (image.width - least) // 2, (image.height - least) // 2
    box = (left, upper, left + least, upper + least)
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS, box=box))


def test_a_picture_dropped_becomes_a_clip_with_a_sidecar(shared: Studio) -> None:
    content = picture(1, size=(128, 96))
    shared.drop("cat.png", content)
    (job,) = shared.until_settled("cat.png", "done")
    clip = shared.outbox / "cat.mp4"

    frames = frames_of(clip)
    assert len(frames) == 8
    assert {frame.shape for frame in frames} == {(SIDE, SIDE, 3)}
    likeness = psnr(frames[0], framed(content, SIDE))
    others = [psnr(frames[0], framed(picture(n, size=(128, 96)), SIDE)) for n in range(2, 12)]
    assert likeness > 20, "the clip does not begin with the dropped picture"
    assert max(others) < 17, "any picture would have passed this test"

    told = Sidecar.model_validate(shared.sidecar("cat.mp4"))
    assert told.output.sha256 == hashlib.sha256(clip.read_bytes()).hexdigest()
    assert told.source.sha256 == hashlib.sha256(content).hexdigest()
    assert (told.source.path, told.source.width, told.source.height) == ("cat.png", 128, 96)
    assert (told.job, told.attempt) == (str(job["id"]), job["attempt"])
    assert told.rule is not None
    assert (told.rule.name, told.rule.digest) == ("90-default", job["rules_digest"])
    assert told.requested.prompt == "camera zooming in slowly"
    assert (told.degraded, told.fallbacks) == (False, ())

    with av.open(str(clip)) as container:
        metadata = dict(container.metadata)
    assert metadata["title"] == "camera zooming in slowly"
    assert "AI-generated" in metadata["description"]

    assert (shared.archive / "cat.png").read_bytes() == content
    assert not (shared.inbox / "cat.png").exists()
    shared.until(lambda: not shared.staging(), "staging is empty")


def test_subfolders_of_the_inbox_are_mirrored(shared: Studio) -> None:
    shared.drop("trips/2024/lake.png", picture(2))
    shared.until_settled("trips/2024/lake.png", "done")
    assert (shared.outbox / "trips/2024/lake.mp4").is_file()
    assert (shared.outbox / "trips/2024/lake.mp4.json").is_file()
    assert (shared.archive / "trips/2024/lake.png").is_file()


def test_of_ten_pictures_one_is_broken_and_nine_become_clips(shared: Studio) -> None:
    for number in range(10):
        content = picture(number)
        shared.drop(f"ten-{number}.png", content[: len(content) // 2] if number == 4 else content)
    for number in range(10):
        shared.until_settled(f"ten-{number}.png", "failed" if number == 4 else "done")
    wanted = [f"ten-{number}.mp4" for number in range(10) if number != 4]
    assert [clip for clip in shared.clips() if clip.startswith("ten-")] == wanted
    assert "the end of the picture is missing" in shared.reason("ten-4.png")
    assert (shared.failed / "ten-4.png").is_file()
    assert shared.metric("i2vd_pictures_rejected_total", reason="unreadable") >= 1


def test_variants_are_clips_of_one_picture_with_seeds_of_their_own(shared: Studio) -> None:
    shared.drop("three.png", picture(3))
    shared.until_settled("three.png", "done", count=3)
    clips = [clip for clip in shared.clips() if clip.startswith("three")]
    assert clips == ["three-2.mp4", "three-3.mp4", "three.mp4"]
    assert sorted(shared.sidecar(clip)["requested"]["seed"] for clip in clips) == [7, 8, 9]
    assert len({shared.sidecar(clip)["output"]["sha256"] for clip in clips}) == 3
    assert len(list(shared.archive.glob("three*"))) == 1


def test_the_same_picture_dropped_again_gives_a_second_clip(shared: Studio) -> None:
    shared.drop("twice.png", picture(4))
    shared.until_settled("twice.png", "done")
    first = (shared.outbox / "twice.mp4").read_bytes()
    told = (shared.outbox / "twice.mp4.json").read_bytes()
    shared.drop("twice.png", picture(4))
    shared.until_settled("twice.png", "done", count=2)
    assert [c for c in shared.clips() if c.startswith("twice")] == ["twice-2.mp4", "twice.mp4"]
    assert (shared.outbox / "twice.mp4").read_bytes() == first
    assert (shared.outbox / "twice.mp4.json").read_bytes() == told
    assert len(list(shared.archive.glob("twice*.png"))) == 2


@pytest.mark.parametrize("held", ["held.mp4", "claimed.mp4.json"])
def test_a_name_that_is_held_in_the_outbox_is_never_overwritten(shared: Studio, held: str) -> None:
    stem = held.partition(".")[0]
    (shared.outbox / held).write_text("mine", encoding="utf-8")
    shared.drop(f"{stem}.png", picture(5))
    shared.until_settled(f"{stem}.png", "done")
    assert (shared.outbox / held).read_text(encoding="utf-8") == "mine"
    assert (shared.outbox / f"{stem}-2.mp4").is_file()
    assert (shared.outbox / f"{stem}-2.mp4.json").is_file()
    assert len(list(shared.outbox.glob(f"{stem}*"))) == 3


STRANGE = [
    'two\nlines {"event": "done", "job": 999}.png',
    '"quotes" & $(touch x) `y`.png',
    "smile \N{GRINNING FACE} na\u00efve.png",
    "[red]brackets[bold] [*].png",
    "-rf --help.png",
]


def test_a_strange_name_is_a_name_like_any_other(shared: Studio) -> None:
    for name in STRANGE:
        shared.drop(name, picture(6))
    for name in STRANGE:
        (job,) = shared.until_settled(name, "done")
        clip = Path(job["result"]["clip"])
        assert clip.is_file()
        assert shared.sidecar(clip.name)["source"]["path"] == name
        assert (shared.archive / name).is_file()
        lines = [line for line in shared.log() if line.get("job") == job["id"]]
        assert [line["path"] for line in lines if line["event"] == "job queued"] == [name]
    assert all(line.get("job") != 999 for line in shared.log())
    table = shared.command("jobs", "--limit", "1000")
    assert table.returncode == 0, table.stderr
    assert "[red]brackets[bold] [*].png" in table.stdout
    explained = shared.command("explain", "--", shared.archive / STRANGE[3])
    assert explained.returncode == 0, explained.stderr
    assert ": done" in explained.stdout
