"""Contact sheet: clips beside the ground truth.

    python -m pipeline.micro.training.sheet FILE.png

One row a prompt: the prompt, five frames of the ground truth, the same frames of the clip.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from pipeline.micro.training import heldout
from pipeline.micro.training.clip import Setting, generate_clip, load_on_cpu
from pipeline.micro.training.heldout import PROMPTS, to_image, truth
from pipeline.worker.model.loader import LoadedModel

WORDS, GAP = 190, 8  # pixels
SHOWN = 5  # frames


def contact_sheet(model: LoadedModel, setting: Setting) -> Image.Image:
    """Draw a row for each prompt, cycling through the photographs."""
    photographs = heldout.photographs(setting)
    chosen = np.linspace(0, setting.frames - 1, SHOWN).round().astype(int).tolist()
    wide, high = setting.width, setting.height
    sheet = Image.new("RGB", (WORDS + 2 * SHOWN * wide + GAP, high * len(PROMPTS)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (motion, prompt) in enumerate(PROMPTS.items()):
        true = truth(photographs[row % len(photographs)], motion, setting)
        made = generate_clip(model, to_image(true[0]), prompt, setting)
        draw.text((4, row * high + high // 2 - 6), prompt, fill="black")
        for column, frame in enumerate(chosen):
            left = WORDS + column * wide
            sheet.paste(to_image(true[frame]), (left, row * high))
            sheet.paste(to_image(made[frame]), (left + SHOWN * wide + GAP, row * high))
    return sheet


def main() -> None:
    """Write the contact sheet."""
    torch.set_num_threads(1)
    contact_sheet(load_on_cpu(), Setting()).save(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
