"""How anything here is trained: some steps, an average of the weights, a file to resume from.

Every step draws its batch from generators seeded by the lesson's name, the seed and the step's
number. So a lesson that was cut off and resumed ends with the same weights as one that was not.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

WARM_UP = 50  # steps
SAVE_EVERY = 200  # steps


@dataclass
class Lesson:
    """What is learned, by which weights, from which loss, for how long.

    `loss` takes the generator of a step and returns a scalar. The learning rate stays at `rate` for
    the first `steady` of the steps, then falls along a cosine. The weights that are kept are an
    exponential average with the decay `average`.
    """

    name: str
    steps: int
    rate: float
    weights: nn.Module
    parameters: list[nn.Parameter]
    loss: Callable[[random.Random], Tensor]
    steady: float = 0.3
    average: float = 0.995


def rate_at(lesson: Lesson, step: int) -> float:
    """The learning rate of a step."""
    progress = (step / lesson.steps - lesson.steady) / (1 - lesson.steady)
    falling = 0.5 + 0.5 * math.cos(math.pi * max(0.0, progress))
    return lesson.rate * min(1.0, (step + 1) / WARM_UP) * falling + 1e-6


def learn(lesson: Lesson, folder: Path, seed: int, stop: int | None = None) -> None:
    """Train to the end, resuming from `folder` where there is a state; leave the averaged weights.

    The state of a finished lesson stays, so that a second call only loads the weights. With `stop`
    the lesson ends early, at that step, and can be resumed.
    """
    course = _Course(lesson)
    file = folder / f"{lesson.name}.pt"
    begin = course.resume(file) if file.exists() else 0
    started, recent = time.monotonic(), 0.0
    last = min(stop or lesson.steps, lesson.steps)
    for step in range(begin, last):
        loss = course.step(step, random.Random(f"{lesson.name} {seed} {step}"))
        recent = loss if step == begin else 0.98 * recent + 0.02 * loss
        done = step + 1
        if done % 50 == 0:
            seconds = time.monotonic() - started
            place = f"{lesson.name} {done}/{lesson.steps}"
            print(f"{place} {seconds:.0f} s loss {recent:.5f}", flush=True)
        if done % SAVE_EVERY == 0 or done == last:
            course.save(file, done)
    course.end()


class _Course:
    """The optimizer's way through a lesson, and the average of the weights on it."""

    def __init__(self, lesson: Lesson) -> None:
        self._lesson = lesson
        for parameter in lesson.weights.parameters():
            parameter.requires_grad_(False)
        for parameter in lesson.parameters:
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(
            lesson.parameters, lr=lesson.rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self._averaged = [parameter.detach().clone() for parameter in lesson.parameters]

    def resume(self, file: Path) -> int:
        """Take up the state that was saved; the steps that were done by then."""
        state = torch.load(file)
        self._lesson.weights.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._averaged = state["averaged"]
        return int(state["step"])

    def step(self, step: int, rng: random.Random) -> float:
        """Learn from what the dice show; the loss before it."""
        lesson = self._lesson
        torch.manual_seed(rng.getrandbits(62))
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(lesson, step)
        loss = lesson.loss(rng)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(lesson.parameters, 1.0)
        self._optimizer.step()
        decay = min(lesson.average, (step + 1) / (step + 20))
        with torch.no_grad():
            for kept, parameter in zip(self._averaged, lesson.parameters, strict=True):
                kept.lerp_(parameter, 1 - decay)
        return float(loss.item())

    def save(self, file: Path, done: int) -> None:
        """Leave the state after so many steps, whole or not at all."""
        state = {
            "step": done,
            "weights": self._lesson.weights.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "averaged": self._averaged,
        }
        partial = file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(file)

    def end(self) -> None:
        """Have the averaged weights in place of the last ones."""
        with torch.no_grad():
            for kept, parameter in zip(self._averaged, self._lesson.parameters, strict=True):
                parameter.copy_(kept)
