"""Image child: decodes untrusted files under resource limits, without a GPU.

It answers Inspect (is the picture valid, and what is it?) and Prepare (write a clean PNG at the
clip's size). A file is read once, so that the SHA-256 is that of the decoded bytes. A decoder that
crashes or hangs this process costs one picture only.
"""

import hashlib
import io
import os
from pathlib import Path

from pipeline.children.channel import Channel, ParentGone
from pipeline.children.protocol import (
    Failed,
    Inspect,
    Inspected,
    Prepare,
    Prepared,
    Rejected,
    Unavailable,
)
from pipeline.durable import fsync_dir, fsync_file
from pipeline.image.colour import UnsupportedColours, apply_framing
from pipeline.image.decode import decode
from pipeline.image.errors import ImageRejected, SourceUnavailable
from pipeline.image.limits import limit_from_environment, machine_lacks_memory, memory_limit
from pipeline.image.source import read, strerror


def inspect(request: Inspect) -> Inspected | Rejected | Unavailable:
    """Decode the whole file and return its properties."""
    try:
        data = read(Path(request.path), Path(request.within))
        picture = decode(data, needed=1, lenient=request.lenient)
        return Inspected(
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            width=picture.size[0],
            height=picture.size[1],
            format=picture.format,
            caption=picture.caption,
        )
    except (ImageRejected, SourceUnavailable, MemoryError) as error:
        return _refusal(error)


def prepare(request: Prepare) -> Prepared | Rejected | Unavailable | Failed:
    """Write a clean PNG of the requested size. Failed: it cannot be written."""
    try:
        data = read(Path(request.path), Path(request.within))
        if hashlib.sha256(data).hexdigest() != request.sha256:
            raise ImageRejected("the file has changed since it was first looked at", gone=True)
        picture = decode(
            data, needed=2 * max(request.width, request.height), lenient=True
        )  # intake has accepted it
        clean = apply_framing(
            picture.image, picture.profile, request.width, request.height, request.framing
        )
        png = io.BytesIO()
        clean.save(png, "PNG")
    except UnsupportedColours as mode:
        return Rejected(reason=f"the picture's colours are of an unsupported kind, {mode}")
    except (ImageRejected, SourceUnavailable, MemoryError) as error:
        return _refusal(error)
    try:
        write(Path(request.output), png.getbuffer())
    except OSError as error:
        reason = f"the prepared picture cannot be written: {strerror(error)}"
        return Failed(stage="condition", reason=reason, retry=True)
    return Prepared()


def _refusal(error: ImageRejected | SourceUnavailable | MemoryError) -> Rejected | Unavailable:
    match error:
        case ImageRejected():
            return Rejected(reason=str(error), gone=error.gone, incomplete=error.incomplete)
        case SourceUnavailable():
            return Unavailable(reason=str(error))
    if machine_lacks_memory():
        return Unavailable(reason="the machine is out of memory; it will be tried again")
    return Rejected(
        reason=f"the picture needs more memory than the {memory_limit()} MiB it may have"
    )


def write(output: Path, content: memoryview) -> None:
    """Write atomically: write beside `output`, fsync, rename, fsync the folder."""
    beside = output.with_name(f"{output.name}.part")
    beside.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(beside, flags, 0o600), "wb") as file:  # noqa: PTH123  # a descriptor
        file.write(content)
        file.flush()
        fsync_file(file.fileno())
    beside.rename(output)
    fsync_dir(output.parent)


def main() -> int:
    """Answer requests until the parent exits."""
    limit_from_environment()
    channel = Channel.open()
    try:
        while True:
            match channel.receive():
                case Inspect() as request:
                    channel.send(inspect(request))
                case Prepare() as request:
                    channel.send(prepare(request))
                case other:
                    raise TypeError(f"the picture child was asked to {other.type}")
    except ParentGone:
        return 0
