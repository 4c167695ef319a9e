"""Cost and accuracy of the live preview's linear map, compared with the VAE decoder.

    python -m tests.bench.preview

For each held-out photograph one clip of the demonstration model, 128 pixels, 8 frames: milliseconds
of one thread for both, and PSNR to the decoded frames in the preview's size, before and after the
JPEG. The line is fitted on the photograph alone, and the clip moves.
"""

import time
from io import BytesIO
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from pipeline.children.protocol import PREVIEW_FRAMES
from pipeline.micro.training import heldout
from pipeline.micro.training.clip import Setting, load_on_cpu
from pipeline.micro.training.heldout import PROMPTS, to_image, truth
from pipeline.micro.training.motions import Motion
from pipeline.worker.diffusion.conditioning import encode_conditions
from pipeline.worker.diffusion.decode import decode
from pipeline.worker.diffusion.denoise import denoise
from pipeline.worker.model.loader import LoadedModel
from pipeline.worker.output.preview import colours, strip

SETTING = Setting(width=128, height=128, frames=PREVIEW_FRAMES, steps=4)


def priced(model: LoadedModel, picture: Image.Image) -> list[str]:
    """Return a row of the table."""
    prompt = PROMPTS[Motion.PAN_RIGHT]
    wanted, _ = encode_conditions(
        model, picture, [prompt], frames=SETTING.frames, fps=16, vae_tiling=False,
        on_step=lambda: None,
    )  # fmt: skip
    latents = denoise(
        model, SETTING.mode, SETTING.course, wanted, None, seed=0, guidance=1.0, rescale=0.0,
        on_step=lambda _: None,
    )  # fmt: skip
    times = [time.process_time()]
    line = colours(wanted.latents[0, :, 0], picture)
    times.append(time.process_time())
    jpeg = strip(latents[0], line)
    times.append(time.process_time())
    frames = decode(model, latents, SETTING.mode.policy, on_step=lambda _: None)
    times.append(time.process_time())
    assert jpeg is not None
    cells = latents[0].permute(1, 2, 3, 0).numpy() @ line[:-1] + line[-1]
    decoded = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255.0
    wanted_there = functional.interpolate(decoded, cells.shape[1:3], mode="area").permute(
        0, 2, 3, 1
    )
    shown = np.asarray(Image.open(BytesIO(jpeg)), np.float32) / 255.0
    across = wanted_there.permute(1, 0, 2, 3).reshape(shown.shape)
    spent = [1e3 * (after - before) for before, after in pairwise(times)]
    return [
        *(f"{each:.0f} ms" for each in spent),
        f"{len(jpeg)} B",
        f"{_decibels(cells.clip(0, 1), wanted_there.numpy()):.1f} dB",
        f"{_decibels(shown, across.numpy()):.1f} dB",
    ]


def _decibels(first: np.ndarray, second: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(first - second).mean()))


@torch.no_grad()
def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    model = load_on_cpu()
    table = Table("photograph", "fit", "strip", "VAE", "JPEG", "line", "shown", box=None)
    for number, larger in enumerate(heldout.photographs(SETTING), 1):
        table.add_row(
            str(number), *priced(model, to_image(truth(larger, Motion.STILL, SETTING)[0]))
        )
    Console().print(table)


if __name__ == "__main__":
    main()
