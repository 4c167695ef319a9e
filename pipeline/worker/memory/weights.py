"""Where the weights are: mapped on the host at all times, on the device while they are brought.

Leaving the device costs nothing, because the host's copy is the file itself (or, where the type
differs, one conversion made at loading). On a CPU both are the same memory, unless it is budgeted.
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
"""Names of the VAE's attention in files that diffusers wrote before 0.18."""


@contextmanager
def empty_weights() -> Iterator[None]:
    """Build networks without weights: parameters on `meta`, buffers computed, nothing initialised.

    Buffers that are in no file, such as CLIP's position numbers, are therefore complete.
    """
    # explicit, because ACCELERATE_INIT_INCLUDE_BUFFERS would change the default
    with init_empty_weights(include_buffers=False), no_init_weights():
        yield


def read_tensors(files: Iterable[Path], dtype: torch.dtype) -> dict[str, Tensor]:
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


def assign_tensors(module: nn.Module, tensors: dict[str, Tensor], part: str) -> None:
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


def _current_name(name: str, wanted: dict[str, Any]) -> str:
    if name in wanted:
        return name
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name if name in wanted else name.removeprefix("text_model.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def join_tensors(
    tensors: Sequence[Tensor], sources: Sequence[Tensor], device: torch.device
) -> None:
    """Have tensors hold on a device what `sources` do, one after the other in memory."""
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


_ORDERS = {
    4: (torch.contiguous_format, torch.channels_last),
    5: (torch.contiguous_format, torch.channels_last_3d),
}
"""Of a convolution's kernels, by their dimensions: as they come, and with channels last."""


class Weights:
    """Brings modules' weights to one device and lets them leave it again.

    With `copy` they are copied even from host to host, so that a budget sees them come and go.
    """

    def __init__(self, device: torch.device, *, copy: bool = False) -> None:
        self.device = device
        self._copy = copy
        self._host: dict[Tensor, Tensor] = {}
        self._groups: dict[Tensor, Sequence[Tensor]] = {}
        self._pinned: set[nn.Module] = set()

    def hold(self, module: nn.Module, together: Iterable[Sequence[Tensor]] = ()) -> None:
        """Take the module's present tensors as the host's copy.

        Those of each group in `together` will lie one after the other where they are copied to.
        """
        for group in together:
            self._groups |= dict.fromkeys(group, group)
        for tensor in tensors_of(module):
            self._host[tensor] = tensor.data

    @property
    def _copies(self) -> bool:
        """Whether what is brought is other memory than the host's."""
        return self._copy or self.device.type != "cpu"

    def pin(self, module: nn.Module) -> None:
        """Have the host's copy where a GPU can fetch it while it computes; once and for good."""
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
        but: Iterable[nn.Module] = (),
    ) -> None:
        """Have the module on the device, in its own type or in `dtype`. No work if it is there.

        Those of its parts that are named by `but` stay where they are.
        """
        left_out = {tensor for part in but for tensor in tensors_of(part)}
        for tensor in tensors_of(module):
            if tensor in left_out:
                continue
            host = self._host[tensor]
            wanted = dtype if dtype and host.is_floating_point() else host.dtype
            if not self._is_away(tensor) and tensor.dtype == wanted:
                continue
            if self._copies and (group := self._groups.get(tensor)) and wanted == host.dtype:
                join_tensors(group, [self._host[each] for each in group], self.device)
            else:
                tensor.data = host.to(self.device, wanted, copy=self._copy)

    def set_layout(self, module: nn.Module, *, channels_last: bool) -> None:
        """Have the kernels of its convolutions, where they are copies, in one order or the other.

        Of whole tensors on a GPU: what a convolution is given it would else reorder each time.
        """
        if self.device.type != "cuda":
            return
        for tensor in tensors_of(module):
            orders = _ORDERS.get(tensor.ndim)
            if orders and not self._is_away(tensor):
                tensor.data = tensor.data.contiguous(memory_format=orders[channels_last])

    def held(self) -> int:
        """Bytes that the weights take on the device now; 0 where that is the host's memory."""
        pairs = self._host.items()
        return sum(here.nbytes for here, host in pairs if here.data_ptr() != host.data_ptr())

    def unload(self, module: nn.Module) -> None:
        """Release the module's memory on the device."""
        for tensor in tensors_of(module):
            tensor.data = self._host[tensor]

    def side_stream(self) -> torch.cuda.Stream | None:
        """A stream that copies while others compute, where the device has such."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def start_loading(self, module: nn.Module, stream: torch.cuda.Stream | None) -> None:
        """Begin to bring a module that is away; on a GPU `stream` copies while others compute.

        The memory is taken by the current stream, and the copy waits for it, so that memory which
        is given back and taken again is never written too early.
        """
        places = [(t, self._room_for(t)) for t in tensors_of(module) if self._is_away(t)]
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for tensor, place in places:
                place.copy_(self._host[tensor], non_blocking=True)
                tensor.data = place

    def _room_for(self, tensor: Tensor) -> Tensor:
        return torch.empty_like(self._host[tensor], device=self.device)

    def _is_away(self, tensor: Tensor) -> bool:
        return bool(tensor.untyped_storage()._cdata == self._host[tensor].untyped_storage()._cdata)


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    yield from module.parameters()
    yield from module.buffers()
