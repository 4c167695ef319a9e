"""The picture child's work in this process, without a child and its sandbox."""

import os
from pathlib import Path

from pipeline.children.clean_picture import pixel_memory, read_as_png, write_png
from pipeline.children.picture_file import open_picture
from pipeline.children.protocol import (
    Inspect,
    Inspected,
    Prepare,
    Prepared,
    Rejected,
    Unavailable,
)
from pipeline.image import server


def inspect(
    path: Path, within: Path | None = None, *, lenient: bool = False
) -> Inspected | Rejected | Unavailable:
    """Open a file as the parent does, and inspect it as the child does."""
    picture = open_picture(path, within)
    if not isinstance(picture, int):
        return picture
    try:
        return server.inspect(Inspect(lenient=lenient), picture)
    finally:
        os.close(picture)


def prepare(request: Prepare, path: Path, output: Path) -> Prepared | Rejected | Unavailable:
    """Prepare a picture as child and parent do together."""
    picture = open_picture(path)
    if not isinstance(picture, int):
        return picture
    try:
        with pixel_memory(request.width, request.height) as pixels:
            reply = server.prepare(request, picture, pixels)
            if isinstance(reply, Prepared):
                output.unlink(missing_ok=True)
                write_png(read_as_png(pixels, request.width, request.height), output)
            return reply
    finally:
        os.close(picture)
