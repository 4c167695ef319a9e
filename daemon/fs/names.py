"""File names: numbered when a name is taken, and cut to what a file system allows."""

from collections.abc import Iterator

_MAX_NAME_BYTES = 255


def numbered_names(stem: str, suffix: str) -> Iterator[str]:
    """Yield `cat.mp4`, `cat-2.mp4`, ..., each at most 255 bytes long."""
    for number in range(1, 1_000_000):
        tail = (f"-{number}" if number > 1 else "") + suffix
        available = _MAX_NAME_BYTES - len(tail.encode())
        yield stem.encode()[:available].decode(errors="ignore") + tail


def truncate_name(stem: str, suffix: str) -> str:
    """Return `stem` + `suffix`, with the stem cut to fit into 255 bytes."""
    return next(numbered_names(stem, suffix))
