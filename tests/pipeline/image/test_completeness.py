"""Half copies: cut, not written to the end, or with a hole; and what only looks like one.

Strictly, a picture is accepted only with the pixels of the whole file. Leniently, what lacks only
its end is too, and black areas of formats that do not pack.
"""

import hashlib
import io
import random
import struct
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.image.decode import decode
from pipeline.image.errors import CUT, DAMAGED, EMPTY, ImageRejected
from tests.fuzz.corpus import corpus, encoded, scene
from tests.pipeline import hostile

CAT = Path(__file__).parents[3] / "daemon" / "samples" / "cat.jpg"
PLAIN = ("bmp", "bmp-palette", "tiff", "tiff-pages")
"""Formats of the corpus that do not pack: black and a hole are the same there."""


@cache
def sound() -> dict[str, bytes]:
    """The corpus, and a sharp photograph in the ways that the formats offer."""
    with Image.open(CAT) as opened:
        cat = opened.convert("RGB").resize((200, 150))
    # without the corpus's EXIF, damage to which is none to the pixels
    bare = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF"}
    return (
        corpus()
        | {name: encoded(scene(), kind) for name, kind in bare.items()}
        | {
            "cat-jpeg": encoded(cat, "JPEG"),
            "cat-jpeg-sharp": encoded(cat, "JPEG", quality=95, subsampling=0),
            "cat-jpeg-optimized": encoded(cat, "JPEG", optimize=True),
            "cat-jpeg-progressive": encoded(cat, "JPEG", progressive=True),
            "cat-jpeg-restarts": encoded(cat, "JPEG", restart_marker_rows=1, quality=90),
            "cat-png": encoded(cat, "PNG"),
            "cat-webp": encoded(cat, "WEBP"),
            "cat-webp-lossless": encoded(cat, "WEBP", lossless=True),
            "cat-tiff-lzw": encoded(cat, "TIFF", compression="tiff_lzw"),
            "cat-tiff-packbits": encoded(cat, "TIFF", compression="packbits"),
            "cat-tiff-deflate": encoded(cat, "TIFF", compression="tiff_adobe_deflate"),
            "cat-tiff-zstd": encoded(cat, "TIFF", compression="zstd"),
            "cat-tiff-jpeg": encoded(cat, "TIFF", compression="jpeg"),
            "cat-tiff-big": encoded(cat, "TIFF", big_tiff=True, compression="tiff_lzw"),
            "cat-gif": encoded(cat, "GIF"),
            "cat-bmp": encoded(cat, "BMP"),
            "cat-heic": encoded(cat, "HEIF"),
            "cat-avif": encoded(cat, "AVIF", speed=9),
        }
    )


def pixels(data: bytes, *, lenient: bool = False) -> str:
    """A digest of the decoded pixels. Raises ImageRejected."""
    picture = decode(data, needed=9999, lenient=lenient)
    return hashlib.sha256(picture.image.tobytes()).hexdigest()


@cache
def whole(name: str) -> str:
    return pixels(sound()[name], lenient=True)


def assert_whole_or_incomplete(name: str, data: bytes, what: str) -> None:
    try:
        found = pixels(data)
    except ImageRejected as error:
        assert str(error) in (CUT, DAMAGED, EMPTY), what
        assert error.incomplete, what
    else:
        assert found == whole(name), f"{name}: {what} was accepted"


@pytest.mark.parametrize("name", sound())
def test_cut_anywhere_it_is_refused_or_whole(name: str) -> None:
    data, rng = sound()[name], random.Random(name)
    points = {1, 2, 3, 10, *(rng.randrange(1, len(data)) for _ in range(25))}
    for end in sorted(points | {len(data) - back for back in (1, 2, 3, 4, 8, 12, 13)}):
        assert_whole_or_incomplete(name, data[:end], f"cut at {end}")


@pytest.mark.parametrize("name", sound())
def test_full_in_size_but_zeros_from_anywhere_it_is_refused_or_whole(name: str) -> None:
    data, rng = sound()[name], random.Random(name)
    points = {0, 1, 2, 3, 10, *(rng.randrange(1, len(data)) for _ in range(25)), len(data) // 2}
    for begin in sorted(points | {len(data) - back for back in (6, 8, 12, 13, 16, 40)}):
        if "webp" in name and begin > len(data) - 8:  # its coder may end in some zeros
            continue
        what = f"zeros from {begin}"
        assert_whole_or_incomplete(name, data[:begin] + bytes(len(data) - begin), what)


@pytest.mark.parametrize("name", sound())
def test_with_a_hole_anywhere_it_is_refused_or_whole(name: str) -> None:
    data, rng = sound()[name], random.Random(name)
    least = 64 if "webp" in name else 16  # lossy WebP has runs of zeros itself
    for _ in range(30):
        begin = rng.randrange(len(data) - least)
        end = min(len(data), begin + rng.randrange(least, least + 1 + len(data) // 3))
        hole = data[:begin] + bytes(end - begin) + data[end:]
        assert_whole_or_incomplete(name, hole, f"hole {begin}..{end}")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_half_copies_of_any_kind(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(sound())))
    content = sound()[name]
    begin = data.draw(st.integers(0, len(content) - 64))
    end = data.draw(st.sampled_from([begin + 64, len(content), min(len(content), begin + 512)]))
    half = content[:begin] + bytes(end - begin) + content[end:]
    assert_whole_or_incomplete(name, half[: data.draw(st.integers(end, len(half)))], "half")


# --- what is whole


@pytest.mark.parametrize("name", sorted(sound().keys() - set(PLAIN)))
def test_what_is_whole_is_accepted_at_the_first_look(name: str) -> None:
    assert pixels(sound()[name]) == whole(name)


@pytest.mark.parametrize("name", sorted(sound().keys() - set(PLAIN)))
@pytest.mark.parametrize("tail", [bytes(5000), b"SEFT trailer" * 50], ids=["zeros", "other"])
def test_what_follows_the_end_does_not_matter(name: str, tail: bytes) -> None:
    """Motion photos, second views, gain maps and a sector's padding follow the picture's end."""
    assert pixels(sound()[name] + tail) == whole(name)
    if not name.startswith(("heic", "avif", "cat-heic", "cat-avif")):
        assert pixels(sound()[name] + sound()[name]) == whole(name)


COLOURS = {"white": (255,) * 3, "black": (0,) * 3, "grey": (128,) * 3, "red": (200, 3, 9)}
CODERS: dict[str, tuple[str, dict[str, object]]] = {
    "jpeg": ("JPEG", {}),
    "jpeg-optimized": ("JPEG", {"optimize": True}),
    "jpeg-progressive": ("JPEG", {"progressive": True}),
    "jpeg-restarts": ("JPEG", {"restart_marker_rows": 1, "optimize": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "webp-lossless": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "avif": ("AVIF", {"speed": 10}),
    "heic": ("HEIF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff-packbits": ("TIFF", {"compression": "packbits"}),
    "tiff-deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff-zstd": ("TIFF", {"compression": "zstd"}),
    "tiff-lzma": ("TIFF", {"compression": "lzma"}),
    "tiff-jpeg": ("TIFF", {"compression": "jpeg"}),
}


def even(colour: str, side: int, photo: bool) -> Image.Image:
    """A picture of one colour, with a photograph in its middle or without."""
    image = Image.new("RGB", (side, side), COLOURS[colour])
    if photo:
        with Image.open(CAT) as cat:
            image.paste(cat.convert("RGB").resize((side // 3, side // 3)), (side // 3, side // 3))
    return image


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("photo", [False, True])
def test_even_areas_are_no_holes(coder: str, colour: str, photo: bool) -> None:
    kind, options = CODERS[coder]
    data = encoded(even(colour, 600, photo), kind, **options)
    found = pixels(data, lenient=True)
    if coder not in ("webp", "tiff-zstd", "tiff-lzma"):  # which may end in zeros, or hold some
        assert pixels(data) == found


@pytest.mark.parametrize("coder", ["jpeg-optimized", "jpeg-progressive", "jpeg-restarts", "webp"])
@pytest.mark.parametrize("colour", ["white", "red"])
def test_a_hole_beside_even_areas_is_seen(coder: str, colour: str) -> None:
    kind, options = CODERS[coder]
    data = encoded(even(colour, 600, photo=True), kind, **options)
    for part in (0.35, 0.45, 0.55, 0.65):
        begin = int(len(data) * part)
        hole = data[:begin] + bytes(2000) + data[begin + 2000 :]
        try:
            found = pixels(hole, lenient=coder == "webp")
        except ImageRejected:
            continue
        assert found == pixels(data, lenient=True), f"at {part}"


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("photo", [False, True])
def test_black_without_packing_is_accepted_at_the_second_look(
    kind: str, colour: str, photo: bool
) -> None:
    data = encoded(even(colour, 301, photo), kind)
    pixels(data, lenient=True)
    if colour == "black":
        with pytest.raises(ImageRejected, match="only zeros") as caught:
            pixels(data)
        assert caught.value.incomplete


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_a_torn_picture_is_refused_at_the_second_look_too(kind: str) -> None:
    """A hole begins and ends within a row; a black area does not."""
    with Image.open(CAT) as opened:
        data = encoded(opened.convert("RGB").resize((201, 150)), kind)
    for begin, end in ((len(data) // 2, len(data)), (20_001, 40_001), (300, 60_001)):
        with pytest.raises(ImageRejected, match="only zeros"):
            pixels(data[:begin] + bytes(end - begin) + data[end:], lenient=True)


def test_a_hole_of_whole_sectors_is_refused_at_the_second_look_too() -> None:
    for kind in ("BMP", "TIFF"):
        data = encoded(scene((300, 300)), kind)
        for begin, end in ((4096, 12288), (131072, len(data))):
            with pytest.raises(ImageRejected, match="only zeros"):
                pixels(data[:begin] + bytes(end - begin) + data[end:], lenient=True)


# --- only the end is missing


@pytest.mark.parametrize("name", [n for n in sound() if "jpeg" in n and "tiff" not in n])
@pytest.mark.parametrize("end", [b"", b"\xff", bytes(2), bytes(4096)], ids=len)
def test_a_jpeg_that_lacks_its_end_marker_alone_is_accepted_at_the_second_look(
    name: str, end: bytes
) -> None:
    data = sound()[name][:-2] + end
    with pytest.raises(ImageRejected, match="the end of the picture is missing") as caught:
        pixels(data)
    assert caught.value.incomplete
    assert pixels(data, lenient=True) == whole(name)


@pytest.mark.parametrize("name", [n for n in sound() if "jpeg" in n and "tiff" not in n])
def test_a_trailer_in_the_place_of_the_end_marker_is_no_damage(name: str) -> None:
    """Panoramas of some phones: a film follows the codes, and no end marker is anywhere."""
    film = b"\0\0\x0a\x08\0\0" + random.Random(1).randbytes(20_000).replace(b"\xff\xd9", b"")
    data = sound()[name][:-2] + film
    with pytest.raises(ImageRejected):
        pixels(data)
    assert pixels(data, lenient=True) == whole(name)


@pytest.mark.parametrize("name", [n for n in sound() if "jpeg" in n and "tiff" not in n])
def test_a_jpeg_that_lacks_pixels_is_refused_at_the_second_look_too(name: str) -> None:
    data = sound()[name]
    for back in (10, 40, len(data) // 4):
        for half in (data[:-back], data[:-back] + bytes(back)):
            with pytest.raises(ImageRejected):
                pixels(half, lenient=True)


@pytest.mark.parametrize("name", ["png", "png-palette", "png-film", "gif", "gif-film"])
def test_a_first_frame_without_the_end_is_accepted_at_the_second_look(name: str) -> None:
    data = sound()[name][: -12 if "png" in name else -1]
    with pytest.raises(ImageRejected, match="the end of the picture is missing"):
        pixels(data)
    assert pixels(data, lenient=True) == whole(name)


# --- what the reason says


def test_each_damage_has_its_own_sentence() -> None:
    data = sound()["cat-png"]
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for content, words in (
        (data[:-100], CUT),
        (data[:20_000] + bytes(len(data) - 20_000), EMPTY),
        (bytes(flipped), DAMAGED),
        (bytes(len(data)), EMPTY),
        (bytes(8192) + data[8192:], EMPTY),
    ):
        with pytest.raises(ImageRejected) as caught:
            pixels(content)
        assert str(caught.value) == words


def with_frame(marker: int, precision: int = 8, channels: int = 3) -> bytes:
    """The head of a JPEG of this kind."""
    frame = struct.pack(">BHHB", precision, 64, 64, channels) + b"\1\x11\0" * channels
    plain = encoded(scene(), "JPEG")
    return plain[:2] + hostile.with_segment(b"\xff\xd8", marker, frame)[2:] + plain[2:]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (with_frame(0xC3), "lossless"),
        (with_frame(0xC5), "hierarchical"),
        (with_frame(0xCB), "lossless"),
        (with_frame(0xC1, precision=12), "12-bit"),
        (with_frame(0xC2, precision=12), "12-bit"),
        (with_frame(0xC0, channels=2), "2 colour channels"),
        (with_frame(0xC0, channels=5), "5 colour channels"),
    ],
)
def test_a_jpeg_of_a_rare_kind_is_called_that(data: bytes, kind: str) -> None:
    with pytest.raises(ImageRejected) as caught:
        pixels(data)
    assert f"({kind})" in str(caught.value)
    assert "export it" in str(caught.value)
    assert not caught.value.incomplete


def test_a_raw_file_is_not_taken_for_its_thumbnail() -> None:
    out = io.BytesIO()
    scene().save(out, "TIFF", tiffinfo={50706: b"\1\4\0\0"})
    with pytest.raises(ImageRejected, match="a raw file of a camera"):
        pixels(out.getvalue())


# --- time


def test_a_tiff_of_many_overlapping_strips_takes_no_time() -> None:
    count = 100_000
    size = 2_000_000
    head = b"II*\0\x08\0\0\0"
    entries = ((256, 4, 1, 64), (257, 4, 1, count), (259, 3, 1, 5), (273, 4, count, 200),
               (278, 4, 1, 1), (279, 4, count, 200 + 4 * count))  # fmt: skip
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    data = (head + ifd + bytes(4)).ljust(200, b"\0")
    data += struct.pack(f"<{count}I", *[200] * count) + struct.pack(f"<{count}I", *[size] * count)
    with pytest.raises(ImageRejected):
        pixels(data + b"\1" * size)
