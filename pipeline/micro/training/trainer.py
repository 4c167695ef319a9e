"""Trainer: optimizer steps, an exponential moving average of the weights, resumable state.

Every step draws its batch from generators seeded by stage name, seed and step number. So a stage
that was interrupted and resumed ends with the same weights as one that was not.
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
class TrainingStage:
    """One training stage: trained parameters, loss, number of steps and learning rate.

    `loss` takes the generator of a step and returns a scalar. The learning rate stays at `rate` for
    the share `steady` of the steps, then follows a cosine decay. The result is a moving average of
    the weights with the decay `average`.
    """

    name: str
    steps: int
    rate: float
    weights: nn.Module
    parameters: list[nn.Parameter]
    loss: Callable[[random.Random], Tensor]
    steady: float = 0.3
    average: float = 0.995


def rate_at(stage: TrainingStage, step: int) -> float:
    """Return the learning rate of a step."""
    progress = (step / stage.steps - stage.steady) / (1 - stage.steady)
    falling = 0.5 + 0.5 * math.cos(math.pi * max(0.0, progress))
    return stage.rate * min(1.0, (step + 1) / WARM_UP) * falling + 1e-6


def train_stage(stage: TrainingStage, folder: Path, seed: int, stop: int | None = None) -> None:
    """Train to the end and set the averaged weights; resume if `folder` has a state.

    The state of a finished stage is kept, so that a second call only loads the weights. With `stop`
    the stage ends early, at that step, and can be resumed.
    """
    training = _TrainingState(stage)
    file = folder / f"{stage.name}.pt"
    begin = training.resume(file) if file.exists() else 0
    started, recent = time.monotonic(), 0.0
    last = min(stop or stage.steps, stage.steps)
    for step in range(begin, last):
        loss = training.step(step, random.Random(f"{stage.name} {seed} {step}"))
        recent = loss if step == begin else 0.98 * recent + 0.02 * loss
        done = step + 1
        if done % 50 == 0:
            seconds = time.monotonic() - started
            position = f"{stage.name} {done}/{stage.steps}"
            print(f"{position} {seconds:.0f} s loss {recent:.5f}", flush=True)
        if done % SAVE_EVERY == 0 or done == last:
            training.save(file, done)
    training.end()


class _TrainingState:
    """Optimizer, and the moving average of the weights."""

    def __init__(self, stage: TrainingStage) -> None:
        self._stage = stage
        for parameter in stage.weights.parameters():
            parameter.requires_grad_(False)
        for parameter in stage.parameters:
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(
            stage.parameters, lr=stage.rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self._averaged = [parameter.detach().clone() for parameter in stage.parameters]

    def resume(self, file: Path) -> int:
        """Load a saved state; return its number of completed steps."""
        state = torch.load(file)
        self._stage.weights.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._averaged = state["averaged"]
        return int(state["step"])

    def step(self, step: int, rng: random.Random) -> float:
        """Run one optimizer step; return the loss before it."""
        stage = self._stage
        torch.manual_seed(rng.getrandbits(62))
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(stage, step)
        loss = stage.loss(rng)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(stage.parameters, 1.0)
        self._optimizer.step()
        decay = min(stage.average, (step + 1) / (step + 20))
        with torch.no_grad():
            for averaged, parameter in zip(self._averaged, stage.parameters, strict=True):
                averaged.lerp_(parameter, 1 - decay)
        return float(loss.item())

    def save(self, file: Path, done: int) -> None:
        """Save the state after a number of steps, atomically."""
        state = {
            "step": done,
            "weights": self._stage.weights.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "averaged": self._averaged,
        }
        partial = file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(file)

    def end(self) -> None:
        """Replace the weights by their moving average."""
        with torch.no_grad():
            for averaged, parameter in zip(self._averaged, self._stage.parameters, strict=True):
                parameter.copy_(averaged)
