"""Memory budget of the device: a share of a GPU, or a count of live tensors on a CPU.

PyTorch neither measures nor limits memory on a CPU. With a counter that does both, the whole
ladder of fallbacks can be exercised on a machine without a GPU.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_BLOCK_BYTES = 512


class TensorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's metaclass
    """Counter of the bytes of all tensors created while the mode is active, until they are freed.

    Above `limit` bytes the operation that allocated too much raises torch.OutOfMemoryError. Each
    storage on a device of type `kind` counts once, in blocks of 512 bytes as in CUDA's allocator.
    """

    def __init__(self, limit: int, kind: str = "cpu") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit = limit
        self.kind = kind
        self.live = 0
        self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then count the new storages in its result."""
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
        size = -(-storage.nbytes() // _BLOCK_BYTES) * _BLOCK_BYTES

        def on_freed(_: Any) -> None:
            self.live -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, on_freed)
        self.live += size
        self.peak = max(self.peak, self.live)


class Budget:
    """Limit of the memory that the worker may use on its device, and the peak of its use."""

    def __init__(self, device: torch.device, limit: int | None) -> None:
        self._device = device
        self._limit = limit
        self._counter = TensorCounter(limit) if limit and device.type == "cpu" else None
        if limit and device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)

    @property
    def counts(self) -> bool:
        """True if tensors are counted, so that weights must be copied even from host to host."""
        return self._counter is not None

    def free(self) -> int | None:
        """Return the bytes that a clip may use, including those in use; None if there is no limit.

        Memory that PyTorch has reserved is available to the clip; that of other processes is not.
        """
        if self._device.type != "cuda":
            return self._limit
        free, _ = torch.cuda.mem_get_info(self._device)
        available = free + torch.cuda.memory_reserved(self._device)
        return available if self._limit is None else min(available, self._limit)

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Enforce the limit within the context, and reset the peak."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        if self._counter is None:
            yield
            return
        self._counter.peak = self._counter.live
        with self._counter:
            yield

    def live(self) -> int | None:
        """Return the bytes in use now; None if they are not counted."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return self._counter.live if self._counter else None

    def peak(self) -> int | None:
        """Return the most bytes in use since `enforced` was entered; None if not counted."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device)
        return self._counter.peak if self._counter else None
