"""Monkey-patching: replace the forward of unmodified diffusers modules for a while."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

Patches = Mapping[nn.Module, Callable[..., Any]]
"""Modules, and the functions that replace their forward."""


@contextmanager
def patched(patches: Patches) -> Iterator[None]:
    """Replace the forwards within the context, and restore them afterwards."""
    before = {module: vars(module).get("forward") for module in patches}
    for module, forward in patches.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, earlier in before.items():
            if earlier is None:
                del module.forward
            else:
                module.forward = earlier


@contextmanager
def forward_hooks(
    modules: Iterable[nn.Module], before: Callable[..., None], after: Callable[..., None]
) -> Iterator[None]:
    """Call `before` and `after` around each forward of the modules, within the context."""
    handles = []
    for module in modules:
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
