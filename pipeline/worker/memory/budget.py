"""A budget for the device's memory: a share of a GPU, or a count of live tensors on a CPU.

On a CPU nothing says how much a clip needs, and nothing stops it. Counted and limited, the whole
way down the ladder can be walked on a machine without a GPU.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_GRAIN_BYTES = 512


class TensorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's metaclass
    """Counts the bytes of all tensors that are made while it is entered, until they die.

    Over `limit` bytes torch.OutOfMemoryError is raised, by the operation that asked for too much.
    Storages of the one kind of device are counted once, in pieces of 512 bytes as CUDA's allocator
    gives them.
    """

    def __init__(self, limit: int, kind: str = "cpu") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit = limit
        self.kind = kind
        self.live = 0
        self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let the operation run, then count what is new in its result."""
        known = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in known:
                self._count(leaf.untyped_storage())
        if self.live > self.limit:
            raise torch.OutOfMemoryError(
                f"out of memory: {self.live} bytes in use, the budget is {self.limit}"
            )
        return result

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._seen or storage.device.type != self.kind:
            return
        size = -(-storage.nbytes() // _GRAIN_BYTES) * _GRAIN_BYTES

        def gone(_: Any) -> None:
            self.live -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


class Budget:
    """What the device may use, and what it has used at most."""

    def __init__(self, device: torch.device, limit: int | None) -> None:
        self._device = device
        self._limit = limit
        self._counter = TensorCounter(limit) if limit and device.type == "cpu" else None
        if limit and device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)

    @property
    def counts(self) -> bool:
        """Whether tensors are counted here, so that copies on the host must be real ones."""
        return self._counter is not None

    def free(self) -> int | None:
        """Bytes that may be used from now on, those in use included; None where nobody counts.

        What torch holds is ours, in use or not; what other processes hold is not.
        """
        if self._device.type != "cuda":
            return self._limit
        free, _ = torch.cuda.mem_get_info(self._device)
        ours = free + torch.cuda.memory_reserved(self._device)
        return ours if self._limit is None else min(ours, self._limit)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within, the budget holds, and the peak is counted anew."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        if self._counter is None:
            yield
            return
        self._counter.peak = self._counter.live
        with self._counter:
            yield

    def live(self) -> int | None:
        """Bytes in use now; None where nobody counts them."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return self._counter.live if self._counter else None

    def peak(self) -> int | None:
        """Most bytes in use since `kept` was entered; None where nobody counts them."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device)
        return self._counter.peak if self._counter else None
