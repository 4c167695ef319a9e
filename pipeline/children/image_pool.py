"""Image pool: opens pictures for the two image children, and writes what they return.

A lane holds one child; what it does with a picture is image/decode.py's.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

from pipeline.children.clean_picture import pixel_memory, read_as_png, write_png
from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.image_lane import Answer, ImageLane
from pipeline.children.picture_file import PictureOpener
from pipeline.children.protocol import (
    Hello,
    Inspect,
    Inspected,
    Prepare,
    Prepared,
    Rejected,
    Unavailable,
)
from pipeline.request.spec import Spec

_FAST_TIMEOUT_SECONDS = 5.0
"""Timeout of the fast lane, where a picture delays the others."""
_SLOW_TIMEOUT_SECONDS = 60.0
"""Timeout of the slow lane, which only such pictures use."""

InThread = Callable[[Callable[[], None]], Awaitable[None]]
"""Calls a function in a thread."""


class PoisonImage(Rejected):
    """Picture that crashed or timed out two children; an unfinished copy never does that."""


class ImagePool:
    """Inspects and prepares pictures in child processes without a GPU.

    A child may fail once by accident, and a large picture may take long on a slow machine. So a
    request that fails or times out is repeated once in a second child. That child exists only for
    such requests, so that other pictures never wait for them.
    """

    def __init__(
        self, on_line: Callable[[str], None], on_failure: Callable[[ChildFailure], None]
    ) -> None:
        self._fast = ImageLane(on_line, on_failure)
        self._slow = ImageLane(on_line, on_failure)
        self._opener = PictureOpener()

    async def start(self) -> Hello | ChildFailure:
        """Start the first child; return its first message, which describes its sandbox."""
        return await self._fast.start()

    async def inspect(
        self, path: Path, within: Path | None = None, *, lenient: bool = False
    ) -> Inspected | Rejected | Unavailable:
        """Decode the whole file and return its properties.

        Below `within`, a folder that others may write to, symlinks are not followed. `lenient` as
        in `Inspect`.
        """
        return await self.inspect_quickly(
            path, within, lenient=lenient
        ) or await self.inspect_slowly(path, within, lenient=lenient)

    async def inspect_quickly(
        self, path: Path, within: Path | None = None, *, lenient: bool = False
    ) -> Inspected | Rejected | Unavailable | None:
        """Inspect in the fast lane only; None on failure or timeout: use `inspect_slowly` then."""
        async with self._opened(path, within) as picture:
            if not isinstance(picture, int):
                return picture
            request = Inspect(lenient=lenient)
            answer = await self._fast.ask(request, [picture], Inspected, _FAST_TIMEOUT_SECONDS)
            return None if isinstance(answer, ChildFailure) else answer

    async def inspect_slowly(
        self, path: Path, within: Path | None = None, *, lenient: bool = False
    ) -> Inspected | Rejected | Unavailable:
        """Inspect in the slow lane, the second and last try."""
        async with self._opened(path, within) as picture:
            if not isinstance(picture, int):
                return picture
            return await self._ask_slowly(Inspect(lenient=lenient), [picture], Inspected)

    async def prepare(
        self,
        path: Path,
        sha256: str,
        spec: Spec,
        output: Path,
        within: Path | None = None,
        in_thread: InThread = asyncio.to_thread,
    ) -> Prepared | Rejected | Unavailable:
        """Write the picture, framed as in the Spec, as a clean PNG to `output`.

        `within` as for `inspect`. `in_thread` calls what writes, because `output` may be on a share
        that hangs. Raises OSError if `output` cannot be written.
        """
        request = Prepare(sha256=sha256, width=spec.width, height=spec.height, framing=spec.framing)
        return await self._prepare(path, within, request, output, in_thread)

    async def thumbnail(
        self, path: Path, sha256: str, size: tuple[int, int], output: Path, within: Path
    ) -> Prepared | Rejected | Unavailable:
        """Write the whole picture, fitted into `size` (width, height), as a clean PNG to `output`.

        `within` as for `inspect`. Raises OSError if `output` cannot be written.
        """
        request = Prepare(sha256=sha256, width=size[0], height=size[1], framing="fit")
        return await self._prepare(path, within, request, output, asyncio.to_thread)

    async def close(self) -> None:
        """End the children."""
        await self._fast.close()
        await self._slow.close()

    async def _prepare(
        self,
        path: Path,
        within: Path | None,
        request: Prepare,
        output: Path,
        in_thread: InThread,
    ) -> Prepared | Rejected | Unavailable:
        size = request.width, request.height
        async with self._opened(path, within) as picture:
            if not isinstance(picture, int):
                return picture
            with pixel_memory(*size) as pixels:
                given = [picture, pixels]
                answer: Prepared | Rejected | Unavailable | ChildFailure
                answer = await self._fast.ask(request, given, Prepared, _FAST_TIMEOUT_SECONDS)
                if isinstance(answer, ChildFailure):
                    answer = await self._ask_slowly(request, given, Prepared)
                if isinstance(answer, Prepared):
                    png = await asyncio.to_thread(read_as_png, pixels, *size)
                    await in_thread(partial(write_png, png, output))
                return answer

    async def _ask_slowly(
        self, request: Inspect | Prepare, descriptors: list[int], expected: type[Answer]
    ) -> Answer | Rejected | Unavailable:
        answer = await self._slow.ask(request, descriptors, expected, _SLOW_TIMEOUT_SECONDS)
        if isinstance(answer, ChildFailure):
            if not answer.blames_request:
                return Unavailable(reason=f"{answer.reason}; the picture is tried again")
            return PoisonImage(reason=f"{answer.reason}, 2 times")
        await self._slow.close()
        return answer

    @contextlib.asynccontextmanager
    async def _opened(
        self, path: Path, within: Path | None
    ) -> AsyncIterator[int | Rejected | Unavailable]:
        """Yield a descriptor of the file, or why there is none."""
        picture = await self._opener.open(path, within)
        try:
            yield picture
        finally:
            if isinstance(picture, int):
                self._opener.close(picture)
