"""Picture file: open an untrusted file for the picture child, which opens nothing itself.

Others may replace the file or a folder on its way, and a share may never answer.
"""

import asyncio
import concurrent.futures
import errno
import hashlib
import os
import threading
from collections import Counter
from pathlib import Path
from typing import BinaryIO

from pipeline.children.protocol import Rejected, Unavailable
from rules.read_error import advise
from rules.text_file import NotRegular, open_regular

MAX_FILE_BYTES = 512 * 2**20
"""A larger file is no picture, and is not read."""

_OPEN_TIMEOUT_SECONDS = 5.0
_BLOCK_BYTES = 1 << 20

_GONE = "the file is gone"
_REJECTIONS = {
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _GONE,
    errno.ELOOP: "it is a symbolic link",
}
"""Errors that say something of the file. Every other one is of the place, and may pass."""


def describe_read_error(error: OSError, path: Path | None = None) -> str:
    """Return a sentence for an error of the place, after which reading is tried again."""
    text = os.strerror(error.errno or errno.EIO).lower()
    return f"the file cannot be read: {text}; {advise(error, path)}; it will be tried again"


def picture_digest(file: BinaryIO) -> str | None:
    """Return the SHA-256 of a file at position 0; None if it is larger than a picture may be."""
    if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
        return None
    digest, left = hashlib.sha256(), MAX_FILE_BYTES
    while block := file.read(_BLOCK_BYTES):
        left -= len(block)
        if left < 0:  # it has grown
            return None
        digest.update(block)
    return digest.hexdigest()


def open_picture(path: Path, within: Path | None = None) -> int | Rejected | Unavailable:
    """Open a regular file for reading, without following a symlink or blocking on a pipe.

    Below `within` no folder on the path may be a symlink either, because others could redirect it.
    The caller closes the descriptor.
    """
    try:
        return _open(path, within)
    except NotRegular:
        return Rejected(reason="it is not a regular file")
    except OSError as error:
        reason = _REJECTIONS.get(error.errno or 0)
        if reason is not None:
            return Rejected(reason=reason, gone=reason == _GONE)
        return Unavailable(reason=describe_read_error(error, path))


def _open(path: Path, within: Path | None) -> int:
    if within is None:
        return open_regular(path)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
    parent = os.open(within, flags)
    for folder in path.relative_to(within).parts[:-1]:
        outer = parent
        try:
            parent = os.open(folder, flags | os.O_NOFOLLOW, dir_fd=outer)
        finally:
            os.close(outer)
    try:
        return open_regular(path.name, dir_fd=parent)
    finally:
        os.close(parent)


class PictureOpener:
    """Opens pictures in threads of their own, so that a share that hangs delays nobody else.

    While an opening in a folder hangs, no other one is started there: a dead share holds one
    thread for each of its folders that were asked for at the same time, and not more with time.
    """

    def __init__(self) -> None:
        self._hanging: Counter[Path] = Counter()
        self._lock = threading.Lock()

    async def open(self, path: Path, within: Path | None = None) -> int | Rejected | Unavailable:
        """Open as `open_picture` does; Unavailable if the folder does not answer in time."""
        folder = within or path.parent
        answer = Unavailable(reason=f"{folder} does not answer; the file will be tried again")
        with self._lock:
            if self._hanging[folder]:
                return answer
        opening: concurrent.futures.Future[int | Rejected | Unavailable]
        opening = concurrent.futures.Future()

        def run() -> None:
            try:
                opening.set_result(open_picture(path, within))
            except BaseException as error:
                opening.set_exception(error)

        threading.Thread(target=run, name="open picture", daemon=True).start()
        waiting = asyncio.wrap_future(opening)
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_SECONDS):
                return await asyncio.shield(waiting)
        except TimeoutError:
            self._abandon(opening, folder)
            return answer
        except asyncio.CancelledError:
            self._abandon(opening, folder)
            raise

    def close(self, picture: int) -> None:
        """Close the descriptor of a picture in a thread: that may take as long as to open it."""
        threading.Thread(
            target=os.close, args=(picture,), name="close picture", daemon=True
        ).start()

    def _abandon(
        self, opening: "concurrent.futures.Future[int | Rejected | Unavailable]", folder: Path
    ) -> None:
        with self._lock:
            self._hanging[folder] += 1

        def close(done: "concurrent.futures.Future[int | Rejected | Unavailable]") -> None:
            with self._lock:
                self._hanging[folder] -= 1
            if not done.exception() and isinstance(descriptor := done.result(), int):
                os.close(descriptor)

        opening.add_done_callback(close)
