"""Clips beside the true ones, as one picture.

    python -m pipeline.micro.training.sheet FILE.png

One row a prompt: its words, five frames of the true clip, the same five of the made one.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from pipeline.micro.training import heldout
from pipeline.micro.training.film import Setting, film, load_on_cpu
from pipeline.micro.training.heldout import PROMPTS, to_image, truth
from pipeline.worker.model.loader import LoadedModel

WORDS, GAP = 190, 8  # pixels
SHOWN = 5  # frames


def contact_sheet(model: LoadedModel, setting: Setting) -> Image.Image:
    """All prompts, on one photograph after the other."""
    photographs = heldout.photographs(setting)
    chosen = np.linspace(0, setting.frames - 1, SHOWN).round().astype(int).tolist()
    wide, high = setting.width, setting.height
    sheet = Image.new("RGB", (WORDS + 2 * SHOWN * wide + GAP, high * len(PROMPTS)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (motion, prompt) in enumerate(PROMPTS.items()):
        true = truth(photographs[row % len(photographs)], motion, setting)
        made = film(model, to_image(true[0]), prompt, setting)
        draw.text((4, row * high + high // 2 - 6), prompt, fill="black")
        for column, frame in enumerate(chosen):
            left = WORDS + column * wide
            sheet.paste(to_image(true[frame]), (left, row * high))
            sheet.paste(to_image(made[frame]), (left + SHOWN * wide + GAP, row * high))
    return sheet


def main() -> None:
    """Write the sheet."""
    torch.set_num_threads(1)
    contact_sheet(load_on_cpu(), Setting()).save(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
