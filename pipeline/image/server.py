"""Image child: decodes untrusted files under resource limits, without a GPU.

It answers Inspect (is the picture valid, and what is it?) and Prepare (its pixels at the clip's
size). A file is read once, so that the SHA-256 is that of the decoded bytes. A decoder that
crashes or hangs this process costs one picture only; sandbox.py keeps it from more.
"""

import codecs
import hashlib
import mmap

from PIL import Image

from pipeline.children.channel import Channel, ParentGone
from pipeline.children.protocol import (
    Hello,
    Inspect,
    Inspected,
    Prepare,
    Prepared,
    Rejected,
    Reply,
    Request,
    Unavailable,
)
from pipeline.image import caption
from pipeline.image.colour import UnsupportedColours, apply_framing
from pipeline.image.decode import decode
from pipeline.image.errors import ImageRejected, SourceUnavailable
from pipeline.image.limits import limit_from_environment, memory_limit
from pipeline.image.memory import MachineMemory
from pipeline.image.sandbox import enter as enter_sandbox
from pipeline.image.source import read

_PILLOWS_ENCODINGS = ("ascii", "latin-1", "utf-8", "utf-16", "utf-16-be", "utf-32")

_machine_memory = MachineMemory()


def inspect(request: Inspect, picture_file: int) -> Inspected | Rejected | Unavailable:
    """Decode the whole file behind the descriptor and return its properties."""
    try:
        data = read(picture_file)
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


def prepare(request: Prepare, picture_file: int, pixels: int) -> Prepared | Rejected | Unavailable:
    """Decode the file, and write its pixels at the requested size into the memory `pixels`."""
    try:
        data = read(picture_file)
        if hashlib.sha256(data).hexdigest() != request.sha256:
            raise ImageRejected("the file has changed since it was first looked at", gone=True)
        picture = decode(
            data, needed=2 * max(request.width, request.height), lenient=True
        )  # intake has accepted it
        clean = apply_framing(
            picture.image, picture.profile, request.width, request.height, request.framing
        ).tobytes()
        with mmap.mmap(pixels, len(clean)) as memory:
            memory[:] = clean
    except UnsupportedColours as mode:
        return Rejected(reason=f"the picture's colours are of an unsupported kind, {mode}")
    except (ImageRejected, SourceUnavailable, MemoryError) as error:
        return _refusal(error)
    return Prepared()


def _refusal(error: ImageRejected | SourceUnavailable | MemoryError) -> Rejected | Unavailable:
    match error:
        case ImageRejected():
            return Rejected(reason=str(error), gone=error.gone, incomplete=error.incomplete)
        case SourceUnavailable():
            return Unavailable(reason=str(error))
    if _machine_memory.is_short(memory_limit() * 2**20):
        return Unavailable(reason="the machine is out of memory; it will be tried again")
    return Rejected(
        reason=f"the picture needs more memory than the {memory_limit()} MiB it may have"
    )


def main() -> int:
    """Answer requests until the parent exits."""
    limit_from_environment()
    load_codecs()
    try:
        channel = Channel.open(lambda: Hello(unprotected=tuple(enter_sandbox())))
        while True:
            request = channel.receive()
            with channel.descriptors() as descriptors:
                reply = _answer(request, descriptors)
            channel.send(reply)
    except ParentGone:
        return 0


def load_codecs() -> None:
    """Load everything that decoding may need, because in the sandbox no file can be opened."""
    Image.preinit()  # called by Image.open
    for encoding in (*caption.ENCODINGS, *_PILLOWS_ENCODINGS):
        codecs.lookup(encoding)


def _answer(request: Request, descriptors: list[int]) -> Reply:
    match request, descriptors:
        case Inspect(), [picture_file]:
            return inspect(request, picture_file)
        case Prepare(), [picture_file, pixels]:
            return prepare(request, picture_file, pixels)
        case other, _:
            raise TypeError(f"the picture child was asked to {other.type}")
