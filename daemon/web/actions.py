"""What the API may ask of the running daemon, besides what the services offer."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Actions:
    """Both may be called from any thread but `reload_rules`, which belongs to the event loop."""

    reload_rules: Callable[[], object]
    wake_watchers: Callable[[], None]
