"""The published clip moves as its prompt says: the whole way, measured in the MP4."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.system.studio import Studio

TRAINING = Path(__file__).parents[2] / "pipeline/micro/training"
PHOTOGRAPH = (TRAINING / "photographs/chelsea.jpg").read_bytes()


def shift(first: np.ndarray, last: np.ndarray) -> tuple[int, int]:
    """(right, down) pixels by which the content of `first` moved to become `last`."""
    reach = range(-9, 10)
    errors = {}
    for down in reach:
        for right in reach:
            moved = np.roll(first, (down, right), (0, 1))[10:-10, 10:-10]
            errors[right, down] = float(np.mean((moved - last[10:-10, 10:-10]) ** 2))
    return min(errors, key=lambda where: errors[where])


@pytest.mark.parametrize(
    ("prompt", "sign"),
    [("camera panning right", (-1, 0)), ("camera panning left", (1, 0)), ("tilt up", (0, 1))],
)
def test_a_photograph_moves_as_the_prompt_says(
    shared: Studio, prompt: str, sign: tuple[int, int]
) -> None:
    name = prompt.replace(" ", "-")
    (shared.inbox / f"{name}.jpg.toml").write_text(f'prompt = "{prompt}"\npreset = "preview"\n')
    shared.drop(f"{name}.jpg", PHOTOGRAPH)
    shared.until_settled(f"{name}.jpg", "done")
    with av.open(str(shared.outbox / f"{name}.mp4")) as clip:
        frames = [f.to_ndarray(format="gray").astype(float) for f in clip.decode(video=0)]
    right, down = shift(frames[0], frames[-1])
    across, along = (right, down) if sign[0] else (down, right)
    assert across * sum(sign) in range(4, 9)  # 3/32 of 64 pixels are 6
    assert abs(along) <= 1
