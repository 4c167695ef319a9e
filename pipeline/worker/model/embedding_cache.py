"""Embedding cache: embeddings of the most recent prompts and pictures, on the host."""

from collections.abc import Callable, Hashable
from threading import Lock

from torch import Tensor

_MAX_ENTRIES = 64


class EmbeddingCache:
    """LRU cache that computes one entry at a time, because encoders are offloaded by layer."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, Tensor] = {}
        self._lock = Lock()

    def get(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """Return the entry of `key` on the host; call `compute` if there is none."""
        with self._lock:
            found = self._entries.pop(key, None)
            self._entries[key] = compute().cpu() if found is None else found
            while len(self._entries) > _MAX_ENTRIES:
                del self._entries[next(iter(self._entries))]
            return self._entries[key]

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self._entries.clear()
