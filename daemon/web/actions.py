"""Actions of the running daemon that the API can trigger."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Actions:
    """Callables of the daemon; await `reload_rules` on the event loop, call the others anywhere."""

    reload_rules: Callable[[], Awaitable[object]]
    wake_watchers: Callable[[], None]
