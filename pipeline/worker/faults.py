"""Fault injection, for tests of how the parent reacts.

I2VD_TEST_FAULT="KIND:STAGE[:WHEN,WHEN...]", several separated by ";". Needs I2VD_TESTING=1. KIND:
oom, fragmented (oom with enough idle memory), leak, die (SIGKILL, as by the OOM killer), crash,
hang, slow, fail, lost (CUDA context), rubbish (on the channel). These are injected after the first
step of the stage. Or the output of the stage is corrupted: nan (latents); black, grey, grey-end,
frozen, other (frames). WHEN limits the fault to attempts with one of these memory modes
("chunked"), sizes ("64x64"), numbers of frames ("8f") or words of the prompt. A WHEN with a "/" is
the path of a token file: each injection removes the file, and without it nothing is injected.
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


def _run_out_of_memory() -> None:
    import torch

    raise torch.OutOfMemoryError("out of memory, on purpose")


def _run_out_of_contiguous_memory() -> None:
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


def _write_rubbish() -> None:
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        if descriptor.is_socket():
            os.write(int(descriptor.name), b"a library's banner\n")


_ACTIONS: dict[str, Callable[[], None]] = {
    "oom": _run_out_of_memory,
    "fragmented": _run_out_of_contiguous_memory,
    "leak": _leak,
    "fail": _fail,
    "lost": _lose_device,
    "die": _die,
    "crash": _crash,
    "hang": _hang,
    "slow": lambda: time.sleep(3.0),
    "rubbish": _write_rubbish,
}


def _grey_end(frames: Any) -> Any:
    frames = frames.copy()
    frames[-1] = 127
    return frames


_CORRUPTIONS: dict[str, Callable[[Any], Any]] = {
    "nan": lambda latents: latents * float("nan"),
    "black": lambda frames: frames * 0,
    "grey": lambda frames: frames * 0 + 127,
    "grey-end": _grey_end,
    "frozen": lambda frames: frames[:1].repeat(len(frames), 0),
    "other": lambda frames: 255 - frames,
}
"""Functions from latents to latents, or from frames to frames."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault in one stage."""

    kind: str
    stage: str
    when: frozenset[str] = frozenset()
    token: Path | None = None

    def inject(self, stage: Stage) -> None:
        """Inject the fault if this is its stage."""
        if stage == self.stage and self.kind in _ACTIONS and self._take_token():
            _ACTIONS[self.kind]()

    def corrupt(self, stage: Stage, values: Any) -> Any:
        """Return the output of the stage, corrupted if this is the fault's stage."""
        if stage != self.stage or self.kind not in _CORRUPTIONS or not self._take_token():
            return values
        return _CORRUPTIONS[self.kind](values)

    def applies_to(self, request: Generate) -> bool:
        """Return True if the fault applies to this attempt."""
        facts = {request.mode, f"{request.width}x{request.height}", f"{request.frames}f"}
        return not self.when or bool(self.when & (facts | set(request.spec.prompt.split())))

    def _take_token(self) -> bool:
        if self.token is None:
            return True
        try:
            self.token.unlink()
        except FileNotFoundError:
            return False
        return True


def from_environment() -> tuple[Fault, ...]:
    """Parse the faults in the environment. Exits if they are invalid, or outside of tests."""
    if not (text := os.environ.get(VARIABLE)):
        return ()
    if os.environ.get("I2VD_TESTING") != "1":
        sys.exit(f"{VARIABLE} is set, but I2VD_TESTING=1 is not: this is for tests only")
    return tuple(map(_parse, text.split(";")))


def _parse(text: str) -> Fault:
    kind, _, rest = text.partition(":")
    stage, _, when = rest.partition(":")
    kinds = (*_ACTIONS, *_CORRUPTIONS)
    if kind not in kinds or stage not in get_args(Stage):
        sys.exit(f"{VARIABLE}={text}: expected KIND:STAGE[:WHEN,...], KIND of {', '.join(kinds)}")
    words = [word for word in when.split(",") if word]
    tokens = [Path(word) for word in words if "/" in word]
    return Fault(
        kind,
        stage,
        frozenset(word for word in words if "/" not in word),
        tokens[0] if tokens else None,
    )
