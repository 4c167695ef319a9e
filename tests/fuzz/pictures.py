"""`python -m tests.fuzz.pictures --count N --seed S`: damaged pictures for the real picture child.

Each is inspected and, where it is accepted, prepared, through the decoder that the daemon has. The
table counts what came of them. A picture that ended or hung its child is kept in `--keep`, and
`--replay FILE ...` asks again. Exit code 1 when anything but the child died, an answer was no
sentence, a prepared picture was not of the size asked, or the child rose over its memory.
"""

import argparse
import asyncio
import os
import random
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.image_pool import ImagePool
from pipeline.children.protocol import Rejected
from pipeline.image.limits import DEFAULT_MEMORY, MEMORY
from pipeline.request.presets import MICRO_FAMILY
from pipeline.request.spec import Request, resolve
from rules.characters import has_unsafe
from tests.fuzz.corpus import corpus
from tests.fuzz.mutate import Mutant, mutant

_LONGEST_SENTENCE = 300


@dataclass
class Figures:
    """What came of the pictures."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)
    peak: int = 0
    """Bytes that a child had in memory at most."""
    heaviest: str = ""
    slowest: float = 0.0
    """Seconds of the slowest answer."""
    slow: str = ""
    complaints: list[str] = field(default_factory=list)


class Fuzz:
    """Asks one decoder of one picture after another."""

    def __init__(self, folder: Path, keep: Path) -> None:
        self.figures = Figures()
        self._picture, self._output = folder / "mutant.bin", folder / "clean.png"
        self._keep = keep
        self._lost: list[ChildFailure] = []
        self._decoder = ImagePool(lambda _: None, self._lost.append)

    async def run(self, mutants: Iterable[tuple[str, Mutant]]) -> Figures:
        """Ask all, then end the child."""
        try:
            for number, each in mutants:
                await self._try(number, each)
        finally:
            await self._decoder.close()
        return self.figures

    async def _try(self, number: str, each: Mutant) -> None:
        figures, told = self.figures, f"{number} ({each.made})"
        self._picture.write_bytes(each.data)
        began, self._lost[:] = time.monotonic(), []
        try:
            figures.counts[await self._ask(number)] += 1
        except Exception as error:
            figures.complaints.append(f"{told}: {error!r}")
            self._save(number, each)
        seconds = time.monotonic() - began
        if seconds > figures.slowest:
            figures.slowest, figures.slow = seconds, told
        if (peak := child_status("VmHWM")) > figures.peak:
            figures.peak, figures.heaviest = peak, told
        if self._lost:
            figures.losses.update(loss.reason for loss in self._lost)
            self._save(number, each)
        figures.complaints += [
            f"{told}: {loss.reason}" for loss in self._lost if loss.cause == "channel"
        ]

    async def _ask(self, number: str) -> str:
        rng = random.Random(number)
        found = await self._decoder.inspect(self._picture)
        if isinstance(found, Rejected):
            self._note(found)
            return "refused"
        request = Request(
            preset="draft",
            framing=rng.choice(("crop", "fit", "blur")),
            aspect=rng.choice(("square", "source", "16:9")),
        )
        spec = resolve(
            request,
            MICRO_FAMILY,
            source=(found.width, found.height),
            sha256=found.sha256,
            rng=rng,
        )
        self._output.unlink(missing_ok=True)
        prepared = await self._decoder.prepare(self._picture, found.sha256, spec, self._output)
        if isinstance(prepared, Rejected):
            self._note(prepared)
            return "accepted, then refused"
        with Image.open(self._output, formats=["PNG"]) as clean:
            clean.load()
            what = (clean.mode, clean.size, clean.info)
        if what != ("RGB", (spec.width, spec.height), {}):
            raise AssertionError(f"the clean picture is {what}")
        return "accepted and prepared"

    def _note(self, refusal: Rejected) -> None:
        reason = refusal.reason
        if refusal.gone or has_unsafe(reason) or not 0 < len(reason) < _LONGEST_SENTENCE:
            raise AssertionError(f"no sentence for a user: {refusal!r}")
        self.figures.reasons[re.sub(r"\d+", "N", reason)] += 1

    def _save(self, number: str, each: Mutant) -> None:
        self._keep.mkdir(parents=True, exist_ok=True)
        (self._keep / f"{number}.bin").write_bytes(each.data)


def child_status(key: str) -> int:
    """Bytes that /proc/PID/status tells of our newest child; 0 where there is none now."""
    own = os.getpid()
    for child in reversed(Path(f"/proc/{own}/task/{own}/children").read_text().split()):
        status = Path(f"/proc/{child}/status").read_text()
        if f"{key}:" in status:
            return int(status.split(f"{key}:")[1].split()[0]) * 1024
    return 0


def limit_of_child() -> int:
    """Bytes that the child may have."""
    return int(os.environ.get(MEMORY, DEFAULT_MEMORY)) * 2**20


def mutants(count: int, seed: int) -> Iterator[tuple[str, Mutant]]:
    """So many damaged pictures, each with its number."""
    sound = corpus()
    for number in range(count):
        yield f"{seed}-{number}", mutant(sound, seed, number)


def replayed(files: Iterable[Path]) -> Iterator[tuple[str, Mutant]]:
    """Pictures that were kept."""
    for file in files:
        yield file.stem, Mutant(file.read_bytes(), "replayed")


def tell(figures: Figures, console: Console) -> None:
    """The table, and what there is to complain of."""
    table = Table("what", "how many")
    for what, count in figures.counts.most_common():
        table.add_row(what, str(count))
    table.add_section()
    for reason, count in figures.reasons.most_common():
        table.add_row(reason, str(count))
    table.add_section()
    for reason, count in figures.losses.most_common():
        table.add_row(f"child lost: {reason}", str(count))
    table.add_section()
    table.add_row(f"highest memory, at {figures.heaviest}", f"{figures.peak / 2**20:.0f} MiB")
    table.add_row(f"slowest answer, of {figures.slow}", f"{figures.slowest:.2f} s")
    console.print(table)
    for complaint in figures.complaints:
        console.print(f"[red]{complaint}[/]", highlight=False)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.pictures", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "i2vd-fuzz")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE")
    options = parser.parse_args()
    chosen = replayed(options.replay) if options.replay else mutants(options.count, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(Fuzz(Path(folder), options.keep).run(chosen))
    peak_of_all = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    figures.peak = max(figures.peak, peak_of_all)
    if figures.peak > limit_of_child():
        figures.complaints.append(f"a child had {figures.peak / 2**20:.0f} MiB")
    tell(figures, Console(width=120))
    if figures.losses:
        print(f"pictures that cost a child lie in {options.keep}")
    return 1 if figures.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
