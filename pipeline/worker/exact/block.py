"""Blocks: the parts of our forwards that a compiler may have.

A block is a plain function of modules and tensors. It changes none of what it is given, keeps
nothing, and asks nothing of memory or storage, so that it can be traced whole, and modules of the
same shapes share what was made of it. What is done once a clip, in pieces, or in place stays
outside.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Run = Callable[..., Any]
"""Gets a block's work and what it is told, and gives what the work would."""

_run: ContextVar[Run | None] = ContextVar("run", default=None)


def block(work: Callable[P, T]) -> Callable[P, T]:
    """Have a function run as `through` says; else as it is."""

    @wraps(work)
    def running(*told: P.args, **named: P.kwargs) -> T:
        run = _run.get()
        if run is None:
            return work(*told, **named)
        result: T = run(work, *told, **named)
        return result

    return running


@contextmanager
def through(run: Run) -> Iterator[None]:
    """Within, blocks are run by `run`."""
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)
