"""Live preview: colours from latents by a fitted linear map, small, and never a failure."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.children.protocol import PREVIEW_FRAMES
from pipeline.worker.output.preview import Preview, colours, strip


def latents_of(pixels: Tensor) -> Tensor:
    """(4, height, width): a line of (3, height, width) colours in 0..1, and one channel more."""
    mix = torch.tensor([[2.0, -1.0, 0.5], [0.3, 1.5, -2.0], [-1.0, 0.4, 1.0], [0.7, 0.7, 0.7]])
    return torch.einsum("lc,chw->lhw", mix, pixels) - 0.4


def seen(jpeg: bytes | None) -> np.ndarray:
    assert jpeg is not None
    image = Image.open(BytesIO(jpeg))
    assert image.format == "JPEG"
    return np.asarray(image.convert("RGB")).astype(float)


def gradient(height: int, width: int) -> tuple[Image.Image, Tensor]:
    """A picture eight times as large as its cells, and the cells' colours."""
    across, down = torch.linspace(0.1, 0.9, width), torch.linspace(0.2, 0.8, height)
    red = across.expand(height, width)
    green = down[:, None].expand(height, width)
    pixels = torch.stack([red, green, (red * green).flip(0)])
    whole = (pixels.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(whole.repeat(8, axis=0).repeat(8, axis=1)), pixels


@pytest.mark.parametrize("frames", [2, 8, 32])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (40, 72), (128, 128)])
def test_a_preview_has_the_colours_of_the_picture(frames: int, height: int, width: int) -> None:
    picture, pixels = gradient(height, width)
    cells = latents_of(pixels)
    darker = torch.linspace(1.0, 0.5, frames)[:, None, None, None] * pixels
    clip = torch.stack([latents_of(frame) for frame in darker], dim=1)

    shown = seen(strip(clip, colours(cells, picture)))

    across = shown.shape[1] // PREVIEW_FRAMES
    assert max(shown.shape[0], across) == min(64, max(height, width))
    assert abs(across / shown.shape[0] - width / height) < 0.05
    first, last = shown[:, :across], shown[:, -across:]
    assert abs(first.mean((0, 1)) - pixels.mean((1, 2)).numpy() * 255).max() < 8
    assert abs(last.mean((0, 1)) - pixels.mean((1, 2)).numpy() * 127).max() < 8
    assert first[:, -1, 0].mean() - first[:, 0, 0].mean() > 150


def test_a_plain_picture_and_noise_are_shown_small() -> None:
    picture = Image.new("RGB", (512, 512), (200, 30, 90))
    plain = torch.zeros(4, 64, 64)
    assert abs(seen(strip(plain[:, None], colours(plain, picture))).mean((0, 1))
               - (200, 30, 90)).max() < 3  # fmt: skip
    noise = torch.randn(4, 32, 128, 128, generator=torch.Generator().manual_seed(0))
    jpeg = strip(noise, colours(noise[:, 0], picture.effect_spread(0)))
    assert jpeg is not None
    assert len(jpeg) < 10_000


def test_at_most_one_preview_a_second_and_errors_disable_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    picture, pixels = gradient(8, 8)
    cells = latents_of(pixels)
    clip = cells[None, :, None].expand(1, 4, 8, 8, 8)
    preview = Preview(cells, picture, clock=lambda: now)
    came = []
    for tenth in range(35):
        now = tenth / 10
        came.append(preview.of(clip) is not None)
    assert [tenth for tenth, there in enumerate(came) if there] == [10, 20, 30]
    now = 10.0
    assert preview.of(clip[:, :2]) is None  # no latents of ours
    assert "preview disabled" in capsys.readouterr().err
    now = 20.0
    assert preview.of(clip) is None
