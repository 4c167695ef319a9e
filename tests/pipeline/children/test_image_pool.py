"""The picture child as a process: its talk, its limits, and what its end costs."""

import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from pydantic import BaseModel

from pipeline.children.clean_picture import pixel_memory
from pipeline.children.protocol import (
    CHANNEL_FD,
    Cancel,
    Hello,
    Inspect,
    Inspected,
    Load,
    Prepare,
    Prepared,
    Rejected,
    Reply,
    dump,
    read_reply,
)
from pipeline.image.limits import MEMORY, PIXELS
from tests.fuzz.corpus import checked, encoded, scene

ROOT = Path(__file__).parents[3]
CAT = ROOT / "daemon" / "samples" / "cat.jpg"


class Child:
    """A few lines of a parent."""

    def __init__(self, *prefix: str, module: str = "pipeline.image", **env: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", module],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **env, CHANNEL_FD: str(theirs.fileno())},
            )
        ours.settimeout(60)
        self.socket = ours
        self.lines = ours.makefile("rb")

    def receive(self) -> Reply | None:
        line = self.lines.readline()
        return read_reply(line) if line else None

    def ask(self, request: BaseModel, *descriptors: int) -> Reply | None:
        socket.send_fds(self.socket, [dump(request)], descriptors)
        return self.receive()

    def inspect(self, path: Path) -> Reply | None:
        with path.open("rb") as file:
            return self.ask(Inspect(), file.fileno())

    def prepare(self, path: Path, sha256: str, size: tuple[int, int]) -> bytes:
        """The pixels that it leaves."""
        request = Prepare(sha256=sha256, width=size[0], height=size[1], framing="blur")
        with path.open("rb") as file, pixel_memory(*size) as pixels:
            assert self.ask(request, file.fileno(), pixels) == Prepared()
            return os.pread(pixels, 10**9, 0)

    def __enter__(self) -> "Child":
        first = self.receive()
        assert isinstance(first, Hello)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> int:
        self.lines.close()
        self.socket.close()
        self.process.communicate(timeout=20)
        return self.process.wait(timeout=20)


@pytest.fixture
def child() -> Iterator[Child]:
    with Child() as child:
        yield child


def test_it_inspects_and_prepares_one_after_another(child, tmp_path):
    (tmp_path / "rubbish.png").write_bytes(b"rubbish")
    for _ in range(3):
        found = child.inspect(CAT)
        assert isinstance(found, Inspected)
        assert found.sha256 == hashlib.sha256(CAT.read_bytes()).hexdigest()
        pixels = child.prepare(CAT, found.sha256, (64, 96))
        assert len(pixels) == 64 * 96 * 3
        assert len(set(pixels)) > 100
        assert isinstance(child.inspect(tmp_path / "rubbish.png"), Rejected)
    assert child.close() == 0


def test_it_keeps_no_descriptor_that_it_was_given(child):
    descriptors = Path(f"/proc/{child.process.pid}/fd")
    child.inspect(CAT)
    before = len([*descriptors.iterdir()])
    for _ in range(40):
        found = child.inspect(CAT)
        child.prepare(CAT, found.sha256, (64, 64))
    assert len([*descriptors.iterdir()]) == before


def test_it_ends_with_its_channel(child):
    assert child.close() == 0


def test_it_ignores_an_interrupt_and_heeds_a_termination(child):
    child.process.send_signal(signal.SIGINT)
    assert isinstance(child.inspect(CAT), Inspected)
    child.process.terminate()
    assert child.receive() is None
    assert child.close() == -signal.SIGTERM


def test_what_it_prints_never_reaches_stdout(child, tmp_path):
    broken, png = tmp_path / "broken.png", bytearray(encoded(scene(), "PNG"))
    png[100] ^= 0xFF  # not in step with its checksum, which is put right
    broken.write_bytes(checked(bytes(png)))
    assert isinstance(child.inspect(broken), Rejected)
    child.socket.shutdown(socket.SHUT_RDWR)
    printed, logged = child.process.communicate(timeout=20)
    assert printed == b""
    assert b"broken" in logged


@pytest.mark.parametrize(
    "request_", [Load(model="micro", device="cpu", dtype="float32"), Inspect(), Cancel(job="7")]
)
def test_asked_for_what_it_cannot_do_it_ends(child, request_):
    assert child.ask(request_) is None
    assert child.close() == 1


def bomb(side: int) -> bytes:
    """A sound PNG of side x side pixels in a few kilobytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, 16)).save(buffer, "PNG")
    head = bytearray(buffer.getvalue()[:33])
    head[20:24] = side.to_bytes(4, "big")
    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    squeeze = zlib.compressobj(9)
    row = b"\0" * (1 + 3 * side)
    body = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return len(content).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")

    return bytes(head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.slow
def test_a_bomb_within_the_pixels_is_stopped_by_memory_and_costs_itself_alone(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(12_000))
    assert path.stat().st_size < 1_000_000
    with Child(**{MEMORY: "400"}) as child:
        reply = child.inspect(path)
        words = "the picture needs more memory than the 400 MiB it may have"
        assert reply == Rejected(reason=words)
        assert isinstance(child.inspect(CAT), Inspected)


def test_the_pixels_can_be_limited():
    with Child(**{PIXELS: "50000"}) as child:
        reply = child.inspect(CAT)
        words = "the picture has too many pixels; allowed: up to 0.05 million"
        assert reply == Rejected(reason=words)


def test_a_large_picture_is_fine_under_the_default_limits(child, tmp_path):
    path = tmp_path / "large.jpg"
    Image.new("RGB", (12_000, 9_000), "teal").save(path, quality=80)
    found = child.inspect(path)
    assert isinstance(found, Inspected), found
    assert (found.width, found.height) == (12_000, 9_000)
    child.prepare(path, found.sha256, (512, 512))
    status = Path(f"/proc/{child.process.pid}/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
    assert peak < 300, f"{peak} MiB"  # the decoder shrinks a JPEG by itself


def test_it_imports_nothing_heavy():
    code = "import pipeline.image, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert out.stdout == b"False False\n"
