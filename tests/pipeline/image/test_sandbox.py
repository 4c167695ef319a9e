"""The sandbox of the picture child, tried from within by what code that took it over would do."""

import asyncio
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from pipeline.children import image_lane, process
from pipeline.children.clean_picture import pixel_memory
from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.image_pool import ImagePool, PoisonImage
from pipeline.children.process import Exited, TimedOut
from pipeline.children.protocol import Hello, Inspected, Prepare, Rejected, Reply
from tests.fuzz.corpus import corpus, encoded, scene
from tests.pipeline import hostile
from tests.pipeline.children.test_image_pool import CAT, Child
from tests.pipeline.image.attack import ATTACKS, GOT_IN, Outcome
from tests.system.needs import needs

ROOT = Path(__file__).parents[3]
ALLOWED = ["start_a_thread", "read_the_picture", "use_memory"]
OF_ROOT = ["mount", "change_the_root", "load_a_program_into_the_kernel", "catch_page_faults"]
"""Attacks that only root could carry out."""
REFUSED = [
    "read_a_file", "read_by_openat2", "list_a_folder", "look_at_a_file", "look_by_statx",
    "write_a_file", "open_the_picture_again", "read_the_environment_of_the_parent",
    "clone_by_clone3", "raise_its_limits", "limit_another", "run_new_code",
    "make_data_executable", "control_a_device",
]  # fmt: skip
"""Attacks that are refused, and do not end the process."""
OF_LANDLOCK = [
    "read_a_file", "list_a_folder", "write_a_file", "make_a_folder", "remove_a_file",
    "rename_a_file", "link_a_file", "make_a_pipe_on_disk", "start_a_program", "connect",
    "kill_another", "kill_the_parent", "trace_another", "open_the_picture_again",
    "read_the_memory_of_another", "mount",
]  # fmt: skip
"""Attacks that Landlock refuses where there is no seccomp."""


BAD = [each for each in ATTACKS if each not in (*ALLOWED, "abort")]
FILES = ["old", "picture"]

Tried = Callable[[str, str], Outcome]


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """What came of an attack in some layers of the sandbox."""

    @cache
    def run(layers: str) -> dict[str, list[object]]:
        folder = tmp_path_factory.mktemp(layers)
        module = ("-m", "tests.pipeline.image.attack", layers, str(folder))
        told = subprocess.run(
            [sys.executable, *module], cwd=ROOT, stdout=subprocess.PIPE, timeout=120, check=True
        )
        return json.loads(told.stdout)

    return lambda layers, what: Outcome(*run(layers)[what])


@pytest.mark.parametrize("what", BAD)
def test_what_succeeds_outside_fails_within(tried: Tried, what: str) -> None:
    if what not in OF_ROOT or os.geteuid() == 0:
        outside = tried("none", what)
        assert (outside.returncode, outside.said) == (0, f"{GOT_IN}\n")
    inside = tried("landlock+seccomp", what)
    assert GOT_IN not in inside.said
    assert inside.returncode == (3 if what in REFUSED else -signal.SIGSYS), inside
    assert (inside.victim_lives, inside.files) == (True, FILES)


@pytest.mark.parametrize("what", OF_LANDLOCK)
def test_landlock_alone_refuses_too(tried: Tried, what: str) -> None:
    inside = tried("landlock", what)
    assert GOT_IN not in inside.said
    assert inside.returncode == 3, inside
    assert (inside.victim_lives, inside.files) == (True, FILES)


@pytest.mark.parametrize("what", BAD)
def test_seccomp_alone_refuses_too(tried: Tried, what: str) -> None:
    inside = tried("seccomp", what)
    assert inside.returncode == (3 if what in REFUSED else -signal.SIGSYS), inside
    assert (inside.victim_lives, inside.files) == (True, FILES)


@pytest.mark.parametrize("what", ALLOWED)
@pytest.mark.parametrize("layers", ["none", "landlock+seccomp"])
def test_what_decoders_need_is_allowed(tried: Tried, what: str, layers: str) -> None:
    assert tried(layers, what)[:2] == (0, f"{GOT_IN}\n")


def test_a_decoder_that_aborts_is_seen_as_that(tried: Tried) -> None:
    assert tried("landlock+seccomp", "abort").returncode == -signal.SIGABRT


# --- the real child in it


def press(charset: bytes, words: bytes) -> bytes:
    """A JPEG with a caption of the press (IPTC), and the escape sequence of its character set."""
    named = b"\x1c\x01\x5a" + struct.pack(">H", len(charset)) + charset
    record = named + b"\x1c\x02\x78" + struct.pack(">H", len(words)) + words
    block = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + record
    return hostile.with_segment(encoded(scene(), "JPEG"), 0xED, block + b"\0" * (len(record) % 2))


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with Child() as child:
        yield child


@pytest.mark.parametrize(
    ("charset", "encoding", "words"),
    [
        (b"\x1b%G", "utf-8", "Möwen über 東京"),
        (b"\x1b-A", "iso8859-1", "Möwen"),
        (b"\x1b-B", "iso8859-2", "Łódź"),
        (b"\x1b-C", "iso8859-3", "Ĝardeno"),
        (b"\x1b-D", "iso8859-4", "Rīga"),
        (b"\x1b-L", "iso8859-5", "Чайки"),
        (b"\x1b-G", "iso8859-6", "نورس"),
        (b"\x1b-F", "iso8859-7", "Γλάροι"),
        (b"\x1b-H", "iso8859-8", "שחף"),
        (b"\x1b-M", "iso8859-9", "Mart\u0131"),
        (b"\x1b.V", "iso8859-10", "Máŋga"),
        (b"", "cp1252", "Möwen\u2026"),
        (b"", "latin-1", "\x81 M\xf6wen"),
    ],
)
def test_a_caption_in_any_encoding_is_read_in_it(
    child: Child, tmp_path: Path, charset: bytes, encoding: str, words: str
) -> None:
    """Python imports an encoding when it is first used, and there is nothing to import from."""
    path = tmp_path / "a.jpg"
    path.write_bytes(press(charset, words.encode(encoding)))
    found = child.inspect(path)
    assert isinstance(found, Inspected), found
    assert found.caption == words.replace("\x81", "").strip()


def pictures() -> dict[str, bytes]:
    """Sound pictures in all formats, with captions of all kinds, and damaged ones."""
    title = Image.Exif()
    title[ExifTags.Base.XPTitle] = "Ein Segelboot".encode("utf-16-le") + b"\0\0"
    sound = corpus()
    cut = {f"{name}-cut": data[: len(data) // 2] for name, data in sound.items()}
    odd = {f"{name}-odd": data[:60] + b"\xff" * 40 + data[100:] for name, data in sound.items()}
    return {
        **sound,
        **cut,
        **odd,
        "jpeg-title": encoded(scene(), "JPEG", exif=title),
        "tiff-bomb": hostile.claiming("TIFF"),
        "text": b"hello",
    }


def test_nothing_is_opened_for_any_picture(tmp_path: Path) -> None:
    """The sandbox would refuse it, and an import that was left for later would fail."""
    strace = needs("strace", package="strace")
    trace = tmp_path / "trace"
    calls = "trace=%file,/socket,/exec,/fork,/ioctl"
    with Child(strace, "-f", "-o", str(trace), "-e", calls, "-e", "signal=none") as child:
        before = len(trace.read_text().splitlines())
        for name, data in pictures().items():
            path = tmp_path / name
            path.write_bytes(data)
            found = child.inspect(path)
            assert isinstance(found, (Inspected, Rejected)), name
            if isinstance(found, Inspected):
                child.prepare(path, found.sha256, (64, 48))
        assert child.close() == 0
    after = trace.read_text().splitlines()[before:]
    # fstat of an open descriptor, whose failure is no error; strace may split it in two lines
    harmless = ("exited with", '"", ', "AT_EMPTY_PATH")
    assert [line for line in after if not any(each in line for each in harmless)] == []
    assert before > 100


def test_a_forbidden_call_is_the_cause_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_lane, "_MODULE", "tests.pipeline.image.burglar")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    losses: list[ChildFailure] = []

    async def inspect() -> object:
        pool = ImagePool(lambda _: None, losses.append)
        try:
            return await pool.inspect(CAT)
        finally:
            await pool.close()

    found = asyncio.run(inspect())
    assert isinstance(found, PoisonImage)
    assert [loss.cause for loss in losses] == ["forbidden_call", "forbidden_call"]
    assert "a system call that its sandbox forbids" in losses[0].reason
    assert "journalctl -k" in losses[0].advice


def test_a_child_whose_parent_stands_still_stops_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent would end it by a timeout."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    async def run() -> Exited | TimedOut | Reply:
        env = {"PYTHONPATH": str(ROOT)}
        child = await process.Child.spawn("tests.pipeline.image.burglar", lambda _: None, env)
        assert isinstance(await child.receive(60), Hello)
        child.limit_cpu(0.1)
        with CAT.open("rb") as picture, pixel_memory(64, 64) as pixels:
            request = Prepare(sha256="", width=64, height=64, framing="crop")
            await child.send(request, [picture.fileno(), pixels])
            return await child.receive(60)

    assert "SIGXCPU" in str(asyncio.run(run()))


def test_a_child_has_no_more_of_the_environment_than_it_needs() -> None:
    """The parent's has the password of a shared queue."""
    ours = {
        "I2VD_QUEUE__URL": "postgresql://i2vd:secret@db/i2vd",
        "I2VD_PICTURE_PIXELS": "1000000",
    }

    async def environment() -> bytes:
        pool = ImagePool(print, print)
        await pool.start()
        child = pool._fast._child
        assert child is not None
        try:
            return Path(f"/proc/{child.pid}/environ").read_bytes()
        finally:
            await pool.close()

    with pytest.MonkeyPatch.context() as patched:
        for name, value in ours.items():
            patched.setenv(name, value)
        told = asyncio.run(environment()).decode()
    names = {each.partition("=")[0] for each in told.split("\0") if each}
    assert {"I2VD_CHANNEL", "I2VD_PICTURE_PIXELS"} <= names
    assert names <= {"I2VD_CHANNEL", *image_lane._ENVIRONMENT}
    assert "secret" not in told
