"""What the encoders made of the prompts and pictures that were asked for last."""

from collections.abc import Callable, Hashable
from threading import Lock

from torch import Tensor

_KEPT = 64


class EmbeddingCache:
    """Kept on the host. One is made at a time, for an encoder's layers come and go."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Tensor] = {}
        self._making = Lock()

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives; kept by its key, on the host."""
        with self._making:
            found = self._kept.pop(key, None)
            self._kept[key] = make().cpu() if found is None else found
            while len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]
            return self._kept[key]

    def clear(self) -> None:
        """Keep none."""
        with self._making:
            self._kept.clear()
