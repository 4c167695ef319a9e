import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.children.protocol import Output
from pipeline.worker.errors import UnusableFile
from pipeline.worker.output import video
from pipeline.worker.output.video import write_video


def a_clip(frames: int = 9, width: int = 80, height: int = 48) -> Any:
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    pictures = []
    for n in range(frames):
        red = np.tile(np.roll(ramp, 2 * n), (height, 1))
        pictures.append(np.stack([red, red // 2 + 60, np.full_like(red, 90)], -1))
    return np.stack(pictures)


def written(path: Path, **changes: Any) -> Output:
    given = {
        "fps": 7,
        "quality": 10,
        "encoder": "x264",
        "metadata": {},
        "on_step": lambda _: None,
    }
    return write_video(path, changes.pop("frames", a_clip()), **(given | changes))


def test_the_file_has_the_frames_that_were_written(tmp_path: Path) -> None:
    clip = written(tmp_path / "clip.mp4")

    assert (clip.width, clip.height, clip.frames, clip.fps) == (80, 48, 9, 7)
    assert clip.duration == pytest.approx(9 / 7)
    assert clip.size == (tmp_path / "clip.mp4").stat().st_size
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.profile, context.pix_fmt) == ("h264", "High", "yuv420p")
        assert stream.average_rate == 7
        assert context.colorspace == context.color_primaries == context.color_trc == 1
        assert context.color_range == 1
        frames = list(container.decode(stream))
    assert [frame.time for frame in frames] == pytest.approx([n / 7 for n in range(9)])


def test_colours_survive(tmp_path: Path) -> None:
    """A wrong matrix (BT.601 for BT.709) is off by some ten levels."""
    flat = np.zeros((3, 64, 64, 3), np.uint8)
    flat[:] = (200, 40, 90)
    written(tmp_path / "clip.mp4", frames=flat)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        for frame in container.decode(video=0):
            shown = frame.reformat(format="rgb24", src_colorspace=1).to_ndarray()
            assert abs(shown.astype(int) - flat[0]).max() <= 3


def test_the_index_comes_first(tmp_path: Path) -> None:
    written(tmp_path / "clip.mp4")
    data = (tmp_path / "clip.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_metadata_is_kept_by_the_container(tmp_path: Path) -> None:
    facts = json.dumps({"prompt": 'ünder "quotes"', "seed": 2**63 - 1}, ensure_ascii=False)
    said = {"title": "pan ← left", "artist": "i2vd", "description": "AI-generated"}
    written(tmp_path / "clip.mp4", metadata=said | {"comment": facts})
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.metadata.items() >= (said | {"comment": facts}).items()


def test_same_frames_same_bytes(tmp_path: Path) -> None:
    first = written(tmp_path / "a.mp4", metadata={"title": "x"})
    second = written(tmp_path / "b.mp4", metadata={"title": "x"})
    assert first.sha256 == second.sha256


_TWICE = """
import hashlib, sys
import numpy as np
from pathlib import Path
from pipeline.worker.output.video import write_video
frames = np.load(sys.argv[1])
clip = write_video(Path(sys.argv[2]), frames, fps=8, quality=18, encoder="x264", metadata={},
                   on_step=lambda _: None)
print(clip.sha256)
"""


@pytest.mark.slow
def test_uninitialised_memory_does_not_change_the_file(tmp_path: Path) -> None:
    """x264 with mbtree reads memory that nobody wrote, so that its files differed now and then."""
    noise = np.random.default_rng(0).integers(0, 40, (8, 32, 32, 3), np.uint8)
    frames = a_clip(8, 32, 32) // 2 + noise
    np.save(tmp_path / "frames.npy", frames)
    digests = {
        subprocess.run(
            [sys.executable, "-c", _TWICE, tmp_path / "frames.npy", tmp_path / "clip.mp4"],
            env=os.environ | {"MALLOC_PERTURB_": fill},
            check=True,
            capture_output=True,
        ).stdout
        for fill in ("85", "165")
    }
    assert len(digests) == 1


def test_quality_changes_the_file_size(tmp_path: Path) -> None:
    assert (
        written(tmp_path / "a.mp4", quality=8).size > written(tmp_path / "b.mp4", quality=40).size
    )


def test_steps_are_reported_and_may_cancel(tmp_path: Path) -> None:
    reported: list[int] = []
    written(tmp_path / "clip.mp4", on_step=reported.append)
    assert reported == list(range(1, 10))

    def stop(_: int) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        written(tmp_path / "other.mp4", on_step=stop)


def test_a_missing_nvenc_falls_back_to_x264(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "_nvenc_available", lambda: False)
    clip = written(tmp_path / "clip.mp4", encoder="nvenc")
    assert clip.codec == "h264 (libx264; nvenc is unavailable)"


def test_file_and_folder_are_fsynced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def sync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", sync)
    written(tmp_path / "clip.mp4")
    assert synced == [str(tmp_path / "clip.mp4"), str(tmp_path)]


def test_a_file_that_differs_is_unusable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mux = video._mux

    def lossy(path: Path, frames: Any, **how: Any) -> None:
        mux(path, frames[:-1], **how)

    monkeypatch.setattr(video, "_mux", lossy)
    with pytest.raises(UnusableFile, match="8 frames"):
        written(tmp_path / "clip.mp4")

    def cut(path: Path, frames: Any, **how: Any) -> None:
        mux(path, frames, **how)
        path.write_bytes(path.read_bytes()[:-200])

    monkeypatch.setattr(video, "_mux", cut)
    with pytest.raises(UnusableFile):
        written(tmp_path / "clip.mp4")


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    precious, clip = tmp_path / "precious", tmp_path / "clip.mp4"
    precious.write_text("precious")
    clip.symlink_to(precious)
    written(clip)
    assert precious.read_text() == "precious"
    assert not clip.is_symlink()


def test_an_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(video, "_mux", full)
    with pytest.raises(OSError, match="No space") as caught:
        written(tmp_path / "clip.mp4")
    assert caught.value.filename == str(tmp_path / "clip.mp4")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        written(tmp_path / "nowhere" / "clip.mp4")
