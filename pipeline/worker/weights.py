"""Where the weights are: mapped on the host at all times, on the device while they are brought.

Leaving the device costs nothing, because the host's copy is the file itself (or, where the type
differs, one conversion made at loading). On a CPU both are the same memory, unless it is budgeted.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from pipeline.source import ModelUnusable

_RENAMED = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
"""Names of the VAE's attention in files that diffusers wrote before 0.18."""


def read(files: Iterable[Path], dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of the files, mapped; those of another floating type are converted to `dtype`."""
    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    tensor = file.get_tensor(name)
                    tensors[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        except Exception as error:
            raise ModelUnusable(f"{path} cannot be read: {error}") from error
    return tensors


def assign(module: nn.Module, tensors: dict[str, Tensor], part: str) -> None:
    """Give a module that was built on `meta` its weights, without a copy. Raises ModelUnusable."""
    wanted = module.state_dict()
    given = {_current_name(name, wanted): tensor for name, tensor in tensors.items()}
    given = {name: tensor for name, tensor in given.items() if not name.endswith("position_ids")}
    if missing := sorted(wanted.keys() - given.keys()):
        raise ModelUnusable(f"{part}: weights lack {_some(missing)}")
    if strange := sorted(given.keys() - wanted.keys()):
        raise ModelUnusable(f"{part}: weights hold the unknown {_some(strange)}")
    wrong = [n for n in sorted(wanted) if wanted[n].shape != given[n].shape]
    if wrong:
        raise ModelUnusable(f"{part}: wrong shape of {_some(wrong)}")
    module.load_state_dict(given, assign=True)
    _fill_positions(module)


def _current_name(name: str, wanted: dict[str, Any]) -> str:
    if name in wanted:
        return name
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name if name in wanted else name.removeprefix("text_model.")


def _fill_positions(module: nn.Module) -> None:
    """CLIP's position numbers are in no file; they are the one thing left on `meta`."""
    for name, buffer in list(module.named_buffers()):
        if not buffer.is_meta:
            continue
        owner, _, key = name.rpartition(".")
        if key != "position_ids":
            raise ModelUnusable(f"{name} is neither in the weights nor known how to make")
        numbers = torch.arange(buffer.shape[-1]).expand(buffer.shape).clone()
        module.get_submodule(owner).register_buffer(key, numbers, persistent=False)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class Weights:
    """Brings modules' weights to one device and lets them leave it again.

    With `copy` they are copied even from host to host, so that a budget sees them come and go.
    """

    def __init__(self, device: torch.device, *, copy: bool = False) -> None:
        self.device = device
        self._copy = copy
        self._host: dict[Tensor, Tensor] = {}

    def hold(self, module: nn.Module) -> None:
        """Take the module's present tensors as the host's copy."""
        for tensor in _tensors(module):
            self._host[tensor] = tensor.data

    def bring(self, module: nn.Module, dtype: torch.dtype | None = None) -> None:
        """Have the module on the device, in its own type or in `dtype`. No work if it is there."""
        for tensor in _tensors(module):
            host = self._host[tensor]
            wanted = dtype if dtype and host.is_floating_point() else host.dtype
            if tensor.data_ptr() == host.data_ptr() or tensor.dtype != wanted:
                tensor.data = host.to(self.device, wanted, copy=self._copy)

    def held(self) -> int:
        """Bytes that the weights take on the device now; 0 where that is the host's memory."""
        pairs = self._host.items()
        return sum(here.nbytes for here, host in pairs if here.data_ptr() != host.data_ptr())

    def leave(self, module: nn.Module) -> None:
        """Release the module's memory on the device."""
        for tensor in _tensors(module):
            tensor.data = self._host[tensor]

    @contextmanager
    def piecewise(self, module: nn.Module, pieces: Iterable[nn.Module]) -> Iterator[None]:
        """Within, each piece is on the device only while it computes; the rest of `module` stays.

        Every piece's weights cross the bus at each call, so this is slow and needs little.
        """
        pieces = list(pieces)
        inside = {id(tensor) for piece in pieces for tensor in _tensors(piece)}
        self.leave(module)
        for tensor in _tensors(module):
            if id(tensor) not in inside:
                tensor.data = self._host[tensor].to(self.device, copy=self._copy)
        hooks = []
        for piece in pieces:
            hooks.append(piece.register_forward_pre_hook(lambda m, _: self.bring(m)))
            hooks.append(piece.register_forward_hook(lambda m, *_: self.leave(m)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self.leave(module)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
