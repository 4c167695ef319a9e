"""The compiler: has torch make kernels of the UNet's blocks, and uses them once they are proven.

What is made for a block serves all modules whose weights have the same shapes, and clips of all
sizes. The first time that it is used it is held against the block as it stands. What does not
compile, fails or differs is NotCompiled: then all is done without, for a clip is made in one way.
"""

import re
import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch._dynamo
import torch._inductor.config
import torch.fx.experimental._config
from torch import Tensor

from pipeline.worker.errors import first_line, is_device_lost, is_out_of_memory
from pipeline.worker.exact.block import through

LIMIT = 64
"""Most that is made for one block; the published UNet needs 14 for its resnets. More would mean
that something is made anew again and again."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference to the block as it stands, as a share of the largest value."""

_OPTIONS: tuple[tuple[Any, dict[str, Any]], ...] = (
    # a width that equals the height now, or the frames, need not do so in the next clip
    (torch.fx.experimental._config, {"use_duck_shape": False}),
    # no choice among kernels that add up in another order by which is faster today
    (torch._inductor.config, {"deterministic": True}),
)


class NotCompiled(Exception):
    """A block cannot be compiled, or what was made of it cannot be used."""


def _nothing() -> None:
    pass


class Compiler:
    """Of one worker. `limit`: most pieces that are made of one block.

    `forget` removes the code that was kept, for one that cannot be used may be a broken file there.
    `on_piece` is called when one more piece of code has been made and proven.
    """

    def __init__(
        self,
        backend: str | Callable[..., Any] = "inductor",
        limit: int = LIMIT,
        forget: Callable[[], None] = _nothing,
    ) -> None:
        self.pieces = 0
        self._limit = limit
        self._forget = forget
        self.usable = True
        self.on_piece: Callable[[], None] = _nothing
        self.rehearsed: set[Hashable] = set()
        """What was compiled for: the caller's words."""
        self._make = torch._dynamo.lookup_backend(backend) if isinstance(backend, str) else backend
        self._made: dict[Callable[..., Any], Callable[..., Any]] = {}
        torch._dynamo.reset()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within, blocks are compiled ones. They raise NotCompiled, and what they always raise."""
        with ExitStack() as stack:
            stack.enter_context(torch._dynamo.config.patch(recompile_limit=self._limit))
            for config, changes in _OPTIONS:
                stack.enter_context(config.patch(changes))
            stack.enter_context(through(self._run))
            yield

    def give_up(self, why: NotCompiled) -> None:
        """Say once that nothing is compiled from now on; the next worker begins anew."""
        if self.usable:
            print(f"nothing is compiled from now on: {why}", file=sys.stderr)
            self._forget()
        self.usable = False

    def _run(self, work: Callable[..., Any], *told: Any) -> Any:
        made = self._made.get(work)
        if made is None:
            made = torch.compile(work, backend=self._backend, dynamic=True, fullgraph=True)
            self._made[work] = made
        before = self.pieces
        # a view brings its origin's shape with it, for which a piece of its own would be made;
        # parameters stay what they are, for their shapes are taken as fixed
        bare = [each.data if type(each) is Tensor else each for each in told]
        try:
            given = made(*bare)
        except Exception as error:
            cause = getattr(error, "inner_exception", error)
            if is_out_of_memory(cause) or is_device_lost(cause):
                raise cause from None
            raise NotCompiled(f"{work.__name__}: {_complaint(cause)}") from error
        if self.pieces > before:
            given = self._proven(work, bare, given)
            self.on_piece()
        return given

    def _backend(self, graph: Any, inputs: Any, **options: Any) -> Any:
        self.pieces += 1
        return self._make(graph, inputs, **options)

    def _proven(self, work: Callable[..., Any], told: list[Any], given: Any) -> Any:
        """What was given, if it is as the plain block has it.

        It waits on the host meanwhile, so that the device holds no more than the plain block needs.
        """
        several = isinstance(given, tuple)
        waiting = [each.cpu() for each in (given if several else (given,))]
        device = (given[0] if several else given).device
        del given
        plain = work(*told)
        for ours, theirs in zip(waiting, plain if several else (plain,), strict=True):
            if (off := difference(ours, theirs)) > TOLERANCE[theirs.dtype]:
                raise NotCompiled(f"{work.__name__}: compiled, it differs by {off:.1e}")
        del plain, theirs
        back = tuple(each.to(device) for each in waiting)
        return back if several else back[0]


def _complaint(error: BaseException) -> str:
    """Its first line; and further down, in what a compiler printed, the first that is an error."""
    found = re.search(r"\n.*\berror: (.*)", str(error))
    return f"{first_line(error)}: {found[1]}" if found else first_line(error)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest one, as a share of the largest value; infinite where ours alone is no number.

    Row by row, for it has to do with little memory.
    """
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return float("inf")
    most = largest = 0.0
    for one, other in zip(ours, theirs, strict=True):
        wide = other.float()
        sound = torch.isfinite(wide)
        off = (one.to(other.device).float() - wide).abs()[sound].nan_to_num(nan=torch.inf)
        if len(off):
            most = max(most, float(off.max()))
            largest = max(largest, float(wide[sound].abs().max()))
    return most / largest if largest else most
