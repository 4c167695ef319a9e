"""Start-up time of a worker until the first step of a clip, by milestone.

    python -m tests.bench.start [--starts 3]

The real child with the demonstration model, on a CPU: seconds by the clock and of its processor
time, each since the one before. The later starts find all files in the kernel's cache.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from pipeline.children.protocol import Generate, Load, Progress
from pipeline.memory.modes import Mode
from pipeline.request.presets import MICRO
from tests.bench.head import head
from tests.pipeline.worker.kit import Peer, a_picture, a_spec

_TICK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--starts", type=int, default=3)
    with tempfile.TemporaryDirectory() as folder:
        starts = [dict(marks(Path(folder))) for _ in range(parser.parse_args().starts)]
    table = Table("until", "first start", "processor", "later starts", "processor")
    before = dict.fromkeys(range(len(starts)), (0.0, 0.0))
    for what in starts[0]:
        steps = [
            (start[what][0] - before[n][0], start[what][1] - before[n][1])
            for n, start in enumerate(starts)
        ]
        before = {n: start[what] for n, start in enumerate(starts)}
        later = [f"{median(each):.2f} s" for each in zip(*steps[1:] or steps, strict=True)]
        table.add_row(what, *(f"{each:.2f} s" for each in steps[0]), *later)
    console = Console(width=100)
    console.print(head("python -m tests.bench.start"))
    console.print(table)


def marks(folder: Path) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield milestones with the wall-clock and CPU seconds since the child's start."""
    since = time.monotonic()
    peer = Peer(folder)

    def at() -> tuple[float, float]:
        fields = Path(f"/proc/{peer.process.pid}/stat").read_text().rpartition(")")[2].split()
        return time.monotonic() - since, (int(fields[11]) + int(fields[12])) / _TICK

    try:
        peer.receive()
        yield "the child is up", at()
        peer.send(Load(model=MICRO, device="cpu", dtype="float32"))
        _until(peer, "start", 1)
        yield "torch is imported", at()
        _until(peer, "start", 2)
        yield "diffusers and transformers too", at()
        peer.final()
        yield "the model is loaded", at()
        a_picture().save(folder / "clean.png")
        spec = a_spec(guidance=1.0)
        size = {"width": spec.width, "height": spec.height, "frames": spec.frames}
        peer.send(
            Generate(job="1", spec=spec, mode=Mode.RESIDENT, picture=str(folder / "clean.png"),
                 staging=str(folder), **size)
        )  # fmt: skip
        _until(peer, "denoise", 1)
        yield "the first step is done", at()
    finally:
        peer.end()


def _until(peer: Peer, stage: str, step: int) -> None:
    while True:
        progress = peer.receive()
        assert isinstance(progress, Progress), progress
        if (progress.stage, progress.step) == (stage, step):
            return


if __name__ == "__main__":
    main()
