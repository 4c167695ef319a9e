"""Faults on purpose, for tests of what the parent does about them.

I2VD_TEST_FAULT="KIND:STAGE[:WHEN,WHEN...]", heeded only with I2VD_TESTING=1. KIND: oom, die (as if
the kernel shot the child), hang, fail, lost (as if the device's context was lost). It strikes after
the stage's first step, and with WHEN only in attempts of one of these modes ("lean"), sizes
("64x64"), numbers of frames ("8f") or words of the prompt.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import get_args

import torch

from pipeline.protocol import Make, Stage

VARIABLE = "I2VD_TEST_FAULT"
_KINDS = ("oom", "die", "hang", "fail", "lost")


@dataclass(frozen=True)
class Fault:
    """One kind of fault in one stage."""

    kind: str
    stage: str
    when: frozenset[str]

    def strike(self, stage: Stage) -> None:
        """Fail as told if this is the stage."""
        if stage != self.stage:
            return
        if self.kind == "oom":
            raise torch.OutOfMemoryError("out of memory, on purpose")
        if self.kind == "fail":
            raise RuntimeError("failed, on purpose")
        if self.kind == "lost":
            raise RuntimeError("CUDA error: on purpose")
        if self.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            time.sleep(1.0)

    def concerns(self, order: Make) -> bool:
        """Whether it strikes in this attempt."""
        facts = {order.mode, f"{order.width}x{order.height}", f"{order.frames}f"}
        return not self.when or bool(self.when & (facts | set(order.spec.prompt.split())))


def from_environment() -> Fault | None:
    """The fault that is asked for. Exits where that is not a test, or makes no sense."""
    if not (text := os.environ.get(VARIABLE)):
        return None
    if os.environ.get("I2VD_TESTING") != "1":
        sys.exit(f"{VARIABLE} is set, but I2VD_TESTING=1 is not: this is for tests only")
    kind, _, rest = text.partition(":")
    stage, _, when = rest.partition(":")
    if kind not in _KINDS or stage not in get_args(Stage):
        sys.exit(f"{VARIABLE}={text}: wanted KIND:STAGE[:WHEN,...], KIND of {', '.join(_KINDS)}")
    return Fault(kind, stage, frozenset(filter(None, when.split(","))))
