"""GIF of pictures and the clips generated from them.

    python -m pipeline.micro.training.gif OUTBOX ARCHIVE FILE.gif

One column a clip: above the picture, cropped as in the clip, below the playing clip.
"""

import sys
from pathlib import Path

import av
from PIL import Image, ImageOps

SIDE = 128
GAP = 6


def columns(outbox: Path, archive: Path) -> list[tuple[Image.Image, list[Image.Image]]]:
    """Read each clip in `outbox`, with the picture of the same name in `archive`."""
    found = []
    for clip in sorted(outbox.glob("*.mp4")):
        picture = next(archive.glob(f"{clip.stem}.*"))
        with Image.open(picture) as image, av.open(str(clip)) as container:
            size = (SIDE, SIDE)
            arrays = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            frames = [Image.fromarray(a).resize(size, Image.Resampling.BICUBIC) for a in arrays]
            found.append((ImageOps.fit(image, size, Image.Resampling.LANCZOS), frames))
    return found


def sheet(parts: list[tuple[Image.Image, list[Image.Image]]], number: int) -> Image.Image:
    """Draw frame `number` of all clips below their pictures."""
    size = (len(parts) * (SIDE + GAP) - GAP, 2 * SIDE + GAP)
    whole = Image.new("RGB", size, "white")
    for column, (picture, frames) in enumerate(parts):
        left = column * (SIDE + GAP)
        whole.paste(picture, (left, 0))
        whole.paste(frames[min(number, len(frames) - 1)], (left, SIDE + GAP))
    return whole


def main() -> None:
    """Write the GIF: forward, then backward at double speed, so that the loop is smooth."""
    outbox, archive, file = map(Path, sys.argv[1:])
    parts = columns(outbox, archive)
    length = max(len(frames) for _, frames in parts)
    order = [*range(length), *range(length - 3, 1, -2)]
    sheets = [sheet(parts, number) for number in order]
    first, *rest = [whole.quantize(64, dither=Image.Dither.NONE) for whole in sheets]
    first.save(file, save_all=True, append_images=rest, duration=125, loop=0, optimize=True)


if __name__ == "__main__":
    main()
