"""Pictures of somebody who means harm, through the real child under its real limits."""

import asyncio
import contextlib
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.image_pool import ImagePool, PoisonImage
from pipeline.children.protocol import Inspected, Rejected, Unavailable
from pipeline.image.errors import CUT, DAMAGED, EMPTY, unsupported
from pipeline.image.limits import MEMORY
from pipeline.request.presets import MICRO_FAMILY
from pipeline.request.spec import Request, resolve
from tests.fuzz.corpus import checked, corpus, encoded, parts, scene
from tests.fuzz.mutate import Mutant, mutant
from tests.fuzz.pictures import Fuzz, child_status
from tests.pipeline import hostile

ROOT = Path(__file__).parents[3]
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "HEIF", "AVIF"]
PIXELS = "the picture has too many pixels; allowed: up to 200 million"
SPEC = resolve(
    Request(preset="draft"), MICRO_FAMILY, source=(48, 40), sha256="", rng=random.Random(0)
)


def picture_children() -> set[str]:
    """The process ids of this process's picture children that are alive, of any desk."""
    me, found = f"\nPPid:\t{os.getpid()}\n", set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                me in (folder / "status").read_text()
                and b"pipeline.image" in (folder / "cmdline").read_bytes()
            ):
                found.add(folder.name)
    return found


class Desk:
    """The daemon's decoder, asked of bytes. `losses`: the children that it lost."""

    def __init__(self, folder: Path) -> None:
        self.losses: list[ChildFailure] = []
        self._folder = folder
        self._runner = asyncio.Runner()
        self._decoder = ImagePool(lambda _: None, self.losses.append)
        self._others = picture_children()

    def children(self) -> int:
        """Its picture children that are alive."""
        return len(picture_children() - self._others)

    def inspect(
        self, data: bytes, name: str = "picture.jpg", *, lenient: bool = False
    ) -> Inspected | Rejected | Unavailable:
        path = self._folder / name
        path.write_bytes(data)
        return self._runner.run(self._decoder.inspect(path, lenient=lenient))

    def inspect_quickly(self, data: bytes) -> Inspected | Rejected | Unavailable | None:
        path = self._folder / "picture.jpg"
        path.write_bytes(data)
        return self._runner.run(self._decoder.inspect_quickly(path))

    def kill_children(self) -> int:
        """Kill its picture children, wait until they are gone, and return how many there were."""
        pids = picture_children() - self._others
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
        while self.children():
            time.sleep(0.01)
        self._runner.run(asyncio.sleep(0.01))  # a daemon's loop turns all the time
        return len(pids)

    def refusal(self, data: bytes) -> str:
        """Why it is refused; no child was lost by it."""
        found = self.inspect(data)
        assert isinstance(found, Rejected), found
        assert not self.losses
        return found.reason

    def prepared(self, data: bytes) -> bytes:
        """The clean PNG of a picture that is accepted."""
        assert isinstance(self.inspect(data), Inspected)
        output = self._folder / "clean.png"
        output.unlink(missing_ok=True)
        sha256 = hashlib.sha256(data).hexdigest()
        picture = self._folder / "picture.jpg"
        self._runner.run(self._decoder.prepare(picture, sha256, SPEC, output))
        return output.read_bytes()

    def close(self) -> None:
        self._runner.run(self._decoder.close())
        self._runner.close()


Open = Callable[[], Desk]


@pytest.fixture
def open_desk(tmp_path: Path) -> Iterator[Open]:
    opened: list[Desk] = []

    def make() -> Desk:
        opened.append(Desk(tmp_path))
        return opened[-1]

    yield make
    for desk in opened:
        desk.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One child for all pictures that should do it no harm: each test asks what the others left."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    yield desk
    assert not desk.losses
    desk.close()


# --- cut short


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_cut_anywhere_is_refused_or_whole(desk: Desk, kind: str) -> None:
    data = encoded(scene((160, 120)), kind)
    whole = desk.prepared(data)
    lengths = {1, 2, 3, 10, 100, *(len(data) * i // 45 for i in range(1, 45)), len(data) - 1}
    for length in sorted(lengths):
        cut = data[:length]
        if isinstance(found := desk.inspect(cut), Rejected):
            assert found.reason in (CUT, DAMAGED, EMPTY)
            assert found.incomplete
        else:
            assert desk.prepared(cut) == whole, f"{length} of {len(data)} bytes"
    assert not desk.losses


# --- bombs


@pytest.mark.parametrize("kind", FORMATS)
def test_a_tiny_file_that_claims_a_huge_picture_is_refused(desk: Desk, kind: str) -> None:
    bomb = hostile.claiming(kind)
    assert len(bomb) < 10_000
    words = {"AVIF": DAMAGED, "BMP": CUT}  # libavif has its own say, a BMP counts its bytes
    assert desk.refusal(bomb) == words.get(kind, PIXELS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (b"zTXt", b"x\0\0" + zlib.compress(bytes(10**8))),
        (b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(10**8))),
        (b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8))),
    ],
)
def test_a_text_that_unpacks_to_a_hundred_megabytes_takes_nothing_from_the_picture(
    desk: Desk, name: bytes, content: bytes
) -> None:
    sound = encoded(scene(), "PNG")
    bomb = hostile.with_chunk(sound, hostile.chunk(name, content))
    assert desk.prepared(bomb) == desk.prepared(sound)
    assert child_status("VmHWM") < 150 * 2**20


def test_a_hundred_texts_of_a_megabyte_take_nothing_from_the_picture(desk: Desk) -> None:
    text = hostile.chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10**6)))
    sound = encoded(scene(), "PNG")
    assert desk.prepared(hostile.with_chunk(sound, text * 100)) == desk.prepared(sound)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_a_huge_colour_profile_takes_nothing_from_the_picture(desk: Desk, kind: str) -> None:
    plain = encoded(scene(), kind)
    profile = random.Random(0).randbytes(8_000_000)
    assert desk.prepared(encoded(scene(), kind, icc_profile=profile)) == desk.prepared(plain)


def test_an_endless_exif_takes_nothing_from_the_picture(desk: Desk) -> None:
    plain = encoded(scene(), "JPEG")
    entry = b"\x0e\x01\x02\x00" + (50_000).to_bytes(4, "little") + (14).to_bytes(4, "little")
    exif = b"Exif\0\0II*\0\x08\0\0\0" + (5000).to_bytes(2, "little") + entry * 5000
    for times in (1, 100):
        data = hostile.with_segment(plain, 0xE1, exif, times)
        assert desk.prepared(data) == desk.prepared(plain)
        found = desk.inspect(data)
        assert isinstance(found, Inspected)
        assert len(found.caption) <= 500


def test_of_ten_thousand_frames_only_the_first_is_decoded(open_desk: Open) -> None:
    desk = open_desk()
    film = hostile.film_of(10_000)
    first = desk.prepared(encoded(scene(), "GIF"))
    before = child_status("VmHWM")
    assert desk.prepared(film) == first
    assert child_status("VmHWM") - before < 3 * len(film)


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "AVIF"])
def test_an_animation_is_its_first_frame(desk: Desk, kind: str) -> None:
    frames = [scene().rotate(turn) for turn in range(0, 360, 6)]
    lossless = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(kind, {})
    film = encoded(scene(), kind, save_all=True, append_images=frames, duration=10, **lossless)
    with Image.open(io.BytesIO(desk.prepared(film))) as one, scene() as other:
        assert one.size == (SPEC.width, SPEC.height)
        away = [
            abs(a - b)
            for a, b in zip(
                one.convert("L").resize((4, 4)).tobytes(),
                other.convert("L").crop((4, 0, 44, 40)).resize((4, 4)).tobytes(),
                strict=True,
            )
        ]
    assert max(away) < 16


# --- what is damaged on purpose


def test_a_tiff_that_leads_in_a_circle_is_its_first_page(desk: Desk) -> None:
    assert desk.prepared(hostile.cyclic_tiff()) == desk.prepared(encoded(scene(), "TIFF"))


@pytest.mark.parametrize("packed", [None, "tiff_lzw"])
@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [
        (273, 4, 0x3FFFFFFF, 8),  # offsets of strips
        (279, 4, 0x3FFFFFFF, 8),  # their lengths
        (278, 4, 1, 0),  # rows in a strip
        (258, 3, 1, 64),  # bits in a sample
        (277, 3, 1, 65535),  # samples in a pixel
    ],
)
def test_a_tiff_with_mad_numbers_is_refused(
    desk: Desk, packed: str | None, tag: int, kind: int, count: int, value: int
) -> None:
    options = {"compression": packed} if packed else {}
    sound = encoded(scene(), "TIFF", **options)
    found = desk.inspect(hostile.with_tag(sound, tag, kind, count, value))
    if isinstance(found, Rejected):
        rare = unsupported("TIFF", "RGB, 64-bit")
        assert found.reason in (CUT, DAMAGED, EMPTY, str(rare))
    else:  # libtiff counts the rows of a strip, and the lengths, itself
        assert (tag, (found.width, found.height)) in [(278, (48, 40)), (279, (48, 40))]
    assert not desk.losses


def test_a_palette_that_is_missing_is_damage(desk: Desk) -> None:
    sound = corpus()["png-palette"]
    ((begin, end),) = [(a, b) for a, b in parts(sound) if sound[a + 4 : a + 8] == b"PLTE"]
    assert desk.refusal(sound[:begin] + sound[end:]) == DAMAGED


def test_boxes_in_boxes_are_refused(desk: Desk) -> None:
    assert desk.refusal(hostile.boxes_in_boxes()) in (CUT, DAMAGED, EMPTY)


def test_bad_restart_markers_end_in_a_picture_of_the_right_size_or_a_refusal(desk: Desk) -> None:
    """No decoder can tell which of the blocks are the right ones; none may leave the picture."""
    found = desk.inspect(hostile.bad_restarts())
    assert isinstance(found, Rejected) or (found.width, found.height) == (96, 96)
    assert not desk.losses


@pytest.mark.slow
def test_a_slow_picture_is_put_aside_and_the_next_is_seen(
    open_desk: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = open_desk()
    sound = encoded(scene(), "JPEG")
    desk.prepared(sound)
    for limit in ("_FAST_TIMEOUT_SECONDS", "_SLOW_TIMEOUT_SECONDS"):
        monkeypatch.setattr(f"pipeline.children.image_pool.{limit}", 0.51)
    found = desk.inspect(hostile.slow_jpeg())
    assert isinstance(found, PoisonImage)
    assert found.reason == "the picture decoder hung in reading it: silent for 1 s, 2 times"
    assert [loss.cause for loss in desk.losses] == ["hang", "hang"]
    monkeypatch.setattr("pipeline.children.image_pool._FAST_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr("pipeline.children.image_pool._SLOW_TIMEOUT_SECONDS", 60)
    assert isinstance(desk.inspect(hostile.slow_jpeg()), Inspected)  # given time, it is a picture
    assert desk.children() == 0
    monkeypatch.undo()
    assert isinstance(desk.inspect(sound), Inspected)
    assert desk.children() == 1


# --- one file in another


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("evil.sh", "SECRET")
    return out.getvalue()


def polyglots() -> dict[str, bytes]:
    """Sound pictures that are something else too: with the word SECRET in it."""
    sound = corpus()
    exif = Image.Exif()
    exif[ExifTags.Base.Copyright] = "SECRET"
    php = b"<?php SECRET ?>"
    return {
        "jpeg and zip": sound["jpeg-cmyk"] + zipped(),
        "jpeg with metadata": encoded(scene(), "JPEG", exif=exif, comment=b"SECRET"),
        "jpeg with xmp": hostile.with_segment(
            sound["jpeg-cmyk"], 0xE1, b"http://ns.adobe.com/xap/1.0/\0SECRET"
        ),
        "gif and script": sound["gif"].replace(b"GIF87a", b"GIF89a") + b"*/=1;alert('SECRET')",
        "gif with a comment": encoded(scene(), "GIF", comment=b"SECRET"),
        "png and php": hostile.with_chunk(
            sound["png-palette"], hostile.chunk(b"tEXt", b"x\0" + php)
        )
        + php,
        "webp and html": sound["webp-lossless"] + b"<script>SECRET</script>",
        "tiff and text": sound["tiff-lzw"] + b"SECRET",
        "bmp and text": sound["bmp"] + b"SECRET",
        "avif and text": sound["avif"] + b"SECRET",
    }


@pytest.mark.parametrize("name", polyglots())
def test_of_two_files_in_one_only_the_pixels_are_left(desk: Desk, name: str) -> None:
    data = polyglots()[name]
    clean = desk.prepared(data)
    assert b"SECRET" in data
    assert b"SECRET" not in clean
    names = [clean[begin + 4 : begin + 8] for begin, _ in parts(clean)]
    assert (names[0], set(names[1:-1]), names[-1]) == (b"IHDR", {b"IDAT"}, b"IEND")
    assert parts(clean)[-1][1] == len(clean)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!doctype html><script>alert(1)</script>", "a web page; save the picture itself"),
        (b"<svg onload=alert(1)>", "an SVG or XML file; export it as JPEG or PNG"),
        (b"%PDF-1.4\n" + encoded(scene(), "JPEG"), "a PDF; export it as JPEG or PNG"),
        (zipped(), "an archive; unpack it"),
        (b"MZ\x90\0" + encoded(scene(), "PNG"), "something else"),
        (b"#!/bin/sh\nrm -rf /\n", "something else"),
    ],
)
def test_a_wrong_ending_makes_no_picture(desk: Desk, content: bytes, what: str) -> None:
    assert desk.refusal(content) == (
        f"it is not a picture in JPEG, PNG, WebP, TIFF, BMP, GIF, HEIC or AVIF, but {what}"
    )


# --- memory


def hungry(kind: str) -> bytes:
    """A sound picture that takes over ten megabytes to decode."""
    side = 1200 if kind == "HEIF" else 4000 if kind in ("GIF", "JPEG") else 2400
    mode = "P" if kind == "GIF" else "RGB"
    options = {"JPEG": {"progressive": True}, "AVIF": {"speed": 10}, "WEBP": {"method": 0}}
    return encoded(Image.new(mode, (side, side)), kind, **options.get(kind, {}))


@pytest.mark.slow
def test_what_needs_more_memory_is_refused_with_the_sentence_whatever_its_format(
    open_desk: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is one of address space, so that what is really used stays below it too."""
    sound = encoded(scene(), "PNG")
    open_desk().prepared(sound)
    limit = child_status("VmPeak") // 2**20 + 8
    monkeypatch.setenv(MEMORY, str(limit))
    desk = open_desk()
    for kind in FORMATS:
        words = f"the picture needs more memory than the {limit} MiB it may have"
        assert desk.refusal(hungry(kind)) == words, kind
        assert child_status("VmHWM") <= child_status("VmPeak") <= limit * 2**20
        assert isinstance(desk.inspect(sound), Inspected)
    assert not desk.losses


# --- the command


@pytest.mark.slow
def test_fuzzing_finds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.pictures", "--count", "400", "--seed", "5"]
    done = subprocess.run(
        [*command, "--keep", str(tmp_path / "kept")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accepted and prepared" in done.stdout
    assert not (tmp_path / "kept").exists()


def test_the_same_seed_gives_the_same_pictures() -> None:
    sound = corpus()
    time.sleep(1.1)  # some formats would tell the second in which they were made
    assert sound == corpus()
    assert [mutant(sound, 1, n) for n in range(50)] == [mutant(sound, 1, n) for n in range(50)]
    assert mutant(sound, 1, 0) != mutant(sound, 2, 0)


@pytest.mark.parametrize("name", corpus())
def test_the_corpus_is_sound_and_its_parts_are_found(desk: Desk, name: str) -> None:
    data = corpus()[name]
    plain = name.startswith(("bmp", "tiff"))  # with black in it, which may be a hole
    assert isinstance(desk.inspect(data, lenient=plain), Inspected)
    assert checked(data) == data
    if name.startswith(("jpeg", "png", "webp", "heic", "avif")):
        assert parts(data)


@pytest.mark.slow
async def test_a_picture_that_hangs_the_child_is_counted_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("_FAST_TIMEOUT_SECONDS", "_SLOW_TIMEOUT_SECONDS"):
        monkeypatch.setattr(f"pipeline.children.image_pool.{limit}", 0.51)
    slow = hostile.slow_jpeg()
    pictures = [("1-1", Mutant(slow, "slow")), ("1-2", Mutant(encoded(scene(), "PNG"), "sound"))]
    figures = await Fuzz(tmp_path, tmp_path / "kept").run(pictures)
    assert figures.counts == {"refused": 1, "accepted and prepared": 1}
    assert figures.losses == {"the picture decoder hung in reading it: silent for 1 s": 2}
    assert (tmp_path / "kept" / "1-1.bin").read_bytes() == slow
    assert not figures.complaints


def test_a_child_that_is_killed_while_idle_costs_no_picture_a_try(open_desk: Open) -> None:
    desk = open_desk()
    sound = encoded(scene(), "JPEG")
    assert isinstance(desk.inspect(sound), Inspected)
    assert desk.kill_children() == 1
    assert isinstance(desk.inspect_quickly(sound), Inspected), "no second try was needed"
    assert [failure.cause for failure in desk.losses] == ["killed"]
    assert "(in no work)" in desk.losses[0].reason
