"""Video encoding compared with the ffmpeg command line: `python -m tests.bench.encode`.

The same frames with the same settings of x264, one after the other in turns. Ours also puts the
file on disk for good, decodes it again and checks it; ffmpeg (Debian's package) does not, and is
another build, so the files differ a little. Runs without ffmpeg end with a sentence.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.worker.output.frames import Frames
from pipeline.worker.output.video import write_video
from tests.bench.head import head

QUALITY = 17
FPS = 8
SHAPES = ((16, 256, 256), (16, 512, 512), (32, 1024, 1024))
"""Frames, height, width: of the smallest, the usual and the largest preset."""


def moving(frames: int, height: int, width: int) -> Frames:
    """Return frames of a camera that pans over a noisy texture: (frames, height, width, 3)."""
    rng = np.random.default_rng(1)
    far = rng.normal(size=(height // 8 + frames, width // 8 + frames, 3))
    soft = np.kron(far, np.ones((8, 8, 1)))
    for axis in (0, 1):
        soft = sum(np.roll(soft, shift, axis) for shift in range(-8, 9)) / 17
    soft = 128 + 90 * soft / np.abs(soft).max()
    views = [soft[n : n + height, 2 * n : 2 * n + width] for n in range(frames)]
    noisy = np.stack(views) + rng.normal(scale=3.0, size=(frames, height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def ours(path: Path, frames: Frames) -> None:
    """Encode as the worker does."""
    write_video(path, frames, fps=FPS, quality=QUALITY, encoder="x264", metadata={},
          on_step=lambda _: None)  # fmt: skip


def theirs(path: Path, frames: Frames) -> None:
    """Encode with the ffmpeg command line, fed by a pipe."""
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size,
         "-r", str(FPS), "-i", "-", "-vf", "scale=out_color_matrix=bt709:out_range=tv",
         "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "medium", "-profile:v", "high",
         "-x264-params", "mbtree=0", "-crf", str(QUALITY), "-threads", "4",
         "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709",
         "-color_range", "tv", "-movflags", "+faststart", str(path)],
        input=frames.tobytes(), check=True,
    )  # fmt: skip


def psnr(path: Path, frames: Frames) -> float:
    """Return the PSNR of the file's frames against the written ones, in dB."""
    with av.open(str(path)) as container:
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    error = np.square(np.stack(found).astype(float) - frames).mean()
    return float(10 * np.log10(255**2 / error))


def main() -> int:
    """Measure, print and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.encode")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if shutil.which("ffmpeg") is None:
        sys.stderr.write("ffmpeg is missing; to run this: apt-get install ffmpeg\n")
        return 2
    table = Table("frames", "i2vd", "ffmpeg", "ratio", "i2vd's file", "ffmpeg's", box=None)
    with tempfile.TemporaryDirectory(prefix="i2vd-bench-") as folder:
        for shape in SHAPES:
            table.add_row("{} of {}x{}".format(*shape), *_measured(Path(folder), shape, options))
    console = Console(width=120)
    console.print(head(f"medians of {options.rounds} rounds"))
    console.print(table)
    return 0


def _measured(
    folder: Path, shape: tuple[int, int, int], options: argparse.Namespace
) -> tuple[str, ...]:
    frames = moving(*shape)
    ways = {"ours": ours, "theirs": theirs}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way(folder / f"{name}.mp4", frames)
            seconds[name].append(time.perf_counter() - began)
    a, b = (statistics.median(each) for each in seconds.values())
    files = [folder / f"{name}.mp4" for name in ways]
    told = [f"{p.stat().st_size / 1e3:.0f} kB, {psnr(p, frames):.1f} dB" for p in files]
    return f"{a:.3f} s", f"{b:.3f} s", f"{b / a:.2f}", *told


if __name__ == "__main__":
    sys.exit(main())
