"""Faults on purpose, for tests of what the parent does about them.

I2VD_TEST_FAULT="KIND:STAGE[:WHEN,WHEN...]", several with ";" between, heeded only with
I2VD_TESTING=1. KIND: oom, fragmented (oom with enough idle), leak, die (as if the kernel shot the
child), crash, hang, slow, fail, lost (as if the device's context was lost), rubbish (on the
channel). It strikes after the stage's first step. Or what the stage gave is spoilt: nan (latents);
black, grey, grey-end, frozen, other (frames). With WHEN it is so only in attempts of one of these
modes ("lean"), sizes ("64x64"), numbers of frames ("8f") or words of the prompt. A WHEN with a "/"
is the path of a token: the fault strikes as often as it can take that file away.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pipeline.children.protocol import Generate, Stage

VARIABLE = "I2VD_TEST_FAULT"


def _no_memory() -> None:
    import torch

    raise torch.OutOfMemoryError("out of memory, on purpose")


def _no_piece() -> None:
    import torch

    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 7.79 GiB of "
        "which 93.69 MiB is free. Process 77 has 7.70 GiB memory in use. Of the allocated memory "
        "4.25 GiB is allocated by PyTorch, and 3.20 GiB is reserved by PyTorch but unallocated."
    )


_leaked: list[Any] = []


def _leak() -> None:
    import torch

    _leaked.append(torch.empty(300 << 20, dtype=torch.uint8))


def _fail() -> None:
    raise RuntimeError("failed, on purpose")


def _lose_device() -> None:
    import torch

    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _crash() -> None:
    os.abort()


def _hang() -> None:
    while True:
        time.sleep(1.0)


def _babble() -> None:
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        if descriptor.is_socket():
            os.write(int(descriptor.name), b"a library's banner\n")


_STRIKES: dict[str, Callable[[], None]] = {
    "oom": _no_memory,
    "fragmented": _no_piece,
    "leak": _leak,
    "fail": _fail,
    "lost": _lose_device,
    "die": _die,
    "crash": _crash,
    "hang": _hang,
    "slow": lambda: time.sleep(3.0),
    "rubbish": _babble,
}


def _grey_end(frames: Any) -> Any:
    frames = frames.copy()
    frames[-1] = 127
    return frames


_SPOILS: dict[str, Callable[[Any], Any]] = {
    "nan": lambda latents: latents * float("nan"),
    "black": lambda frames: frames * 0,
    "grey": lambda frames: frames * 0 + 127,
    "grey-end": _grey_end,
    "frozen": lambda frames: frames[:1].repeat(len(frames), 0),
    "other": lambda frames: 255 - frames,
}
"""From latents to latents, or from frames to frames."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault in one stage."""

    kind: str
    stage: str
    when: frozenset[str] = frozenset()
    token: Path | None = None

    def inject(self, stage: Stage) -> None:
        """Fail as told if this is the stage."""
        if stage == self.stage and self.kind in _STRIKES and self._may():
            _STRIKES[self.kind]()

    def spoil_values(self, stage: Stage, values: Any) -> Any:
        """What the stage gave, or something worse."""
        if stage != self.stage or self.kind not in _SPOILS or not self._may():
            return values
        return _SPOILS[self.kind](values)

    def concerns(self, order: Generate) -> bool:
        """Whether it strikes in this attempt."""
        facts = {order.mode, f"{order.width}x{order.height}", f"{order.frames}f"}
        return not self.when or bool(self.when & (facts | set(order.spec.prompt.split())))

    def _may(self) -> bool:
        if self.token is None:
            return True
        try:
            self.token.unlink()
        except FileNotFoundError:
            return False
        return True


def from_environment() -> tuple[Fault, ...]:
    """The faults that are asked for. Exits where that is not a test, or makes no sense."""
    if not (text := os.environ.get(VARIABLE)):
        return ()
    if os.environ.get("I2VD_TESTING") != "1":
        sys.exit(f"{VARIABLE} is set, but I2VD_TESTING=1 is not: this is for tests only")
    return tuple(map(_parse, text.split(";")))


def _parse(text: str) -> Fault:
    kind, _, rest = text.partition(":")
    stage, _, when = rest.partition(":")
    kinds = (*_STRIKES, *_SPOILS)
    if kind not in kinds or stage not in get_args(Stage):
        sys.exit(f"{VARIABLE}={text}: wanted KIND:STAGE[:WHEN,...], KIND of {', '.join(kinds)}")
    words = [word for word in when.split(",") if word]
    tokens = [Path(word) for word in words if "/" in word]
    return Fault(
        kind,
        stage,
        frozenset(word for word in words if "/" not in word),
        tokens[0] if tokens else None,
    )
