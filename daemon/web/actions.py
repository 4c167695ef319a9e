"""Actions of the running daemon that the API can trigger."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Actions:
    """Callables of the daemon; call `reload_rules` on the event loop, the others on any thread."""

    reload_rules: Callable[[], object]
    wake_watchers: Callable[[], None]
