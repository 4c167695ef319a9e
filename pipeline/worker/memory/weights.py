"""Weights: memory-mapped on the host at all times, and on the device while they are loaded.

Unloading needs no copy, because the host's copy is the file itself (or one conversion at loading,
if the type differs). On a CPU both are the same memory, unless tensors are counted.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from pipeline.checkpoint.layout import ModelUnusable

_RENAMED = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
"""Names of the VAE's attention weights in files written by diffusers before 0.18."""


@contextmanager
def empty_weights() -> Iterator[None]:
    """Build networks with parameters on `meta`, real buffers, and no initialisation.

    Buffers that are in no file, such as CLIP's position ids, are therefore complete.
    """
    # explicit, because ACCELERATE_INIT_INCLUDE_BUFFERS would change the default
    with init_empty_weights(include_buffers=False), no_init_weights():
        yield


def read_tensors(files: Iterable[Path], dtype: torch.dtype) -> dict[str, Tensor]:
    """Map all tensors of the files; convert those of another floating type to `dtype`.

    Raises ModelUnusable.
    """
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


def assign_tensors(module: nn.Module, tensors: dict[str, Tensor], part: str) -> None:
    """Assign the weights of a module that was built on `meta`, without a copy.

    Raises ModelUnusable if names or shapes do not match.
    """
    expected = module.state_dict()
    given = {_current_name(name, expected): tensor for name, tensor in tensors.items()}
    given = {name: tensor for name, tensor in given.items() if not name.endswith("position_ids")}
    if missing := sorted(expected.keys() - given.keys()):
        raise ModelUnusable(f"{part}: weights lack {_list_some(missing)}")
    if unknown := sorted(given.keys() - expected.keys()):
        raise ModelUnusable(f"{part}: weights hold the unknown {_list_some(unknown)}")
    wrong = [n for n in sorted(expected) if expected[n].shape != given[n].shape]
    if wrong:
        raise ModelUnusable(f"{part}: wrong shape of {_list_some(wrong)}")
    module.load_state_dict(given, assign=True)


def _current_name(name: str, expected: dict[str, Any]) -> str:
    if name in expected:
        return name
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name if name in expected else name.removeprefix("text_model.")


def _list_some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def join_tensors(
    tensors: Sequence[Tensor], sources: Sequence[Tensor], device: torch.device
) -> None:
    """Copy `sources` to a device, adjacent in memory, and make them the data of `tensors`."""
    rows = [len(source) for source in sources]
    first = sources[0]
    whole = torch.empty((sum(rows), *first.shape[1:]), dtype=first.dtype, device=device)
    for tensor, source, part in zip(tensors, sources, whole.split(rows), strict=True):  # type: ignore[no-untyped-call]
        part.copy_(source)
        tensor.data = part


def joined_view(tensors: Sequence[Tensor]) -> Tensor | None:
    """View tensors of the same width as one, if they are adjacent in memory; else return None."""
    first, end = tensors[0], tensors[0].storage_offset()
    for tensor in tensors:
        if not tensor.is_contiguous() or tensor.storage_offset() != end:
            return None
        if tensor.untyped_storage()._cdata != first.untyped_storage()._cdata:
            return None
        end += tensor.numel()
    return first.as_strided((sum(map(len, tensors)), *first.shape[1:]), first.stride())


_FORMATS = {
    4: (torch.contiguous_format, torch.channels_last),
    5: (torch.contiguous_format, torch.channels_last_3d),
}
"""Memory formats of convolution weights by number of dimensions: contiguous, channels last."""


class Weights:
    """Loads the weights of modules to one device, and unloads them.

    With `copy` they are copied even from host to host, so that `TensorCounter` counts them.
    """

    def __init__(self, device: torch.device, *, copy: bool = False) -> None:
        self.device = device
        self._copy = copy
        self._host: dict[Tensor, Tensor] = {}
        self._groups: dict[Tensor, Sequence[Tensor]] = {}
        self._pinned: set[nn.Module] = set()

    def register(self, module: nn.Module, adjacent: Iterable[Sequence[Tensor]] = ()) -> None:
        """Take the current tensors of the module as the host's copy.

        The tensors of each group in `adjacent` are adjacent in memory once they are loaded.
        """
        for group in adjacent:
            self._groups |= dict.fromkeys(group, group)
        for tensor in tensors_of(module):
            self._host[tensor] = tensor.data

    @property
    def _copies(self) -> bool:
        """True if loaded weights are in other memory than the host's copy."""
        return self._copy or self.device.type != "cpu"

    def pin(self, module: nn.Module) -> None:
        """Move the host's copy to pinned memory, for asynchronous copies to a GPU; permanent."""
        if self.device.type != "cuda" or module in self._pinned:
            return
        self.unload(module)
        for tensor in tensors_of(module):
            self._host[tensor] = tensor.data = tensor.data.pin_memory()
        self._pinned.add(module)

    def load(
        self,
        module: nn.Module,
        dtype: torch.dtype | None = None,
        *,
        except_for: Iterable[nn.Module] = (),
    ) -> None:
        """Load the module to the device, in its own type or in `dtype`, unless it is loaded.

        Submodules in `except_for` are not moved.
        """
        excluded = {tensor for part in except_for for tensor in tensors_of(part)}
        for tensor in tensors_of(module):
            if tensor in excluded:
                continue
            host = self._host[tensor]
            target = dtype if dtype and host.is_floating_point() else host.dtype
            if not self._is_unloaded(tensor) and tensor.dtype == target:
                continue
            if self._copies and (group := self._groups.get(tensor)) and target == host.dtype:
                join_tensors(group, [self._host[each] for each in group], self.device)
            else:
                tensor.data = host.to(self.device, target, copy=self._copy)

    def set_layout(self, module: nn.Module, *, channels_last: bool) -> None:
        """Set the memory format of convolution weights that are loaded on a GPU.

        It must match that of the inputs; otherwise cuDNN converts the weights in each forward.
        """
        if self.device.type != "cuda":
            return
        for tensor in tensors_of(module):
            formats = _FORMATS.get(tensor.ndim)
            if formats and not self._is_unloaded(tensor):
                tensor.data = tensor.data.contiguous(memory_format=formats[channels_last])

    def device_bytes(self) -> int:
        """Return the bytes of loaded weights; 0 if the device uses the host's copy."""
        pairs = self._host.items()
        return sum(here.nbytes for here, host in pairs if here.data_ptr() != host.data_ptr())

    def unload(self, module: nn.Module) -> None:
        """Free the memory of the module on the device."""
        for tensor in tensors_of(module):
            tensor.data = self._host[tensor]

    def side_stream(self) -> torch.cuda.Stream | None:
        """Create a CUDA stream for copies that overlap computation; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def start_loading(self, module: nn.Module, stream: torch.cuda.Stream | None) -> None:
        """Start to load a module; on a GPU the copy runs on `stream` and overlaps computation.

        The current stream allocates the memory, and the copy waits for that stream. So memory that
        was freed and reused is never overwritten too early.
        """
        targets = [(t, self._allocate_for(t)) for t in tensors_of(module) if self._is_unloaded(t)]
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for tensor, target in targets:
                target.copy_(self._host[tensor], non_blocking=True)
                tensor.data = target

    def _allocate_for(self, tensor: Tensor) -> Tensor:
        return torch.empty_like(self._host[tensor], device=self.device)

    def _is_unloaded(self, tensor: Tensor) -> bool:
        return bool(tensor.untyped_storage()._cdata == self._host[tensor].untyped_storage()._cdata)


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Yield the parameters and buffers of a module."""
    yield from module.parameters()
    yield from module.buffers()
